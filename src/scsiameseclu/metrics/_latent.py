"""Has an embedding collapsed? Label-free numbers in memory that grows with the cells."""

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
    """Mean over the pairs of one group; NaN if there is none."""
    between: float
    """Mean over the pairs of different groups; NaN if there is none."""


def effective_rank(latent: ArrayLike, *, center: bool = True) -> float:
    r"""Number of dimensions that an embedding really uses.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = \sigma_i / \sum_j \sigma_j

    with the singular values :math:`\sigma` of the embedding: ``d`` if all directions are used alike, close to 1 if the
    cells lie on a line.

    Parameters
    ----------
    latent
        Embedding, ``(n, d)``.
    center
        Subtract the mean of each dimension first, so that the position of the cloud of cells does not count.

    Returns
    -------
    float
        Between 1 and ``min(n, d)``; 0 if all cells are at one point.

    Raises
    ------
    ValueError
        If the embedding is not two-dimensional, empty or not finite.

    Notes
    -----
    Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007. The singular values are
    computed from the ``(d, d)`` matrix of products.

    Examples
    --------
    >>> round(effective_rank([[1, 0], [-1, 0], [0, 1], [0, -1]]), 6)
    2.0
    """
    values = _check(latent)
    if center:
        values = values - values.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(values.T @ values)
    # Rounding makes small eigenvalues of what are zeros, and their roots would not be small.
    floor = max(values.shape) * np.finfo(np.float64).eps * eigenvalues.max()
    singular = np.sqrt(eigenvalues[eigenvalues > floor])
    if singular.size == 0:
        return 0.0
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def mean_pairwise_cosine(latent: ArrayLike, labels: Sequence[Any] | Any | None = None) -> PairwiseCosine:
    r"""Mean cosine similarity between cells, within and between groups.

    Over-smoothing shows as values close to 1 between groups. With unit vectors :math:`u_i`, a sum over pairs is

    .. math:: \sum_{i \ne j} u_i^\top u_j = \Bigl\lVert \sum_i u_i \Bigr\rVert^2 - \sum_i \lVert u_i \rVert^2,

    so that time and memory grow with the number of cells, not of pairs.

    Parameters
    ----------
    latent
        Embedding, ``(n, d)``, at least two cells. A cell at the origin has similarity 0 to every other.
    labels
        Group of each cell, length ``n``, such as clusters; ``None``: one group.

    Returns
    -------
    PairwiseCosine
        Dictionary with ``all``, ``within`` and ``between``, each in ``[-1, 1]`` or NaN.

    Raises
    ------
    ValueError
        If the embedding is not two-dimensional or not finite, there are fewer than two cells, or the labels are missing
        or of another length.

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
