"""UMAP edge weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.pp._threads import in_threads, row_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_WEIGHT = 1e-8  # keeps an edge whose membership underflows
_N_BISECTIONS = 64
_MIN_SIGMA = 1e-3  # umap-learn's MIN_K_DIST_SCALE


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
            in_batch = is_edge & (batch == code)
            rows = np.flatnonzero(in_batch.any(axis=1))
            overall_mean = _mean_distance(distances, in_batch)[1]
            weights[rows] += _fuzzy(distances[rows], in_batch[rows], overall_mean)
        return weights
    return _fuzzy(distances, is_edge, _mean_distance(distances, is_edge)[1])


def _fuzzy(distances: NDArray[Any], is_edge: NDArray[np.bool_], overall_mean: float) -> NDArray[np.float32]:
    """Membership strengths of neighbours that belong together."""

    def weigh(rows: slice) -> NDArray[np.float32]:
        return _fuzzy_block(distances[rows], is_edge[rows], overall_mean)

    blocks = list(in_threads(weigh, row_slices(len(distances))))
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
