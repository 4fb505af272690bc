"""Edge weights of UMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.pp._threads import in_threads, row_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_WEIGHT = 1e-8  # smallest weight of an edge, so that no edge is lost by underflow
_N_BISECTIONS = 64
_MIN_SIGMA = 1e-3  # MIN_K_DIST_SCALE of umap-learn


def fuzzy_weights(
    distances: NDArray[Any], is_edge: NDArray[np.bool_] | None = None, batch: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    r"""Compute the directed membership strengths of UMAP as edge weights.

    .. math:: w_{ij} = \exp(-\max(0, d_{ij} - \rho_i) / \sigma_i), \qquad \sum_j w_{ij} = \log_2(k_i + 1)

    :math:`d_{ij}` is the distance between cell *i* and its neighbour *j*, :math:`\rho_i` is the smallest positive
    distance of cell *i*, and :math:`k_i` is its number of neighbours. :math:`\sigma_i` is found by bisection. The
    logarithm is of :math:`k_i + 1`, because UMAP counts a cell among its own neighbours, and this package does not.

    With batches, the weights are computed for the neighbours in each batch separately. So a batch effect, which makes
    all cells of another batch more distant, does not reduce the weights. Batches that give the same number of
    neighbours have the same total weight.

    Parameters
    ----------
    distances
        Distances to the neighbours, ``(n_obs, k)``.
    is_edge
        ``False`` on padding, bool ``(n_obs, k)``. Padding gets weight 0. ``None``: there is no padding.
    batch
        Batch code of every neighbour, ``(n_obs, k)``, if neighbours were taken from each batch. ``None``: no batches.

    Returns
    -------
    numpy.ndarray
        Weights, float32 ``(n_obs, k)``, in (0, 1] on edges and 0 on padding.

    Notes
    -----
    Source: McInnes et al. 2018, section 3.1, algorithm ``SmoothKNNDist``.
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
    """Membership strengths of the neighbours from one batch, or of all neighbours without batches."""

    def weigh(rows: slice) -> NDArray[np.float32]:
        return _fuzzy_block(distances[rows], is_edge[rows], overall_mean)

    blocks = list(in_threads(weigh, row_slices(len(distances))))
    return np.concatenate(blocks) if blocks else np.zeros(distances.shape, dtype=np.float32)


def _fuzzy_block(distances: NDArray[Any], is_edge: NDArray[np.bool_], overall_mean: float) -> NDArray[np.float32]:
    dist = np.where(is_edge, distances, np.inf).astype(np.float64)
    nearest = np.where(dist > 0, dist, np.inf).min(axis=1, keepdims=True)
    rho = np.where(np.isfinite(nearest), nearest, 0.0)
    excess = np.maximum(dist - rho, 0.0)  # infinite on padding, whose weight is then exp(-inf) = 0
    target = np.log2(is_edge.sum(axis=1, keepdims=True) + 1.0)

    low, high, sigma = np.zeros_like(rho), np.full_like(rho, np.inf), np.ones_like(rho)
    for _ in range(_N_BISECTIONS):
        error = np.exp(-excess / sigma).sum(axis=1, keepdims=True) - target
        # Each row stops separately, so its weights do not depend on the other rows.
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
    """Mean distance per row, and overall mean distance. As in umap-learn, the cell itself is included with 0."""
    totals = np.where(is_edge, distances, 0.0).sum(axis=1, keepdims=True, dtype=np.float64)
    counts = is_edge.sum(axis=1, keepdims=True) + 1
    return totals / counts, float(totals.sum() / max(int(counts.sum()), 1))
