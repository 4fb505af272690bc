"""Inverted-file search for nearest neighbours: a query is compared with the points of the groups around it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from scsiameseclu.pp._exact_search import search_exact

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_PROBES = 32
"""Groups that a query is compared with, at least."""

_CELLS_PER_CENTRE = 50  # points of the sample that centres are fitted to
_ITERATIONS = 8
_BLOCK = 4096


def search_inverted(
    points: NDArray[np.float32],
    queries: NDArray[np.float32],
    width: int,
    random_state: int | None = 0,
    compare: Callable[[NDArray[np.float32], NDArray[np.float32], int], NDArray[np.int64]] = search_exact,
) -> NDArray[np.int64]:
    """Rows of points that are near every query, in any order; -1 where a query has fewer than others.

    K-means divides ``n`` points into about ``sqrt(n)`` groups. A query is compared with all points of the
    :data:`N_PROBES` groups whose centres are nearest to the centre of its own group, so that time grows with
    ``n ** 1.5``. Source: Sivic and Zisserman (ICCV 2003); Jégou et al. (IEEE TPAMI 2011).

    Parameters
    ----------
    points
        float32, shape ``(n, n_dims)``.
    queries
        float32, shape ``(n_queries, n_dims)``.
    width
        Points wanted per query; at most ``n``.
    random_state
        Seed of the k-means.
    compare
        Exact search of some queries among some points, with a number of points per query as the third argument.
        Returns rows of the points, int64 ``(n_queries, width or more)``.

    Returns
    -------
    int64, shape ``(n_queries, width or more)``.
    """
    n_groups = max(round(len(points) ** 0.5), 1)
    centres = _centres(points, n_groups, random_state)
    members = _members(_nearest_centre(points, centres), len(centres))
    askers = members if queries is points else _members(_nearest_centre(queries, centres), len(centres))
    sizes = np.array([len(rows) for rows in members])
    found: NDArray[np.int64] = np.full((len(queries), width), -1, dtype=np.int64)
    for centre, rows in zip(centres, askers, strict=True):
        if len(rows) == 0:
            continue
        order = np.argsort(np.square(centres - centre).sum(axis=1), kind="stable")
        n_probes = max(N_PROBES, 1 + int(np.searchsorted(np.cumsum(sizes[order]), width)))
        near = np.concatenate([members[group] for group in order[:n_probes]])
        chosen = near[compare(points[near], queries[rows], width)]
        if chosen.shape[1] > found.shape[1]:
            found = np.pad(found, ((0, 0), (0, chosen.shape[1] - found.shape[1])), constant_values=-1)
        found[rows, : chosen.shape[1]] = chosen
    return found


def _centres(points: NDArray[np.float32], n_groups: int, random_state: int | None) -> NDArray[np.float32]:
    """Centres of groups, float32 ``(n_groups, n_dims)``, fitted to a sample of the points."""
    n_sample = min(_CELLS_PER_CENTRE * n_groups, len(points))
    sample = np.random.default_rng(random_state).choice(len(points), n_sample, replace=False)
    k_means = KMeans(n_groups, init="random", n_init=1, max_iter=_ITERATIONS, random_state=random_state)
    with warnings.catch_warnings():
        # Points in one place leave centres without points.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return k_means.fit(points[np.sort(sample)]).cluster_centers_.astype(np.float32)


def _nearest_centre(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Row of the centre nearest to each point, ``(n,)``."""
    targets = torch.as_tensor(centres)
    # The nearest centre c to a point p is the centre with the largest p.c - |c|^2 / 2.
    penalty = targets.square().sum(dim=1).div_(2)
    blocks = torch.as_tensor(points).split(_BLOCK)
    return torch.cat([torch.addmm(penalty, block, targets.T, beta=-1).argmax(dim=1) for block in blocks]).numpy()


def _members(group_of: NDArray[np.int64], n_groups: int) -> list[NDArray[np.int64]]:
    """Rows of each group, ascending."""
    ends = np.cumsum(np.bincount(group_of, minlength=n_groups))
    return np.split(np.argsort(group_of, kind="stable"), ends[:-1])
