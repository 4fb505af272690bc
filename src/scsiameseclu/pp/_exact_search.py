"""Exact search for nearest neighbours, which compares every query with every point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPARE = 5  # additional candidates per query: candidates are ranked in float32, final distances are in float64
_GPU_SCORES = 2**29  # largest number of pairs that are compared at once on a GPU (2 GB)
_CPU_SCORES = 2**18  # number of pairs that are compared at once on the CPU (1 MB, which fits into the cache)
_MIN_ROWS = 32  # smallest number of queries per block: a matrix product with one query takes as long as with several
_NEAR = 1e-4  # float32 is too coarse for squared distances below this share of the squared norm
_GROUP = 8  # scores per group in `_largest`


def search_exact(points: NDArray[np.float32], queries: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Find the nearest points of every query by comparing all pairs.

    Parameters
    ----------
    points
        Points to search, float32 ``(n_points, n_dims)``.
    queries
        Points to find the neighbours of, float32 ``(n_queries, n_dims)``.
    width
        Number of neighbours.

    Returns
    -------
    numpy.ndarray
        Row numbers of points, int64 ``(n_queries, n_found)``, in any order. Each row contains the ``width`` nearest
        points and a few more candidates.
    """
    return _compared(points, queries, width, "cpu", _CPU_SCORES)


def search_on_device(
    points: NDArray[np.float32], queries: NDArray[np.float32], width: int, device: str | torch.device = "cuda"
) -> NDArray[np.int64]:
    """Find the nearest points of every query as :func:`search_exact` does, on a device."""
    n_scores = _GPU_SCORES
    if torch.device(device).type == "cuda":
        n_scores = min(n_scores, torch.cuda.mem_get_info(device)[0] // 16)  # a quarter of the free memory
    return _compared(points, queries, width, device, n_scores)


def _compared(
    points: NDArray[np.float32], queries: NDArray[np.float32], width: int, device: str | torch.device, n_scores: int
) -> NDArray[np.int64]:
    """Compare blocks of queries with all points in full float32 precision, or in float64 if float32 is too coarse."""
    width = min(width + _SPARE, len(points))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        found, is_near = _ranked(points, queries, width, device, n_scores)
        if is_near.any():
            precise = points.astype(np.float64), queries[is_near].astype(np.float64)
            found[is_near] = _ranked(*precise, width, device, n_scores)[0]
    finally:
        torch.set_float32_matmul_precision(precision)
    return found


def _ranked(
    points: NDArray[np.floating], queries: NDArray[np.floating], width: int, device: str | torch.device, n_scores: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Nearest points of every query, and whether these points are so near that float32 is too coarse to rank them."""
    targets = torch.as_tensor(points, device=device)
    # The nearest point p of a query q has the largest score q.p - |p|^2 / 2, which equals (|q|^2 - distance^2) / 2.
    penalty = targets.square().sum(dim=1).div_(2)
    n_rows = max(n_scores // len(points), _MIN_ROWS)
    found, is_near = [], []
    for start in range(0, len(queries), n_rows):
        block = torch.as_tensor(queries[start : start + n_rows], device=device)
        scores = torch.addmm(penalty, block, targets.T, beta=-1)
        columns = _largest(scores, width)
        norm, last = block.square().sum(dim=1), scores.gather(1, columns).amin(dim=1)
        found.append(columns.cpu())
        is_near.append((norm - 2 * last < _NEAR * norm).cpu())
    return torch.cat(found).numpy(), torch.cat(is_near).numpy()


def _largest(scores: torch.Tensor, width: int) -> torch.Tensor:
    """Columns of the ``width`` largest scores of each row, in any order.

    The scores are divided into groups of eight. The ``width`` groups with the largest maxima contain the ``width``
    largest scores. Searching these groups is several times faster than searching all scores.
    """
    n_groups = scores.shape[1] // _GROUP
    if scores.is_cuda or n_groups <= width:
        return scores.topk(width, dim=1, sorted=False).indices
    # Group j has the columns j, j + n_groups, j + 2 n_groups and so on.
    grouped = scores[:, : n_groups * _GROUP].view(len(scores), _GROUP, n_groups)
    groups = grouped.amax(dim=1).topk(width, dim=1, sorted=False).indices
    columns = groups[:, None, :] + n_groups * torch.arange(_GROUP)[None, :, None]
    rest = torch.arange(n_groups * _GROUP, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns.flatten(1), rest], dim=1)
    chosen = scores.gather(1, columns).topk(width, dim=1, sorted=False).indices
    return columns.gather(1, chosen)
