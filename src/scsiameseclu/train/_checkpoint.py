"""scvi-tools' checkpoints of the best epoch, adapted to a training in two phases."""

from collections.abc import Callable
from typing import Any

from scvi.train import SaveCheckpoint
from torch import Tensor


def follow_clustering(callback: SaveCheckpoint, read_weights: Callable[[str], dict[str, Tensor]]) -> None:
    """Restrict a checkpoint callback to epochs of the clustering phase, and let it read the files of this package.

    The loss of the pretraining phase has fewer terms. Without this restriction the epochs of pretraining would seem the
    best, although the model has no clusters then. The callback is changed in place, because the user reads
    ``best_model_path`` from the callback.

    Parameters
    ----------
    callback
        The callback, changed in place.
    read_weights
        Function that returns the weights of a model saved in a folder. scvi-tools would read a pickle, which can run
        code.
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
