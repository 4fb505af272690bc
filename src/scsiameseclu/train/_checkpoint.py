"""Checkpoints of a training in two phases."""

from typing import Any

from scvi.train import SaveCheckpoint


def only_clustering_epochs(callback: SaveCheckpoint) -> None:
    """Let a checkpoint callback see nothing but the epochs of the clustering phase.

    The loss of the first phase has fewer terms, so that its epochs would seem the best, and there are no clusters in it
    to come back to. The callback is changed in place, because the caller reads ``best_model_path`` from it.
    """
    for name in ("on_train_epoch_end", "on_validation_end"):
        setattr(callback, name, _guarded(getattr(callback, name)))
    load_best = callback.on_train_end

    def on_train_end(trainer: Any, pl_module: Any) -> None:
        if callback.best_model_path:
            load_best(trainer, pl_module)

    callback.on_train_end = on_train_end


def _guarded(hook: Any) -> Any:
    def guarded(trainer: Any, pl_module: Any) -> None:
        if pl_module.module.clustering_active:
            hook(trainer, pl_module)

    return guarded
