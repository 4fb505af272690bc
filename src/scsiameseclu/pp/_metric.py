"""Linear map of principal components that shrinks the differences between similar cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_MUTUAL = 10
"""Two cells are a pair if each cell is among this number of nearest cells of the other cell."""

SHRINKAGE = 0.1
"""Regularisation of the noise variances: this share of their mean is added to every variance."""

MAX_PAIRS = 400
"""Largest number of pairs of batches that are compared. With more pairs, each batch is compared with a few batches."""

_MAX_CELLS = 10_000
_MIN_NORM = 1e-8


def unit_length(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1, ``(n, n_dims)``. The Euclidean distance between such rows only depends on their angle."""
    lengths = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), _MIN_NORM).astype(np.float32)
    return points / lengths


def noise_metric(
    points: NDArray[np.float32],
    batch: Sequence[Any] | pd.Series | NDArray[Any] | None = None,
    random_state: int | None = 0,
) -> NDArray[np.float32]:
    r"""Compute a linear map that shrinks the directions in which similar cells differ.

    Two cells are similar if they are mutual nearest neighbours by cosine similarity. With several batches, only cells
    of different batches are paired, as in Haghverdi et al. 2018. With many batches, each batch is compared with a few
    other batches. The differences within the pairs are noise and batch effects, and not differences between cell types.
    Let :math:`C` be half the mean of the outer products of the differences. The map is

    .. math:: (C + \lambda \, \overline{c} \, I)^{-1/2}, \qquad \lambda = 0.1,

    with the mean eigenvalue :math:`\overline{c}` of :math:`C`. This is the within-class covariance normalisation of
    Hatch et al. 2006, with pairs instead of classes. The map is the same for all cells. Applying the map to new cells
    does not need their batch.

    Parameters
    ----------
    points
        Centred principal components, ``(n_obs, n_dims)``. At most 10,000 cells, drawn at random, are used.
    batch
        Batch of every cell, length ``n_obs``. ``None``: all cells are of one batch.
    random_state
        Seed of the random sample of cells.

    Returns
    -------
    numpy.ndarray
        Symmetric matrix, float32 ``(n_dims, n_dims)``. The matrix is the identity if there are fewer pairs than
        dimensions.
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
    if floor <= 0.0:  # the two cells of every pair are identical
        return np.eye(n_dims, dtype=np.float32)
    scales = 1.0 / np.sqrt(np.maximum(variances, 0.0) + floor)
    return ((axes * scales) @ axes.T).astype(np.float32)


def _like_cells(
    directions: NDArray[np.float32], codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the first and the second cell of every pair of mutual nearest neighbours.

    With several batches, the two cells of a pair are of different batches. Each pair is returned once.
    """
    names, codes = np.unique(codes, return_inverse=True)
    partners: dict[int, set[int]] = {code: set() for code in range(len(names))}
    for i, j in _compared(len(names)):
        partners[i].add(j)
        partners[j].add(i)
    width = N_MUTUAL + (len(names) == 1)  # with one batch, the nearest cell of each cell is the cell itself
    nearest = sparse.csr_matrix((len(codes), len(codes)))
    for giver, askers in partners.items():  # one search per batch
        members, queries = np.flatnonzero(codes == giver), np.flatnonzero(np.isin(codes, list(askers)))
        nearest += _neighbours(directions, queries, members, width)
    first, second = sparse.triu(nearest.multiply(nearest.T), k=1).nonzero()
    return first, second


def _compared(n_batches: int) -> list[tuple[int, int]]:
    """Pairs of batches to compare.

    With many batches, the batches are arranged on a circle, and each batch is compared with the next few batches.
    """
    if n_batches == 1:
        return [(0, 0)]
    if n_batches * (n_batches - 1) // 2 <= MAX_PAIRS:
        return [(i, j) for i in range(n_batches) for j in range(i + 1, n_batches)]
    steps = max(MAX_PAIRS // n_batches, 1)
    return [(i, (i + step) % n_batches) for i in range(n_batches) for step in range(1, steps + 1)]


def _neighbours(
    directions: NDArray[np.float32], queries: NDArray[np.int64], members: NDArray[np.int64], width: int
) -> sparse.csr_matrix:
    """Nearest members of every query, as ones in a sparse matrix of all cells by all cells."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(width, len(members)), algorithm="brute").fit(directions[members])
    found = search.kneighbors(directions[queries], return_distance=False)
    rows, columns = np.repeat(queries, found.shape[1]), members[found].ravel()
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(directions), len(directions)))
