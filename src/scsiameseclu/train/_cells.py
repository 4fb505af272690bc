"""Training and validation cells of a training plan, their embeddings and decoded expression."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._loader import view_keys
from scsiameseclu.module import SiameseModule
from scsiameseclu.nn._gather import gather_rows, n_processes, own_share
from scsiameseclu.pp._graph_input import resolve_seed
from scsiameseclu.train._hooks import PlanHooks
from scsiameseclu.train._inference import decode, embed


class PlanCells(PlanHooks):
    """Base of the training plan that embeds and decodes many cells at once, without augmentation.

    Attributes
    ----------
    max_target_cells
        Largest number of cells that are embedded for the transport targets.
    shares_work
        Whether the processes of a distributed run divide the cells among themselves. False after an interrupt, when
        other processes may have ended.
    """

    max_target_cells: int

    def __init__(self, module: SiameseModule, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self.shares_work = True

    def _training_rows(self, at_most: int) -> NDArray[np.int64]:
        """Row numbers of the training cells, ascending, or of a fixed random sample of ``at_most`` training cells."""
        return sampled(self._data.train_idx, at_most)

    def _validation_rows(self) -> NDArray[np.int64]:
        """Row numbers of the validation cells, ascending, or of a fixed sample of ``max_target_cells`` of them."""
        return sampled(self._data.val_idx, self.max_target_cells)

    def _embed_training_cells(self) -> Tensor:
        """Embed the training cells, or a fixed sample of ``max_target_cells`` of them, without augmentation."""
        z = self._embed(self._training_rows(self.max_target_cells))
        self._check_finite(z)
        return z

    def _embed(self, rows: NDArray[np.int64]) -> Tensor:
        """Embed cells, ``(len(rows), n_latent)``. In a distributed run, every process embeds a share of the cells."""
        if not self._splits(rows):
            return embed(self.module, self._loader(rows))
        return gather_rows(embed(self.module, self._loader(own_share(rows))))

    def _decode(self, rows: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.float32]]:
        """Embed and decode cells. In a distributed run, every process computes a share of the cells."""
        if not self._splits(rows):
            return decode(self.module, self._loader(rows))
        z, expression = decode(self.module, self._loader(own_share(rows)))
        return gather_rows(z), gather_rows(torch.as_tensor(expression, device=z.device)).cpu().numpy()

    def _representation(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Graph representation of cells, ``(len(rows), n_rep)``, from their own counts without their neighbours."""
        return np.asarray(self._data.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)[rows], dtype=np.float32)

    def _splits(self, rows: NDArray[np.int64]) -> bool:
        return self.shares_work and 1 < n_processes() <= len(rows)

    def _check_finite(self, values: Tensor) -> None:
        """Refuse NaN and infinite values, which would make PCA or Sinkhorn fail."""
        if not bool(torch.isfinite(values).all()):
            raise self._not_finite("a finite embedding, found NaN or infinite values")

    def _loader(self, rows: NDArray[np.int64]) -> Any:
        manager = self._data.adata_manager
        keys = view_keys(manager, "first")
        return self._data.data_loader_cls(manager, indices=rows, batch_size=1024, data_and_attributes=keys)


def sampled(rows: Any, at_most: int) -> NDArray[np.int64]:
    """Row numbers, ascending, or a random sample of ``at_most`` row numbers.

    The sample depends only on the seed of scvi-tools.
    """
    rows = np.sort(np.asarray(rows, dtype=np.int64))
    if len(rows) > at_most:
        rows = np.sort(np.random.default_rng(resolve_seed(None)).choice(rows, at_most, replace=False))
    return rows
