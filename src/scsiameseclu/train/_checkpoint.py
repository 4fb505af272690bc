"""Checkpoints of a training in two phases."""

from collections.abc import Callable
from typing import Any

from scvi.train import SaveCheckpoint
from torch import Tensor


def follow_clustering(callback: SaveCheckpoint, read_weights: Callable[[str], dict[str, Tensor]]) -> None:
    """Let a checkpoint callback see nothing but the epochs of the clustering phase, and read what this package writes.

    The loss of the first phase has fewer terms, so that its epochs would seem the best, and there are no clusters in it
    to come back to. The callback is changed in place, because the caller reads ``best_model_path`` from it.

    Parameters
    ----------
    callback
        The callback.
    read_weights
        Returns the weights of the model in a folder; scvi-tools would execute the file it looks for there.
    """
    for name in ("on_train_epoch_end", "on_validation_end"):
        setattr(callback, name, _guarded(getattr(callback, name)))

    def load_best(pl_module: Any) -> None:
        if callback.best_model_path:
            pl_module.module.load_state_dict(read_weights(callback.best_model_path))

    def on_train_end(trainer: Any, pl_module: Any) -> None:
        if callback.load_best_on_end:
            load_best(pl_module)

    def on_exception(trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if callback.check_nan_gradients and not isinstance(exception, KeyboardInterrupt):
            load_best(pl_module)

    callback.on_train_end, callback.on_exception = on_train_end, on_exception


def _guarded(hook: Any) -> Any:
    def guarded(trainer: Any, pl_module: Any) -> None:
        if pl_module.module.clustering_active:
            hook(trainer, pl_module)

    return guarded
