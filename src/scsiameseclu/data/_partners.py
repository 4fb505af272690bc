"""Partners: for every cell of a mini-batch one of its graph neighbours, which is the cell's second view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._loader import view_keys

if TYPE_CHECKING:
    from scsiameseclu.data._loader import NeighborDataManager


class PartnerSampler:
    """Draws partners and looks up what a second view needs of their rows: no labels, one neighbour block.

    Neighbours are drawn with probability proportional to their edge weight, anew at each call, by torch's global
    generator. A cell without neighbours is its own partner, and so is a cell of a query: its neighbours are landmarks
    of the reference, which have no counts.

    Parameters
    ----------
    manager
        Manager of the data that the batches come from.
    rows
        Rows that may be partners: those of the training cells, so that cells held out stay held out.
    """

    def __init__(self, manager: NeighborDataManager, rows: NDArray[np.int64]) -> None:
        self._dataset = manager.create_torch_dataset(data_and_attributes=view_keys(manager, "second"))
        # One more than there are cells: landmarks, which have no counts, are no partners either.
        self._may_be_drawn = torch.zeros(manager.adata.n_obs + 1)
        self._may_be_drawn[torch.as_tensor(rows)] = 1.0

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Tensors of one partner of each cell, those that the second view is made of, on the device of ``batch``."""
        neighbors = batch[SIAMESE_KEYS.NEIGHBOR_INDEX]
        self._may_be_drawn = self._may_be_drawn.to(neighbors.device)
        allowed = self._may_be_drawn[neighbors.clamp(max=len(self._may_be_drawn) - 1)]
        weight = batch[SIAMESE_KEYS.NEIGHBOR_WEIGHT] * allowed
        rows = draw_partners(batch[SIAMESE_KEYS.CELL_INDEX], neighbors, weight)
        partners = self._dataset[rows]
        return {key: torch.as_tensor(value).to(rows.device) for key, value in partners.items()}


def draw_partners(index: Tensor, neighbor_index: Tensor, weight: Tensor) -> Tensor:
    """Draw one neighbour of each cell.

    Parameters
    ----------
    index
        Row numbers of the cells, ``(batch, 1)``.
    neighbor_index, weight
        Row numbers and edge weights of their neighbours, ``(batch, k)``; 0 on padding.

    Returns
    -------
    Row numbers, int64 ``(batch,)``.
    """
    lonely = weight.sum(dim=1) <= 0
    drawn = torch.multinomial(torch.where(lonely.unsqueeze(1), 1.0, weight), 1)
    return torch.where(lonely, index.squeeze(1), neighbor_index.gather(1, drawn).squeeze(1))
