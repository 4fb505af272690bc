"""Personalised PageRank on the sparse cell graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee

from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1024
_FLOOR_MARGIN = np.float32(0.9)
_MIN_MASS = 1e-12  # smaller masses are below the precision of float32


def ppr_diffusion(
    graph: NeighborGraph,
    alpha: float = 0.15,
    n_iter: int = 10,
    n_neighbors: int | None = None,
    max_entries: int | None = None,
) -> NeighborGraph:
    r"""Find the neighbours of every cell by personalised PageRank (Gasteiger et al. 2019).

    Personalised PageRank describes a random walk on the cell graph that returns to its start with probability
    :math:`\alpha` in every step. The neighbours of a cell are the cells that the walk visits most often:

    .. math:: P = \alpha \sum_{t=0}^{T} (1 - \alpha)^t S^t, \qquad
              P_0 = \alpha I, \quad P_{t+1} = \alpha I + (1 - \alpha) P_t S

    with the row-normalised connectivities :math:`S`. The power iteration converges to
    :math:`\alpha (I - (1 - \alpha) S)^{-1}`. No dense matrix is formed: after each step, only the ``max_entries``
    largest entries of each row are kept. So time and memory grow linearly with the number of cells.

    Parameters
    ----------
    graph
        Cell graph to diffuse.
    alpha
        Restart probability :math:`\alpha`, in (0, 1].
    n_iter
        Number of steps :math:`T`. The neglected probability mass is at most :math:`(1-\alpha)^{T+1}`.
    n_neighbors
        Number of neighbours per cell in the result. ``None``: as in ``graph``.
    max_entries
        Number of entries kept per row during the iteration. ``None``: the larger of twice ``n_neighbors`` and 32.

    Returns
    -------
    NeighborGraph
        Graph with the PageRank masses as weights and ``-log(mass)`` as distances. The strongest neighbour of each cell
        comes first, and no cell is its own neighbour. Rows are padded if the walk reaches fewer than ``n_neighbors``
        other cells.

    Raises
    ------
    ValueError
        If ``alpha`` is outside (0, 1], or ``n_iter`` or ``n_neighbors`` is below 1.
    """
    k = graph.n_neighbors if n_neighbors is None else n_neighbors
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha`: expected a restart probability in (0, 1], found {alpha}.")
    if n_iter < 1 or k < 1:
        raise ValueError(f"Expected `n_iter` and `n_neighbors` of at least 1, found {n_iter} and {k}.")
    width = max(2 * k, 32) if max_entries is None else max(max_entries, k + 1)
    # Computed once for all blocks of cells. Computing the matrix in every block would take time quadratic in the number
    # of cells.
    damped = graph.transition().astype(np.float32) * np.float32(1 - alpha)
    # Rows are reordered so that neighbours are close in memory. The walks of a block then fit into the CPU cache.
    order = reverse_cuthill_mckee(damped, symmetric_mode=True).astype(np.int64)
    damped = damped[order][:, order]

    def diffuse(start: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        mass = _walk_rows(damped, start, alpha, n_iter, width)
        mass.indices = order[mass.indices]
        return _strongest_others(mass, order[start : start + _CHUNK], k)

    indices, weights = np.empty((graph.n_obs, k), dtype=np.int64), np.empty((graph.n_obs, k), dtype=np.float32)
    starts = range(0, graph.n_obs, _CHUNK)
    for start, block in zip(starts, in_threads(diffuse, starts), strict=True):
        rows = order[start : start + _CHUNK]
        indices[rows], weights[rows] = block
    distances = np.zeros_like(weights)
    # Adding 0 turns the -0 of a mass of 1 into 0.
    np.negative(np.log(weights, out=distances, where=weights > 0), out=distances, where=weights > 0)
    return NeighborGraph(indices, np.maximum(distances, 0) + 0, weights)


def _walk_rows(damped: csr_matrix, start: int, alpha: float, n_iter: int, width: int) -> csr_matrix:
    n_obs = damped.shape[0]
    rows = np.arange(start, min(start + _CHUNK, n_obs))
    restart = csr_matrix(
        (np.full(len(rows), alpha, dtype=np.float32), rows, np.arange(len(rows) + 1)), shape=(len(rows), n_obs)
    )
    mass, floor = restart, np.zeros(len(rows), dtype=np.float32)
    for _ in range(n_iter):
        mass, floor = _truncate(_restarted(mass @ damped, rows, restart), width, floor)
    return mass


def _restarted(mass: csr_matrix, rows: NDArray[np.int64], restart: csr_matrix) -> csr_matrix:
    """Compute ``mass + restart``.

    The sum is computed in place, which is faster, if every row of ``mass`` already has an entry for its own cell.
    """
    own = mass.indices == np.repeat(rows.astype(mass.indices.dtype), np.diff(mass.indptr))
    if np.count_nonzero(own) < len(rows):
        return csr_matrix(mass + restart)
    mass.data[own] += restart.data
    return mass


def _truncate(matrix: csr_matrix, width: int, floor: NDArray[np.float32]) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Keep the ``width`` largest entries of every row, and return the smallest kept entry of each row.

    Of equal entries, the entries that are stored first are kept.

    ``floor`` is the smallest kept entry of the previous step. Entries hardly ever become smaller from step to step. So
    entries well below ``floor`` are dropped without ranking, because ranking takes most of the time. If too few entries
    of a row are left, all entries of this row are ranked.
    """
    lengths = np.diff(matrix.indptr)  # at least 1, because each row has an entry for its own cell
    if lengths.max() <= width:
        return matrix, floor
    candidate = matrix.data >= np.repeat(_FLOOR_MARGIN * floor, lengths)
    too_few = np.add.reduceat(candidate, matrix.indptr[:-1], dtype=np.int64) < width
    candidate |= np.repeat(too_few, lengths)
    matrix = _select(matrix, candidate)

    values = _dense_rows(matrix)[0]
    width = min(width, values.shape[1])
    # `argpartition` is slower than `partition`. The values are negated, because `partition` is slow if many of the
    # smallest values are 0.
    threshold = -np.partition(-values, width - 1, axis=1)[:, width - 1, None]
    kept = (values >= threshold) & (values > 0)
    crowded = np.flatnonzero(kept.sum(axis=1) > width)
    if len(crowded):
        above = values[crowded] > threshold[crowded]
        tied = kept[crowded] & ~above
        n_left = width - above.sum(axis=1, keepdims=True)
        kept[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= n_left))
    is_entry = np.arange(values.shape[1]) < np.diff(matrix.indptr)[:, None]
    return _select(matrix, kept[is_entry]), threshold.ravel()


