"""Nearest neighbours and UMAP edge weights."""

from __future__ import annotations

import importlib.util
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

EXACT_LIMIT = 30_000
"""Up to this many cells every pair is compared; above, pynndescent approximates."""

_CHUNK = 1024
_SPARE = 5  # candidates beyond those asked for: the search ranks in float32, the result in float64
_SAME = 1e-5  # points closer than this share of their typical distance from the centre are one point, but for rounding
_GPU_BLOCK = 65_536  # cells asked for at once, of cuML
_GPU_SCORES = 2**29  # pairs scored at once without it, at most: 2 GB
_MIN_WEIGHT = 1e-8  # keeps an edge whose membership underflows
_N_BISECTIONS = 64
_MIN_SIGMA = 1e-3  # umap-learn's MIN_K_DIST_SCALE


def knn(
    rep: ArrayLike,
    n_neighbors: int = 15,
    random_state: int | None = 0,
    batch: Sequence[Any] | pd.Series | NDArray[Any] | None = None,
) -> NeighborGraph:
    """Euclidean k-nearest-neighbour graph with UMAP edge weights.

    Exact up to 30,000 cells, pynndescent above; exact at any size where a CUDA device is there (by rapids cuML, if that
    is installed, otherwise by torch). A cell is removed from its own list by row number, so duplicated cells neither
    lose a neighbour nor keep themselves; ties are ordered by row number.

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
        batch with too few cells hands its share on by the same rule. With more batches than ``n_neighbors``, only the
        largest are asked. Weights are memberships among the neighbours in the same batch.

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


def fuzzy_weights(
    distances: NDArray[Any], is_edge: NDArray[np.bool_] | None = None, batch: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    r"""UMAP's directed membership strengths (McInnes et al. 2018, section 3.1; algorithm ``SmoothKNNDist``).

    .. math:: w_{ij} = \exp(-\max(0, d_{ij} - \rho_i) / \sigma_i), \qquad \sum_j w_{ij} = \log_2(k_i + 1)

    with :math:`\rho_i` the smallest positive distance of cell *i* and :math:`\sigma_i` found by bisection. The
    logarithm is of :math:`k_i + 1` because UMAP counts the cell itself among its neighbours and our tables do not.

    With batches, this holds for the neighbours in each batch by themselves: what all cells of another batch are farther
    away by is a batch effect and costs no weight, so that batches that give as many neighbours weigh the same.

    Parameters
    ----------
    distances
        Shape ``(n_obs, k)``.
    is_edge
        Shape ``(n_obs, k)``: ``False`` on padding, which gets weight 0. Default: no padding.
    batch
        Shape ``(n_obs, k)``: code of the batch of every neighbour, if neighbours were drawn from each batch.

    Returns
    -------
    float32, shape ``(n_obs, k)``, in (0, 1] on edges.
    """
    is_edge = np.ones(distances.shape, dtype=bool) if is_edge is None else is_edge
    if batch is not None:
        weights = np.zeros(distances.shape, dtype=np.float32)
        for code in np.unique(batch):
            weights += fuzzy_weights(distances, is_edge & (batch == code))
        return weights
    overall_mean = _mean_distance(distances, is_edge)[1]

    def weigh(rows: slice) -> NDArray[np.float32]:
        return _fuzzy_block(distances[rows], is_edge[rows], overall_mean)

    blocks = list(in_threads(weigh, _row_slices(len(distances))))
    return np.concatenate(blocks) if blocks else np.zeros(distances.shape, dtype=np.float32)


def _fuzzy_block(distances: NDArray[Any], is_edge: NDArray[np.bool_], overall_mean: float) -> NDArray[np.float32]:
    dist = np.where(is_edge, distances, np.inf).astype(np.float64)
    nearest = np.where(dist > 0, dist, np.inf).min(axis=1, keepdims=True)
    rho = np.where(np.isfinite(nearest), nearest, 0.0)
    excess = np.maximum(dist - rho, 0.0)  # stays inf on padding: exp(-inf) = 0
    target = np.log2(is_edge.sum(axis=1, keepdims=True) + 1.0)

    low, high, sigma = np.zeros_like(rho), np.full_like(rho, np.inf), np.ones_like(rho)
    for _ in range(_N_BISECTIONS):
        error = np.exp(-excess / sigma).sum(axis=1, keepdims=True) - target
        # Each row stops by itself, so that its weights do not depend on the other rows.
        unsolved = np.abs(error) >= 1e-5
        if not unsolved.any():
            break
        high = np.where(error > 0, sigma, high)
        low = np.where(error > 0, low, sigma)
        step = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
        sigma = np.where(unsolved, np.maximum(step, np.finfo(np.float64).tiny), sigma)

    row_mean = _mean_distance(distances, is_edge)[0]
    sigma = np.maximum(sigma, _MIN_SIGMA * np.where(rho > 0, row_mean, overall_mean))
    weights = np.exp(-excess / np.maximum(sigma, np.finfo(np.float64).tiny))
    return np.where(is_edge, np.clip(weights, _MIN_WEIGHT, 1.0), 0.0).astype(np.float32)


def _mean_distance(distances: NDArray[Any], is_edge: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Mean distance per row and overall; the cell itself counts with 0, as in umap-learn."""
    totals = np.where(is_edge, distances, 0.0).sum(axis=1, keepdims=True, dtype=np.float64)
    counts = is_edge.sum(axis=1, keepdims=True) + 1
    return totals / counts, float(totals.sum() / max(int(counts.sum()), 1))


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
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    quotas = batch_quotas(np.array([len(rows) for rows in members]), k)
    found = [
        _nearest_members(points, rows, int(quota), random_state)
        for rows, quota in zip(members, quotas, strict=True)
        if quota > 0
    ]
    return np.hstack([indices for indices, _ in found]), np.hstack([distances for _, distances in found])


