"""What scvi-tools' hyperparameter search wants to know of every batch."""

from typing import Any

from scvi import REGISTRY_KEYS
from torch import Tensor


class ScibMetrics(dict[str, Tensor]):
    """Scalars to log, and beside them the embedding, batch and label of every cell of a mini-batch.

    :class:`scvi.train.ScibCallback` looks the latter up in the metrics by name; what is iterated over, and logged, are
    the scalars alone.

    Parameters
    ----------
    metrics
        Scalars.
    z
        Embedding, ``(batch, n_latent)``.
    tensors
        The mini-batch.
    """

    def __init__(self, metrics: dict[str, Tensor], z: Tensor, tensors: dict[str, Any]) -> None:
        super().__init__(metrics)
        self._cells = {
            "z": z,
            "batch": tensors[REGISTRY_KEYS.BATCH_KEY],
            "labels": tensors[REGISTRY_KEYS.LABELS_KEY],
        }

    def __missing__(self, key: str) -> Tensor:
        return self._cells[key]
