"""A metric for principal components in which the differences between like cells are small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_MUTUAL = 10
"""Two cells are a pair if each is among this many nearest cells of the other."""

SHRINKAGE = 0.1
"""What is added to every variance of the noise, as a share of their mean."""

MAX_PAIRS = 400
"""Pairs of batches up to which all are compared; with more, each batch is compared with a few others."""

_MAX_CELLS = 10_000
_MIN_NORM = 1e-8


def unit_length(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, ``(n, n_dims)``; the Euclidean distance between them grows with their angle alone."""
    lengths = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), _MIN_NORM).astype(np.float32)
    return points / lengths


def noise_metric(
    points: NDArray[np.float32],
    batch: Sequence[Any] | pd.Series | NDArray[Any] | None = None,
    random_state: int | None = 0,
) -> NDArray[np.float32]:
    r"""Linear map that shrinks the directions in which like cells differ.

    Like cells are mutual nearest neighbours by cosine: of different batches, where there are several (as Haghverdi et
    al. 2018 match batches; each with a few others if there are many), otherwise of all. Their differences are noise
    and batch effects, whatever the cells are. With :math:`C` half their mean square, the map is

    .. math:: (C + \lambda \, \overline{c} \, I)^{-1/2}, \qquad \lambda = 0.1,

    with :math:`\overline{c}` the mean eigenvalue of :math:`C` (within-class covariance normalisation of Hatch et al.
    2006, with pairs in place of classes). It is the same for all cells, known and new, and needs no batch of theirs.

    Parameters
    ----------
    points
        Shape ``(n_obs, n_dims)``, centred: principal components. At most 10,000 cells, drawn at random, are used.
    batch
        Length ``n_obs``, optional.
    random_state
        Seed of the sample.

    Returns
    -------
    float32, symmetric, shape ``(n_dims, n_dims)``; the identity if there are fewer pairs than dimensions.
    """
    rows = np.arange(len(points))
    if len(rows) > _MAX_CELLS:
        rows = np.sort(np.random.default_rng(random_state).choice(len(rows), _MAX_CELLS, replace=False))
    sample = points[rows]
    codes = (
        np.zeros(len(rows), dtype=np.int64) if batch is None else pd.factorize(np.asarray(batch)[rows], sort=True)[0]
    )
    first, second = _like_cells(unit_length(sample), codes)
    n_dims = points.shape[1]
    if len(first) < n_dims:
        return np.eye(n_dims, dtype=np.float32)
    difference = (sample[first] - sample[second]).astype(np.float64)
    variances, axes = np.linalg.eigh(difference.T @ difference / (2 * len(difference)))
    floor = SHRINKAGE * variances.mean()
    if floor <= 0.0:  # every cell is equal to its pair
        return np.eye(n_dims, dtype=np.float32)
    scales = 1.0 / np.sqrt(np.maximum(variances, 0.0) + floor)
    return ((axes * scales) @ axes.T).astype(np.float32)


def _like_cells(
    directions: NDArray[np.float32], codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of every pair of mutual nearest neighbours, each once; pairs between batches if there are several."""
    names, codes = np.unique(codes, return_inverse=True)
    partners: dict[int, set[int]] = {code: set() for code in range(len(names))}
    for i, j in _compared(len(names)):
        partners[i].add(j)
        partners[j].add(i)
    width = N_MUTUAL + (len(names) == 1)  # a cell is the nearest to itself
    nearest = sparse.csr_matrix((len(codes), len(codes)))
    for giver, askers in partners.items():  # one search per batch
        members, queries = np.flatnonzero(codes == giver), np.flatnonzero(np.isin(codes, list(askers)))
        nearest += _neighbours(directions, queries, members, width)
    first, second = sparse.triu(nearest.multiply(nearest.T), k=1).nonzero()
    return first, second


def _compared(n_batches: int) -> list[tuple[int, int]]:
    """Pairs of batches to compare: all, or of many batches each with as many neighbours on a circle."""
    if n_batches == 1:
        return [(0, 0)]
    if n_batches * (n_batches - 1) // 2 <= MAX_PAIRS:
        return [(i, j) for i in range(n_batches) for j in range(i + 1, n_batches)]
    steps = max(MAX_PAIRS // n_batches, 1)
    return [(i, (i + step) % n_batches) for i in range(n_batches) for step in range(1, steps + 1)]


def _neighbours(
    directions: NDArray[np.float32], queries: NDArray[np.int64], members: NDArray[np.int64], width: int
) -> sparse.csr_matrix:
    """Which of the members are nearest to the queries, in a table of all cells by all cells."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(width, len(members)), algorithm="brute").fit(directions[members])
    found = search.kneighbors(directions[queries], return_distance=False)
    rows, columns = np.repeat(queries, found.shape[1]), members[found].ravel()
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(directions), len(directions)))
