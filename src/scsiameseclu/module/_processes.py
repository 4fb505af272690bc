"""Exchange of embeddings and row numbers between the processes of a distributed run."""

from typing import Any

import torch
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.nn._gather import gather_rows, n_processes

_BRANCHES = ("z_expression", "z_graph")
_NUMBERS = (SIAMESE_KEYS.CELL_INDEX, SIAMESE_KEYS.NEIGHBOR_INDEX)


def row_numbers(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Row numbers of the cells of a batch, of their neighbours and, under the key ``PARTNER``, of their partners."""
    rows = {key: tensors[key] for key in _NUMBERS if key in tensors}
    if SIAMESE_KEYS.PARTNER in tensors:
        rows[SIAMESE_KEYS.PARTNER] = tensors[SIAMESE_KEYS.PARTNER][SIAMESE_KEYS.CELL_INDEX]
    return rows


def of_all_processes(
    tensors: dict[str, Any], first: dict[str, Tensor], second: dict[str, Tensor], *, numbers: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Collect both views of the cells of all processes and, on request, the row numbers.

    Correlations are statistics of the whole batch. If each process used only its own cells, the loss would depend on
    the number of processes. In a single process, the function returns its arguments unchanged. Either all processes or
    no process must call this function.

    Parameters
    ----------
    tensors
        Batch of this process.
    first, second
        Views of this process, each branch ``(n_own, n_latent)``.
    numbers
        Whether to collect the row numbers of all processes, too.

    Returns
    -------
    The two views, each branch ``(n_all, n_latent)`` with gradient, and the result of :func:`row_numbers` (of all
    processes if ``numbers`` is True).
    """
    rows = row_numbers(tensors)
    if n_processes() == 1:
        return first, second, rows
    parts = [view[key] for view in (first, second) for key in _BRANCHES]
    gathered = gather_rows(torch.cat(parts, dim=1)).split(parts[0].shape[1], dim=1)
    views = [dict(zip(_BRANCHES, gathered[start : start + 2], strict=True)) for start in (0, 2)]
    return views[0], views[1], {key: gather_rows(value) for key, value in rows.items()} if numbers else rows