def batch_quotas(sizes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Deal ``k`` neighbours to the batches round by round, largest batch first, while they have cells left."""
    capacity = sizes - 1  # a cell of the batch itself has one candidate fewer
    quotas = np.zeros_like(sizes)
    order = np.argsort(-sizes, kind="stable")
    remaining = min(k, int(capacity.sum()))
    while remaining > 0:
        for code in order:
            if remaining > 0 and quotas[code] < capacity[code]:
                quotas[code] += 1
                remaining -= 1
    return quotas


def _nearest_members(
    points: NDArray[np.float32], members: NDArray[np.int64], k: int, random_state: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` members nearest to every cell (itself excluded), sorted; infinite distance where there are too few."""
    start = time.perf_counter()
    width = min(k + 1, len(members))  # one more than asked for: the cell itself may be among them
    if len(points) * len(members) <= EXACT_LIMIT**2:
        method, candidates = "exact", search_exact(points[members], points, width)
    elif torch.cuda.is_available():
        with_cuml = importlib.util.find_spec("cuml") is not None
        method, search = ("cuML", _search_cuml) if with_cuml else ("exact, on the GPU", search_on_device)
        candidates = search(points[members], points, width)
    else:
        method, candidates = "pynndescent", _search_approximate(points, members, width, random_state)
    logger.info(
        "Found %d neighbours of %d cells among %d in %.1f s (%s).",
        k,
        len(points),
        len(members),
        time.perf_counter() - start,
        method,
    )
    indices = np.where(candidates >= 0, members[candidates], -1)
    distances = exact_distances(points, points, indices)
    own_row = np.arange(len(indices))[:, None]
    distances[(indices == own_row) | (indices < 0)] = np.inf
    return sort_rows(indices, distances, k)


def _search_cuml(points: NDArray[np.float32], queries: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Brute force in blocks of queries, so that only the points and one block's distances are in the GPU's memory."""
    from cuml.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=width, algorithm="brute", output_type="numpy").fit(points)
    blocks = [
        np.asarray(search.kneighbors(queries[start : start + _GPU_BLOCK], return_distance=False), dtype=np.int64)
        for start in range(0, len(queries), _GPU_BLOCK)
    ]
    return np.concatenate(blocks)


def search_on_device(
    points: NDArray[np.float32], queries: NDArray[np.float32], width: int, device: str | torch.device = "cuda"
) -> NDArray[np.int64]:
    """As :func:`search_exact`, on a device: blocks of queries against all points, in full float32 precision."""
    targets = torch.as_tensor(points, device=device)
    # The nearest point to a query q is that with the largest q.p - |p|^2 / 2.
    penalty = targets.square().sum(dim=1).div_(2)
    width = min(width + _SPARE, len(points))
    n_scores = _GPU_SCORES
    if targets.is_cuda:
        n_scores = min(n_scores, torch.cuda.mem_get_info(targets.device)[0] // 16)  # a quarter of the free memory
    n_rows = max(n_scores // len(points), 1)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        blocks = []
        for start in range(0, len(queries), n_rows):
            block = torch.as_tensor(queries[start : start + n_rows], device=device)
            scores = torch.addmm(penalty, block, targets.T, beta=-1)
            blocks.append(scores.topk(width, dim=1).indices.cpu())
    finally:
        torch.set_float32_matmul_precision(precision)
    return torch.cat(blocks).numpy()


def centred(points: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """``points`` moved so that the mean of ``reference`` is the origin."""
    return points - reference.mean(axis=0)


def search_exact(points: NDArray[np.float32], queries: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Rows of the ``width`` points nearest to every query and of some more; all pairs are compared, in float32."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(width + _SPARE, len(points)), algorithm="brute").fit(points)
    return search.kneighbors(queries, return_distance=False)


def _search_approximate(
    points: NDArray[np.float32], members: NDArray[np.int64], width: int, random_state: int | None
) -> NDArray[np.int64]:
    from pynndescent import NNDescent  # imports numba: only when it is needed

    index = NNDescent(points[members], n_neighbors=max(width, 16), random_state=random_state)
    if len(members) == len(points):
        return index.neighbor_graph[0][:, :width].astype(np.int64)
    return index.query(points, k=width)[0].astype(np.int64)


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
    slices = _row_slices(len(indices))
    for rows, block in zip(slices, in_threads(measure, slices), strict=True):
        distances[rows] = block
    typical = np.sqrt(np.square(points, dtype=np.float64).sum(axis=1).mean())
    distances[distances <= _SAME * typical] = 0.0
    return distances


def _row_slices(n_rows: int) -> list[slice]:
    """Blocks of rows."""
    return [slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK)]


def sort_rows(
    indices: NDArray[np.int64], distances: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` first of each row by (distance, row number)."""

    def first(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        order = np.lexsort((indices[rows], distances[rows]), axis=1)[:, :k]
        return np.take_along_axis(indices[rows], order, axis=1), np.take_along_axis(distances[rows], order, axis=1)

    blocks = list(in_threads(first, _row_slices(len(indices))))
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
