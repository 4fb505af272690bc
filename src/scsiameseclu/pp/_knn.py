"""Nearest neighbours and UMAP edge weights."""

from __future__ import annotations

import importlib.util
import logging
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scsiameseclu.pp._exact_search import search_exact, search_on_device
from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._inverted_file import search_inverted
from scsiameseclu.pp._memberships import fuzzy_weights
from scsiameseclu.pp._threads import in_threads, numba_within_thread_limit, row_slices, within_thread_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

EXACT_LIMIT = 30_000
"""Up to this many cells, every pair of cells is compared on the CPU."""

INVERTED_LIMIT = 200_000
"""Up to this many cells, an inverted file approximates on the CPU; above, pynndescent does.

The compilation of pynndescent takes longer than the whole search in the inverted file, once in each process.
"""

GPU_EXACT_LIMIT = 1_000_000
"""Up to this many cells, every pair of cells is compared on a GPU; above, an inverted file approximates."""

_ACCELERATOR: ContextVar[str] = ContextVar("accelerator", default="auto")
_GPU = ("auto", "gpu", "cuda")

_SAME = 1e-5  # points closer than this share of their typical distance from the centre are one point, but for rounding
_GPU_BLOCK = 65_536  # cells asked for at once, of cuML


@within_thread_limit()
def knn(
    rep: ArrayLike,
    n_neighbors: int = 15,
    random_state: int | None = 0,
    batch: Sequence[Any] | pd.Series | NDArray[Any] | None = None,
) -> NeighborGraph:
    """Euclidean k-nearest-neighbour graph with UMAP edge weights.

    The search on a CPU is exact up to 30,000 cells. An inverted file approximates up to 200,000 cells, and pynndescent
    approximates above. The search on a CUDA device is by rapids cuML where cuML is installed. Otherwise the search on
    the device is exact up to a million cells, and an inverted file approximates above. :func:`search_on` keeps the
    search off a device. A cell is removed from its own list by row number, so that duplicated cells neither lose a
    neighbour nor keep themselves. Ties are ordered by row number.

    Parameters
    ----------
    rep
        Shape ``(n_obs, n_dims)``, finite: the space to measure distances in.
    n_neighbors
        Neighbours per cell, the cell itself not counted (scanpy counts it). With fewer other cells, rows are padded.
    random_state
        Seed of the approximate search; the exact one uses no random numbers.
    batch
        Length ``n_obs``, optional. Each cell then takes neighbours from *every* batch, as BBKNN does (Polanski et al.
        2020): ``n_neighbors`` is split evenly over the batches and the remainder goes to the largest ones, one each; a
        batch with too few cells hands its share on by the same rule. With more batches than ``n_neighbors``, a cell
        takes them from its own batch and ``n_neighbors - 1`` others (:func:`batch_quotas`). Weights are memberships
        among the neighbours in the same batch.

    Returns
    -------
    The graph; its weights are the directed memberships of :func:`fuzzy_weights`.

    Raises
    ------
    ValueError
        If ``rep`` is not a finite matrix, ``n_neighbors`` is below 1, or ``batch`` has missing values or another
        length.
    """
    points = _check_rep(rep)
    if n_neighbors < 1:
        raise ValueError(f"`n_neighbors`: expected at least 1, found {n_neighbors}.")
    # Distances do not change, and the expansion |x|^2 - 2xy + |y|^2 used by the exact search loses fewer digits.
    points = centred(points, points)
    codes = None if batch is None else batch_codes(batch, len(points))
    if codes is None or len(np.unique(codes)) == len(codes):  # no batches, or every batch is a single cell
        return _padded_graph(*_nearest_members(points, np.arange(len(points)), n_neighbors, random_state), n_neighbors)
    return _padded_graph(*_batch_balanced(points, codes, n_neighbors, random_state), n_neighbors, codes)


@contextmanager
def search_on(accelerator: str) -> Iterator[None]:
    """Let searches in this block use a GPU only if the accelerator is one.

    Parameters
    ----------
    accelerator
        As in scvi-tools. ``"auto"`` leaves the choice to a block around this one, or else to what the machine has.
    """
    token = _ACCELERATOR.set(_ACCELERATOR.get() if accelerator == "auto" else accelerator)
    try:
        yield
    finally:
        _ACCELERATOR.reset(token)


def _check_rep(rep: ArrayLike) -> NDArray[np.float32]:
    points = np.asarray(rep)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"Expected a representation of shape (n_obs, n_dims) with both above 0, found {points.shape}.")
    points = points.astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"Expected a finite representation, found NaN or infinite values in {np.sum(~finite)} cells "
            f"(first: row {int(np.argmin(finite))}). Remove or repair these cells."
        )
    return points


