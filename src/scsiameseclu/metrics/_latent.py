"""Scores that show whether an embedding has collapsed or is over-smoothed. No labels are needed.

Time and memory grow linearly with the number of cells.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scsiameseclu.metrics._matching import codes_of

__all__ = ["effective_rank", "mean_pairwise_cosine"]


class PairwiseCosine(TypedDict):
    """Result of :func:`mean_pairwise_cosine`."""

    all: float
    """Mean over all pairs of different cells."""
    within: float
    """Mean over all pairs of cells of the same group; NaN if there is no such pair."""
    between: float
    """Mean over all pairs of cells of different groups; NaN if there is no such pair."""


def effective_rank(latent: ArrayLike, *, center: bool = True) -> float:
    r"""Compute the effective rank of an embedding: the number of dimensions that the embedding really uses.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = \sigma_i / \sum_j \sigma_j

    with the singular values :math:`\sigma_i` of the embedding. The effective rank is ``d`` if the cells vary equally in
    all directions, and close to 1 if the cells lie on a line.

    Parameters
    ----------
    latent
        Embedding, ``(n, d)``.
    center
        Whether to subtract the mean of each dimension first. The effective rank then does not depend on the position of
        the origin.

    Returns
    -------
    float
        Number between 1 and ``min(n, d)``; 0 if all cells are at one point.

    Raises
    ------
    ValueError
        If the embedding is not two-dimensional, empty or not finite.

    Notes
    -----
    Source: Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007. The singular values
    are computed from the ``(d, d)`` matrix of products of the dimensions.

    Examples
    --------
    >>> round(effective_rank([[1, 0], [-1, 0], [0, 1], [0, -1]]), 6)
    2.0
    """
    values = _check(latent)
    if center:
        values = values - values.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(values.T @ values)
    # Rounding turns eigenvalues of 0 into small positive numbers, whose square roots would not be small.
    floor = max(values.shape) * np.finfo(np.float64).eps * eigenvalues.max()
    singular = np.sqrt(eigenvalues[eigenvalues > floor])
    if singular.size == 0:
        return 0.0
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def mean_pairwise_cosine(latent: ArrayLike, labels: Sequence[Any] | Any | None = None) -> PairwiseCosine:
    r"""Compute the mean cosine similarity between cells, within and between groups.

    If the similarity between groups is close to 1, the embedding is over-smoothed. With unit vectors :math:`u_i`, the
    sum over all pairs of cells is

    .. math:: \sum_{i \ne j} u_i^\top u_j = \Bigl\lVert \sum_i u_i \Bigr\rVert^2 - \sum_i \lVert u_i \rVert^2.

    So time and memory grow linearly with the number of cells, and not with the number of pairs.

    Parameters
    ----------
    latent
        Embedding, ``(n, d)``, of at least two cells. A cell at the origin has similarity 0 to every other cell.
    labels
        Group of each cell, length ``n``, for instance its cluster. ``None``: all cells are in one group.

    Returns
    -------
    PairwiseCosine
        Dictionary with ``all``, ``within`` and ``between``, each in ``[-1, 1]`` or NaN.

    Raises
    ------
    ValueError
        If the embedding is not two-dimensional or not finite, if there are fewer than two cells, or if the labels have
        missing values or another length.

    Examples
    --------
    >>> mean_pairwise_cosine([[1, 0], [2, 0], [0, 1]], ["a", "a", "b"])["within"]
    1.0
    """
    values = _check(latent)
    n_obs = len(values)
    if n_obs < 2:
        raise ValueError(f"Expected at least two cells, found {n_obs}; there are no pairs.")
    codes = np.zeros(n_obs, dtype=np.int64) if labels is None else codes_of(labels, "labels")[0]
    if len(codes) != n_obs:
        raise ValueError(f"Expected one label per cell, found {len(codes)} labels and {n_obs} cells.")
    units = unit_rows(values)
    own = np.bincount(codes, weights=(units**2).sum(axis=1))
    sums = np.stack([np.bincount(codes, weights=axis) for axis in units.T], axis=1)
    sizes = np.bincount(codes).astype(np.float64)

    total, pairs = float((sums.sum(axis=0) ** 2).sum() - own.sum()), n_obs * (n_obs - 1.0)
    within, pairs_within = float((sums**2).sum() - own.sum()), float((sizes * (sizes - 1)).sum())
    pairs_between = pairs - pairs_within
    return {
        "all": total / pairs,
        "within": within / pairs_within if pairs_within else float("nan"),
        "between": (total - within) / pairs_between if pairs_between else float("nan"),
    }


def unit_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their Euclidean length; rows of zeros stay as they are."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)


def _check(latent: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(latent, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"Expected an embedding of shape (n, d), found {values.shape}; pass cells as rows.")
    if not np.isfinite(values).all():
        raise ValueError("Expected a finite embedding, found NaN or infinite values; check how it was computed.")
    return values
