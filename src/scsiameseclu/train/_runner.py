"""Train runner that leaves a usable model when training is cut short."""

import logging
import signal
import warnings
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from scvi.train import TrainRunner

from scsiameseclu.pp._threads import within_thread_limit
from scsiameseclu.train._hooks import NonFiniteLossError
from scsiameseclu.train._plan import SiameseTrainingPlan
from scsiameseclu.train._resume import SafeCheckpointIO

logger = logging.getLogger(__name__)


class SiameseTrainRunner(TrainRunner):
    """Run training; on an interrupt or a loss that is not finite, keep the last good weights.

    Ctrl-C ends the training, not the process: Lightning would end the Python process. SIGTERM, which schedulers send,
    ends the process: what follows in a script would go on with a half-trained model.
    """

    training_plan: SiameseTrainingPlan

    @within_thread_limit()
    def __call__(self) -> Any:
        """Train the model."""
        handler = signal.getsignal(signal.SIGINT)
        was_trained, clusters = self.model.is_trained_, self._clusters()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            self.trainer.strategy.checkpoint_io = SafeCheckpointIO()
        try:
            with warnings.catch_warnings():
                # The plan moves batches itself, and means to.
                warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
                result = super().__call__()
        except (KeyboardInterrupt, SystemExit):
            if not self.trainer.interrupted:
                raise
            if self.trainer.received_sigterm:  # a scheduler or the system wants the process to end
                logger.error("Training was ended from outside in epoch %d; the model is not trained.", self._epoch)
                raise SystemExit(128 + signal.SIGTERM) from None
            _restore_handler(handler)
            if not self._has_stepped:
                self._forget(was_trained, clusters)
                logger.warning("Training was interrupted before its first step; the model is as it was before.")
                return None
            if not self.training_plan.weights_are_finite():
                self.training_plan.restore_weights()
            logger.warning("Training was interrupted in epoch %d; the weights so far are kept.", self._epoch)
            self._rescue()
            return None
        except NonFiniteLossError:
            if self.training_plan.restore_weights():
                self._rescue()
            raise
        if not self._has_stepped:
            self._forget(was_trained, clusters)
            raise RuntimeError(
                "Expected at least one training step, found none: no batch reached the model, which is as it was "
                "before. Look at the numbers of training cells and batches (train_size, batch_size, drop_last, "
                "limit_train_batches, max_steps)."
            )
        self.model._after_training(self.training_plan)
        return result

    @property
    def _has_stepped(self) -> bool:
        return self.trainer.global_step > 0

    def _clusters(self) -> int | None:
        """Number of clusters whose centres are still to be placed; 0 if they are placed, None if it is not chosen."""
        head = self.model.module.head
        return None if head is None else 0 if head.is_initialised else head.n_clusters

    def _forget(self, was_trained: bool, clusters: int | None) -> None:
        """Undo what ending a training does to a model that was not trained."""
        self.model.is_trained_ = was_trained
        if clusters is None:
            self.model.module.head = None
        elif clusters > 0:
            self.model.module.build_head(clusters)

    @property
    def _epoch(self) -> int:
        return int(self.training_plan.current_epoch)

    def _rescue(self) -> None:
        """Do what the base class does after a complete training."""
        self.model.module.to(self.device)
        # Another process of a distributed run may be gone; waiting for its share would never end.
        self.training_plan.shares_work = False
        self.training_plan.finish()
        self.model.train_indices = self.data_splitter.train_idx
        self.model.validation_indices = self.data_splitter.val_idx
        self.model.test_indices = self.data_splitter.test_idx
        self.model.module.eval()
        self.model.is_trained_ = True
        self.model.trainer = self.trainer
        self.model._after_training(self.training_plan)


def _restore_handler(handler: Any) -> None:
    """Undo Lightning's blocking of Ctrl-C (only possible, and only done, in the main thread)."""
    try:
        signal.signal(signal.SIGINT, handler)
    except (ValueError, TypeError):
        logger.debug("Could not restore the interrupt handler.")