def batch_codes(batch: Sequence[Any] | pd.Series | NDArray[Any], n_obs: int) -> NDArray[np.int64]:
    codes = pd.factorize(np.asarray(batch), sort=True)[0].astype(np.int64)
    if len(codes) != n_obs:
        raise ValueError(f"`batch`: expected one label for each of {n_obs} cells, found {len(codes)}.")
    if (codes < 0).any():
        raise ValueError(
            f"`batch`: expected a label for every cell, found {np.sum(codes < 0)} missing. Fill them first."
        )
    return codes


def _batch_balanced(
    points: NDArray[np.float32], codes: NDArray[np.int64], k: int, random_state: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Neighbours from every batch that the batch of a cell asks: row numbers and distances, padded with infinity."""
    quotas = batch_quotas(np.bincount(codes), k)
    indices = np.zeros((len(points), k), dtype=np.int64)
    distances = np.full((len(points), k), np.inf)
    for giver in np.flatnonzero(quotas.any(axis=0)):
        members = np.flatnonzero(codes == giver)
        for rows, quota, places in askers(quotas, int(giver), codes):
            found = _nearest_members(points, members, quota, random_state, rows)
            indices[rows[:, None], places], distances[rows[:, None], places] = found
    return indices, distances


def askers(
    quotas: NDArray[np.int64], giver: int, codes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.int64]]]:
    """Cells that take neighbours from a batch, by the number they take.

    Parameters
    ----------
    quotas
        Result of :func:`batch_quotas`.
    giver
        The batch.
    codes
        Batch of every cell, -1 for unknown ones.

    Yields
    ------
    Row numbers of cells, the number of neighbours each of them takes from this batch, and the places of these in the
    row of each cell, ``(n_rows, number)``, where a row has the neighbours from one batch after the other.
    """
    taken = quotas[codes, giver]
    first = quotas[:, :giver].sum(axis=1)[codes]
    for number in np.unique(taken[taken > 0]):
        rows = np.flatnonzero(taken == number)
        yield rows, int(number), first[rows, None] + np.arange(number)


def batch_quotas(sizes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """How many neighbours a cell takes from each batch.

    ``k`` are dealt round by round, to the largest batch first, while the batches have cells left. With more than ``k``
    batches, the batches form a circle in their given order: a cell asks its own batch and the ``k - 1`` batches nearest
    to it on the circle. So every batch asks and is asked, whatever its size, and all batches are connected. A cell of
    any other batch asks the ``k`` largest.

    Parameters
    ----------
    sizes
        Number of cells of every batch, ``(n_batches,)``.
    k
        Neighbours of a cell.

    Returns
    -------
    int64 ``(n_batches + 1, n_batches)``: by batch of the cell, and number of neighbours from each batch. The last row
    is for cells of any other batch.
    """
    n_batches = len(sizes)
    # A cell of the batch itself has one candidate fewer.
    quotas = np.tile(_dealt(np.maximum(sizes - 1, 0), k), (n_batches + 1, 1))
    if n_batches > k:
        steps = np.arange(k) - (k - 1) // 2
        for code in range(n_batches):
            asked = np.zeros_like(sizes)
            partners = (code + steps) % n_batches
            asked[partners] = sizes[partners]
            asked[code] -= 1
            quotas[code] = _dealt(asked, k)
    return quotas


def _dealt(capacity: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Deal ``k`` neighbours to batches with so many candidates round by round, the largest batch first."""
    quotas = np.zeros_like(capacity)
    order = np.argsort(-capacity, kind="stable")
    remaining = min(k, int(capacity.sum()))
    while remaining > 0:
        for code in order:
            if remaining > 0 and quotas[code] < capacity[code]:
                quotas[code] += 1
                remaining -= 1
    return quotas


def _nearest_members(
    points: NDArray[np.float32],
    members: NDArray[np.int64],
    k: int,
    random_state: int | None,
    rows: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` members nearest to every cell or these rows, sorted, without itself; infinite distance on padding."""
    start = time.perf_counter()
    rows = np.arange(len(points)) if rows is None else rows
    queries = points if len(rows) == len(points) else points[rows]
    width = min(k + 1, len(members))  # one more than asked for: the cell itself may be among them
    targets = points if len(members) == len(points) else points[members]
    method, candidates = _search(targets, queries, width, random_state)
    logger.info(
        "Found %d neighbours of %d cells among %d in %.1f s (%s).",
        k,
        len(queries),
        len(members),
        time.perf_counter() - start,
        method,
    )
    indices = np.where(candidates >= 0, members[candidates], -1)
    distances = exact_distances(points, queries, indices)
    distances[(indices == rows[:, None]) | (indices < 0)] = np.inf
    indices, distances = sort_rows(indices, distances, k)
    missing = k - indices.shape[1]
    padding = ((0, 0), (0, missing))
    return np.pad(indices, padding), np.pad(distances, padding, constant_values=np.inf)


def _search(
    points: NDArray[np.float32], queries: NDArray[np.float32], width: int, random_state: int | None
) -> tuple[str, NDArray[np.int64]]:
    """Name of the method that suits the number of cells and the device, and the candidates the method finds."""
    n_pairs = len(queries) * len(points)
    if n_pairs <= EXACT_LIMIT**2:
        return "exact", search_exact(points, queries, width)
    if _ACCELERATOR.get() in _GPU and torch.cuda.is_available():
        if importlib.util.find_spec("cuml") is not None:
            return "cuML", _search_cuml(points, queries, width)
        if n_pairs <= GPU_EXACT_LIMIT**2:
            return "exact, on the GPU", search_on_device(points, queries, width)
        return "inverted file, on the GPU", search_inverted(points, queries, width, random_state, search_on_device)
    if n_pairs <= INVERTED_LIMIT**2:
        return "inverted file", search_inverted(points, queries, width, random_state)
    return "pynndescent", _search_approximate(points, queries, width, random_state)


def _search_cuml(points: NDArray[np.float32], queries: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Brute force in blocks of queries, so that only the points and one block's distances are in the GPU's memory."""
    from cuml.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=width, algorithm="brute", output_type="numpy").fit(points)
    blocks = [
        np.asarray(search.kneighbors(queries[start : start + _GPU_BLOCK], return_distance=False), dtype=np.int64)
        for start in range(0, len(queries), _GPU_BLOCK)
    ]
    return np.concatenate(blocks)


def centred(points: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """``points`` moved so that the mean of ``reference`` is the origin."""
    return points - reference.mean(axis=0)


@numba_within_thread_limit()
def _search_approximate(
    points: NDArray[np.float32], queries: NDArray[np.float32], width: int, random_state: int | None
) -> NDArray[np.int64]:
    """Nearest points of every query, by pynndescent."""
    from pynndescent import NNDescent  # imports numba: only when it is needed

    index = NNDescent(points, n_neighbors=max(width, 16), random_state=random_state)
    if np.array_equal(queries, points):
        return index.neighbor_graph[0][:, :width].astype(np.int64)
    return index.query(queries, k=width)[0].astype(np.int64)


def exact_distances(
    points: NDArray[np.float32], queries: NDArray[np.float32], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Distances from each query to the points in its row of ``indices``, in float64; duplicates are at exactly 0.

    Points that have to be the same may differ by the rounding of the matrix product they come from, which depends on
    the block of cells they were computed in.
    """

    def measure(rows: slice) -> NDArray[np.float64]:
        difference = points[indices[rows]] - queries[rows, None, :].astype(np.float64)
        return np.sqrt(np.einsum("ijd,ijd->ij", difference, difference))

    distances = np.empty(indices.shape)
    slices = row_slices(len(indices))
    for rows, block in zip(slices, in_threads(measure, slices), strict=True):
        distances[rows] = block
    typical = np.sqrt(np.square(points, dtype=np.float64).sum(axis=1).mean())
    distances[distances <= _SAME * typical] = 0.0
    return distances


def sort_rows(
    indices: NDArray[np.int64], distances: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` first of each row by (distance, row number)."""

    def first(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        order = np.lexsort((indices[rows], distances[rows]), axis=1)[:, :k]
        return np.take_along_axis(indices[rows], order, axis=1), np.take_along_axis(distances[rows], order, axis=1)

    blocks = list(in_threads(first, row_slices(len(indices))))
    if not blocks:
        return indices[:, :k], distances[:, :k]
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])


def _padded_graph(
    indices: NDArray[np.int64], distances: NDArray[np.float64], k: int, codes: NDArray[np.int64] | None = None
) -> NeighborGraph:
    indices, distances = sort_rows(indices, distances, k)
    n_obs, found = indices.shape
    table = np.tile(np.arange(n_obs, dtype=np.int64)[:, None], (1, k))
    padded = np.zeros((n_obs, k), dtype=np.float32)
    is_edge = np.isfinite(distances)
    table[:, :found] = np.where(is_edge, indices, table[:, :found])
    padded[:, :found] = np.where(is_edge, distances, 0.0)
    own_row = np.arange(n_obs)[:, None]
    batch = None if codes is None else codes[table]
    return NeighborGraph(table, padded, fuzzy_weights(padded, table != own_row, batch))
