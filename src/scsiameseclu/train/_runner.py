"""Train runner that leaves a usable model when training is interrupted."""

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
    """Run training. After an interrupt or a non-finite loss, the model keeps the last good weights.

    Ctrl-C ends the training and not the Python process, in contrast to Lightning's default. SIGTERM, which schedulers
    send, ends the Python process, because a script must not continue with a half-trained model.
    """

    training_plan: SiameseTrainingPlan

    @within_thread_limit()
    def __call__(self) -> Any:
        """Train the model."""
        handler = signal.getsignal(signal.SIGINT)
        was_trained, clusters = self.model.is_trained_, self._clusters()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # keep a checkpoint IO that the user chose
            self.trainer.strategy.checkpoint_io = SafeCheckpointIO()
        try:
            with warnings.catch_warnings():
                # The plan overrides this method on purpose.
                warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
                result = super().__call__()
        except (KeyboardInterrupt, SystemExit):
            if not self.trainer.interrupted:
                raise
            if self.trainer.received_sigterm:
                logger.error("Training was ended by SIGTERM in epoch %d; the model is not trained.", self._epoch)
                raise SystemExit(128 + signal.SIGTERM) from None
            _restore_handler(handler)
            if not self._has_stepped:
                self._forget(was_trained, clusters)
                logger.warning("Training was interrupted before its first step; the model is unchanged.")
                return None
            if not self.training_plan.weights_are_finite():
                self.training_plan.restore_weights()
            logger.warning("Training was interrupted in epoch %d; the model keeps its present weights.", self._epoch)
            self._rescue()
            return None
        except NonFiniteLossError:
            if self.training_plan.restore_weights():
                self._rescue()
            raise
        if not self._has_stepped:
            self._forget(was_trained, clusters)
            raise RuntimeError(
                "Expected at least one training step, found none: no batch reached the model, and the model is "
                "unchanged. Check the numbers of training cells and batches (train_size, batch_size, drop_last, "
                "limit_train_batches, max_steps)."
            )
        self.model._after_training(self.training_plan)
        return result

    @property
    def _has_stepped(self) -> bool:
        return self.trainer.global_step > 0

    def _clusters(self) -> int | None:
        """Number of clusters without placed centres.

        The result is 0 if the centres are placed, and None if the number of clusters is not chosen yet.
        """
        head = self.model.module.head
        return None if head is None else 0 if head.is_initialised else head.n_clusters

    def _forget(self, was_trained: bool, clusters: int | None) -> None:
        """Restore the state of a model whose training made no step."""
        self.model.is_trained_ = was_trained
        if clusters is None:
            self.model.module.head = None
        elif clusters > 0:
            self.model.module.build_head(clusters)

    @property
    def _epoch(self) -> int:
        return int(self.training_plan.current_epoch)

    def _rescue(self) -> None:
        """Complete an interrupted training, with the same final steps as the base class after a full training."""
        self.model.module.to(self.device)
        # Other processes of a distributed run may have ended. Waiting for their results would never end.
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
    """Restore the handler of Ctrl-C, which Lightning replaces. Only the main thread can set a handler."""
    try:
        signal.signal(signal.SIGINT, handler)
    except (ValueError, TypeError):
        logger.debug("Could not restore the interrupt handler.")
