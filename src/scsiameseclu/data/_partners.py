"""Partners of cells. The partner of a cell is one of its graph neighbours, and is the cell's second view."""

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
    """Draws one partner for each cell of a mini-batch, and loads the tensors of the partners.

    The probability of a neighbour is proportional to its edge weight. Each call draws new partners with the global
    random generator of torch. A cell without neighbours is its own partner. A cell of a query is also its own partner,
    because its neighbours are landmarks of the reference, and landmarks have no counts.

    Parameters
    ----------
    manager
        Manager of the data that the mini-batches come from.
    rows
        Row numbers of the cells that may be partners. These are the training cells: cells held out for validation are
        no partners.
    """

    def __init__(self, manager: NeighborDataManager, rows: NDArray[np.int64]) -> None:
        self._dataset = manager.create_torch_dataset(data_and_attributes=view_keys(manager, "second"))
        # The additional last entry stands for all landmarks. Landmarks have no counts and are never drawn.
        self._may_be_drawn = torch.zeros(manager.adata.n_obs + 1)
        self._may_be_drawn[torch.as_tensor(rows)] = 1.0

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Draw one partner of each cell, and load the tensors of the partners that the second view reads.

        The tensors are on the device of ``batch``.
        """
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
        Row numbers and edge weights of the neighbours of these cells, ``(batch, k)``. Padding has weight 0.

    Returns
    -------
    Tensor
        Row number of the drawn neighbour of each cell, int64 ``(batch,)``. A cell without neighbours of positive
        weight gets its own row number.
    """
    without_neighbors = weight.sum(dim=1) <= 0
    drawn = torch.multinomial(torch.where(without_neighbors.unsqueeze(1), 1.0, weight), 1)
    return torch.where(without_neighbors, index.squeeze(1), neighbor_index.gather(1, drawn).squeeze(1))
