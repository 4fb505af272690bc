"""Metrics of a mini-batch for scvi-tools' hyperparameter search."""

from typing import Any

from scvi import REGISTRY_KEYS
from torch import Tensor


class ScibMetrics(dict[str, Tensor]):
    """Scalars to log, together with the embedding, batch and label of every cell of a mini-batch.

    :class:`scvi.train.ScibCallback` looks up embedding, batch and label in the metrics, under the keys ``"z"``,
    ``"batch"`` and ``"labels"``. Iteration yields only the scalars, so only the scalars are logged.

    Parameters
    ----------
    metrics
        Scalars to log, by name.
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
