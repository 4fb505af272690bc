"""What the processes of a distributed run share in training."""

from typing import Any

import torch
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.nn._gather import gather_rows, n_processes

_BRANCHES = ("z_expression", "z_graph")
_NUMBERS = (SIAMESE_KEYS.CELL_INDEX, SIAMESE_KEYS.NEIGHBOR_INDEX)


def row_numbers(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Row numbers in a batch: of the cells, their neighbours and, under the key ``PARTNER``, their partners."""
    rows = {key: tensors[key] for key in _NUMBERS if key in tensors}
    if SIAMESE_KEYS.PARTNER in tensors:
        rows[SIAMESE_KEYS.PARTNER] = tensors[SIAMESE_KEYS.PARTNER][SIAMESE_KEYS.CELL_INDEX]
    return rows


def of_all_processes(
    tensors: dict[str, Any], first: dict[str, Tensor], second: dict[str, Tensor], *, numbers: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Both branches of both views of the cells on all processes, and row numbers of cells and neighbours on request.

    Correlations are statistics of the whole batch: computed on each process's part alone, their value would depend on
    the number of parts. In a single process everything is returned as it is. To be called by all processes or by none.

    Parameters
    ----------
    tensors
        This process's batch.
    first, second
        Its views, each branch ``(n_own, n_latent)``.
    numbers
        Whether the row numbers of all processes are needed.

    Returns
    -------
    The two views, each branch ``(n_all, n_latent)`` with gradient, and :func:`row_numbers`.
    """
    rows = row_numbers(tensors)
    if n_processes() == 1:
        return first, second, rows
    parts = [view[key] for view in (first, second) for key in _BRANCHES]
    gathered = gather_rows(torch.cat(parts, dim=1)).split(parts[0].shape[1], dim=1)
    views = [dict(zip(_BRANCHES, gathered[start : start + 2], strict=True)) for start in (0, 2)]
    return views[0], views[1], {key: gather_rows(value) for key, value in rows.items()} if numbers else rows
