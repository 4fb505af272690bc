"""Lightning hooks of the training plan: transfer of batches to devices, logging, checkpoints."""

import hashlib
import logging
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch import Tensor

from scsiameseclu._compat import field_state
from scsiameseclu.module import SiameseModule
from scsiameseclu.partition import Discriminant, NClustersResult
from scsiameseclu.train._metrics import EpochMeans
from scsiameseclu.train._resume import fill_history, history_state, rng_state, set_rng_state
from scsiameseclu.train._schedule import MAX_LEARNING_RATE

logger = logging.getLogger(__name__)

_STATE_KEY = "scsiameseclu"
_EXTREME = 10.0
# Attributes of the plan that a checkpoint saves and restores.
_RESUMED = (
    "_clustering_since",
    "_warming_up",
    "_targets",
    "_target_rows",
    "_first_masses",
    "_clusters_before",
    "_first_clusters",
    "_n_occupied",
)


class NonFiniteLossError(RuntimeError):
    """The training loss, or the weights, became NaN or infinite."""


class PlanHooks(TrainingPlan):
    """Base of the training plan with the Lightning hooks that do not depend on the clustering method."""

    module: SiameseModule
    n_clusters: int | None
    n_clusters_result: NClustersResult | None
    _discriminant: Discriminant | None

    def __init__(self, module: SiameseModule, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self._means = {"train": EpochMeans(), "validation": EpochMeans()}
        self._rng_to_restore: dict[str, Any] | None = None
        self._last_terms: dict[str, Tensor] = {}
        self._last_good: dict[str, Tensor] = {}
        self._n_good_epochs = 0

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule

    def on_fit_start(self) -> None:
        """Switch the module to training mode: scvi-tools leaves trained and loaded models in evaluation mode."""
        self.module.train()

    def get_optimizer_creator(self) -> Any:
        """Function that creates the optimiser, as in scvi-tools, but with fused updates of all weights if possible."""
        if self.optimizer_name not in ("Adam", "AdamW"):
            return super().get_optimizer_creator()
        optimizer = getattr(torch.optim, self.optimizer_name)
        # Lightning cannot clip the gradients of a fused optimiser in mixed precision.
        clips = bool(self.trainer.gradient_clip_val)
        fused = (self.device.type in ("cpu", "cuda") and not clips) or None
        return partial(optimizer, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=fused)

    # -- batches -------------------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, which is a nested dictionary of tensors, to a GPU. On a CPU the batch is returned unchanged.

        Lightning's default inspects every entry of a batch, which takes longer than the transfer.
        """
        return batch if device.type == "cpu" else _moved(batch, device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pass a batch through the module, and keep the loss terms for a later error message."""
        outputs = super().forward(*args, **kwargs)
        self._last_terms = dict(outputs[-1].extra_metrics)
        return outputs

    # -- logging -------------------------------------------------------------------------------------------------

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict[str, Any], mode: str) -> None:
        """Add a batch to the means of the epoch, under the names that scvi-tools uses."""
        n_cells = loss_output.n_obs_minibatch
        reconstruction = loss_output.reconstruction_loss_sum.detach() / n_cells
        nothing = torch.zeros_like(reconstruction)  # the model has no prior, so the divergence from a prior is 0
        terms = {f"{name}_{mode}": term for name, term in (loss_output.extra_metrics or {}).items()}
        values = {
            f"{mode}_loss": loss_output.loss,
            f"elbo_{mode}": reconstruction,
            f"reconstruction_loss_{mode}": reconstruction,
            f"kl_local_{mode}": nothing,
            f"kl_global_{mode}": nothing,
            **terms,
        }
        self._means[mode].add(values, n_cells)
        if mode == "train" and self.on_step:
            self.trainer.logger.log_metrics({"train_loss_step": loss_output.loss.detach()}, step=self.global_step)

    def _log_means(self, mode: str) -> None:
        for name, mean in self._means[mode].pop().items():
            # The mean covers all processes already. Lightning warns unless sync_dist is set.
            self.log(name, mean, on_epoch=True, prog_bar=name == "train_loss", sync_dist=self.use_sync_dist)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation cells."""
        self._log_means("validation")

    # -- the last good weights ----------------------------------------------------------------------------------

    def _not_finite(self, what: str) -> NonFiniteLossError:
        kept = "of the last good epoch are kept" if self._n_good_epochs else "are those from before training"
        return NonFiniteLossError(
            f"Expected {what} in epoch {self.current_epoch}. The weights {kept}; train with a lower learning rate, "
            "plan_kwargs={'lr': ...}, or look for extreme values in the counts."
        )

    def weights_are_finite(self) -> bool:
        """Whether no weight or buffer of the module is NaN or infinite."""
        floats = (value for value in self.module.state_dict().values() if value.is_floating_point())
        return all(bool(torch.isfinite(value).all()) for value in floats)

    def keep_weights(self) -> None:
        """Copy the current weights to memory.

        Raises
        ------
        NonFiniteLossError
            If a weight is NaN or infinite. The earlier copy is then kept.
        """
        if not self.weights_are_finite():
            raise self._not_finite("finite weights, found NaN or infinite ones")
        self._last_good = {key: value.detach().cpu().clone() for key, value in self.module.state_dict().items()}

    def restore_weights(self) -> bool:
        """Restore the last copy of the weights, and return whether the copy was made after a complete epoch."""
        if self._last_good:
            self.module.load_state_dict(self._last_good)
        return self._n_good_epochs > 0

    def likely_cause(self, n_clusters: int) -> str:
        """Text for a warning: the most likely reason why clusters lost their cells, and advice."""
        extreme = self._extreme_covariates()
        if extreme:
            return (
                f"Likely because of continuous covariates with extreme values ({', '.join(extreme)}): transform them, "
                "for instance by a logarithm, or leave them out."
            )
        if self.lr > MAX_LEARNING_RATE:
            return f"Likely because of the learning rate of {self.lr:g}: lower it, plan_kwargs={{'lr': ...}}."
        return (
            f"Likely because the cells do not fall into {n_clusters} groups: ask for fewer clusters or "
            "n_clusters='auto'. If they do, train with a lower learning rate, plan_kwargs={'lr': ...}."
        )

    def _extreme_covariates(self) -> list[str]:
        """Texts about continuous covariates with values more than ten standard deviations from the mean."""
        scaler, manager = self.module.covariate_scaler, self._data.adata_manager
        if scaler is None or REGISTRY_KEYS.CONT_COVS_KEY not in manager.data_registry:
            return []
        values = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY), dtype=np.float32)
        largest = scaler(torch.as_tensor(values, device=scaler.mean.device)).abs().amax(dim=0).tolist()
        names = field_state(manager.registry, REGISTRY_KEYS.CONT_COVS_KEY)["columns"]
        pairs = zip(names, largest, strict=True)
        return [f"{name!r}: {value:.0f} standard deviations from the mean" for name, value in pairs if value > _EXTREME]

    # -- resuming ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint: split, phase, targets, history and random generators, which resuming needs."""
        result = self.n_clusters_result
        history = history_state(getattr(self.trainer.logger, "history", {}))
        for name, mean in self._means["train"].current().items():
            # The epoch that ends with this checkpoint is not in the log yet.
            epochs, values = history.setdefault(name, [[], []])
            epochs.append(self.current_epoch)
            values.append(float(mean))
        checkpoint[_STATE_KEY] = {
            **{name.removeprefix("_"): getattr(self, name) for name in _RESUMED},
            "clustering_active": self.module.clustering_active,
            "n_clusters_result": None if result is None else result.to_state(),
            "discriminant": None if self._discriminant is None else self._discriminant.to_state(),
            "split": {
                name: torch.as_tensor(getattr(self._data, name)) for name in ("train_idx", "val_idx", "test_idx")
            },
            "cells": self._cells(),
            "counts": self._data.adata_manager.blocks.content,
            "history": history,
            "rng": rng_state() if self._rng_to_restore is None else self._rng_to_restore,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the plan from a checkpoint.

        Lightning calls this hook before it loads the weights. The hook creates a head of the right size for them.

        Raises
        ------
        ValueError
            If the checkpoint was not written by this package, or belongs to other data or to another split.
        """
        state = checkpoint.get(_STATE_KEY)
        if state is None:
            raise ValueError("Expected a checkpoint of SCSiameseClu.train, found another file; see ResumeCheckpoint.")
        n_obs, n_found = self._data.adata_manager.adata.n_obs, sum(len(rows) for rows in state["split"].values())
        if n_obs != n_found:
            raise ValueError(
                f"Expected a checkpoint for {n_obs} cells, found a checkpoint for {n_found} cells. Resume with the "
                "data of the checkpoint."
            )
        if state["cells"] != self._cells():
            raise ValueError(
                "Expected a checkpoint for these cells and genes, found a checkpoint for cells or genes with other "
                "names. Resume with the data of the checkpoint."
            )
        blocks = self._data.adata_manager.blocks
        # Checkpoints of early versions hold the digest of the cells.
        if state.get("counts", blocks.content) not in (blocks.content, blocks.digest):
            raise ValueError(
                "Expected a checkpoint for these data, found a checkpoint for other data with the same names of cells "
                "and genes: counts, representation, batches or the settings of the cell graph differ. Resume with the "
                "data and set-up of the checkpoint, or start a new training without ckpt_path."
            )
        centers = checkpoint["state_dict"].get("module.head.centers")
        if centers is not None and self.n_clusters not in (None, len(centers)):
            raise ValueError(
                f"Expected a checkpoint with {self.n_clusters} clusters, found a checkpoint with {len(centers)}. "
                "Resume with a model of the same n_clusters."
            )
        for name, rows in state["split"].items():
            if len(rows) != len(getattr(self._data, name)):
                raise ValueError(
                    f"Expected a checkpoint with {len(getattr(self._data, name))} cells as {name}, found {len(rows)}. "
                    "Resume with the train_size and validation_size of the checkpoint."
                )
            setattr(self._data, name, rows.numpy())
        for name in _RESUMED:
            setattr(self, name, state.get(name.removeprefix("_")))
        self._n_good_epochs = 1
        self.module.clustering_active = state["clustering_active"]
        if state["n_clusters_result"] is not None:
            self.n_clusters_result = NClustersResult.from_state(state["n_clusters_result"])
        if state.get("discriminant") is not None:  # checkpoints of early versions have no discriminant
            self._discriminant = Discriminant(**state["discriminant"])
        if centers is not None and (self.module.head is None or self.module.head.n_clusters != len(centers)):
            self.module.build_head(len(centers))
        if self.trainer.is_global_zero and hasattr(self.trainer.logger, "history"):
            fill_history(self.trainer.logger.history, state["history"])
        self._rng_to_restore = state["rng"]

    def _cells(self) -> str:
        """Digest of the names of cells and genes."""
        adata = self._data.adata_manager.adata
        names = "\0".join([*adata.obs_names.astype(str), "", *adata.var_names.astype(str)])
        return hashlib.sha1(names.encode(), usedforsecurity=False).hexdigest()

    def _restore_rng(self) -> bool:
        """Restore the random generators after loading a checkpoint, and return whether there was a state to restore."""
        state, self._rng_to_restore = self._rng_to_restore, None
        if state is None:
            return False
        set_rng_state(state)
        self._seed_process()
        return True

    def _seed_process(self) -> None:
        """Give every process of a distributed run its own random numbers.

        With equal seeds, all processes would corrupt their cells in the same way.
        """
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + 1009 * self.global_rank + self.current_epoch)

    def _draw_for_loader(self) -> None:
        """Draw the random number that a new iterator of the data loader draws.

        In the first epoch after resuming, Lightning keeps the iterator that it made before the generators were
        restored. Without this draw, all later random numbers would differ from an uninterrupted training.
        """
        loop = self.trainer.fit_loop
        if getattr(loop, "is_resuming", False) or loop.epoch_loop.restarting:
            torch.empty((), dtype=torch.int64).random_()


def broadcast(state: list[Any]) -> list[Any]:
    """Send the objects of the first process to all processes. In a single process the objects are returned."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(state, src=0)
    return state


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=device.type == "cuda")
        if isinstance(value, Tensor)
        else _moved(value, device)
        for key, value in batch.items()
    }
