"""Partners: for every cell of a mini-batch one of its graph neighbours, which is the cell's second view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS

if TYPE_CHECKING:
    from scsiameseclu.data._loader import NeighborDataManager


class PartnerSampler:
    """Draws partners and looks up their rows.

    Neighbours are drawn with probability proportional to their edge weight, anew at each call, by torch's global generator. A
    cell without neighbours is its own partner, and so is a cell of a query: its neighbours are landmarks of the reference,
    which have no counts.

    Parameters
    ----------
    manager
        Manager of the data that the batches come from.
    """

    def __init__(self, manager: NeighborDataManager) -> None:
        self._dataset = manager.create_torch_dataset()

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Tensors of one partner of each cell, with the keys of ``batch``."""
        neighbors = batch[SIAMESE_KEYS.NEIGHBOR_INDEX]
        weight = batch[SIAMESE_KEYS.NEIGHBOR_WEIGHT] * (neighbors < len(self._dataset))
        rows = draw_partners(batch[SIAMESE_KEYS.CELL_INDEX], neighbors, weight)
        return {key: torch.as_tensor(value) for key, value in self._dataset[rows.numpy()].items()}


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