def _select(matrix: csr_matrix, kept: NDArray[np.bool_]) -> csr_matrix:
    indptr = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def _dense_rows(matrix: csr_matrix) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values of each row as a dense table, and positions of the values in ``matrix.data``.

    Rows with fewer values than the longest row are filled with 0.
    """
    lengths = np.diff(matrix.indptr)
    offsets = np.arange(max(int(lengths.max(initial=0)), 1))
    is_entry = offsets < lengths[:, None]
    slots = np.where(is_entry, matrix.indptr[:-1, None] + offsets, 0)
    values = np.zeros(slots.shape, dtype=np.float32)
    values[is_entry] = matrix.data
    return values, slots


def _strongest_others(
    mass: csr_matrix, rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` cells of largest mass in each row, without the row's own cell.

    Ties are ordered by row number. Rows with fewer than ``k`` cells are padded.
    """
    own_row = rows[:, None]
    values, slots = _dense_rows(mass)
    columns = np.where(values > 0, mass.indices[slots], own_row) if mass.nnz else np.broadcast_to(own_row, values.shape)
    values = np.where((columns == own_row) | (values < _MIN_MASS), 0, values)
    order = np.lexsort((columns, -values), axis=1)[:, :k]
    indices = np.tile(own_row, (1, k))
    weights = np.zeros(indices.shape, dtype=np.float32)
    weights[:, : order.shape[1]] = np.minimum(np.take_along_axis(values, order, axis=1), 1)
    found = np.take_along_axis(columns, order, axis=1)
    indices[:, : order.shape[1]] = np.where(weights[:, : order.shape[1]] > 0, found, own_row)
    return indices, weights
