"""Which of several partitions? Label-free judges."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.partition._candidates import N_DIMS, candidates
from scsiameseclu.partition._mixture import fit_mixture
from scsiameseclu.partition._space import Space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_JUDGED_CELLS = 2_000
AGREEMENT_WEIGHT = 2.0


def partition_cells(space: Space, n_clusters: int) -> NDArray[np.int64]:
    """Partition cells into clusters: of all :func:`~scsiameseclu.partition._candidates.candidates` the one judged best.

    Parameters
    ----------
    space
        The cells.
    n_clusters
        Number of clusters, at least 1.

    Returns
    -------
    Cluster of each cell, int64 ``(n_obs,)``. There are fewer clusters only if fewer cells differ.

    Raises
    ------
    ValueError
        If there are fewer cells than clusters, or ``n_clusters`` is below 1.
    """
    if not 1 <= n_clusters <= space.n_obs:
        raise ValueError(
            f"Expected at least {max(n_clusters, 1)} cells for {n_clusters} clusters, found {space.n_obs}."
        )
    if n_clusters == 1:
        return np.zeros(space.n_obs, dtype=np.int64)
    distinct = np.unique(space.expression, axis=0, return_inverse=True)[1].ravel()
    if distinct.max() + 1 <= n_clusters:
        return distinct.astype(np.int64)
    found = candidates(space, n_clusters)
    return found[best(space, found)]


def best(space: Space, found: Mapping[str, NDArray[np.integer]]) -> str:
    """Name of the partition with the best sum of ranks.

    Three judges rank the partitions: the likelihood of equally wide groups of decoded expression, the likelihood of
    groups of own widths of the embedding, and, with twice the weight, the mean agreement with the other partitions
    (adjusted Rand index). Each judge alone errs on some kind of data: equal widths split broad types, and own widths
    favour chains. The judges see at most 2,000 cells.

    Parameters
    ----------
    space
        The cells.
    found
        Partitions of the cells into the same number of clusters, by name.
    """
    return max(scores := judge(space, found), key=lambda name: scores[name])


def judge(space: Space, found: Mapping[str, NDArray[np.integer]]) -> dict[str, float]:
    """Weighted sum of ranks of each partition by name, the higher the better; see :func:`best`."""
    return dict(zip(found, sum_of_ranks(judge_values(space, found)).tolist(), strict=True))


def sum_of_ranks(values: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """Weighted sum of the judges' ranks of what :func:`judge_values` returns, ``(n_partitions,)``."""
    # Rounded, so that two partitions that differ in the numbering of their clusters tie.
    equal, own, agreement = (rankdata(np.round(values[name], 6)) for name in ("equal", "own", "agreement"))
    return equal + own + AGREEMENT_WEIGHT * agreement


def judge_values(space: Space, found: Mapping[str, NDArray[np.integer]]) -> dict[str, NDArray[np.float64]]:
    """What each judge says of the partitions, the higher the better, in the order of ``found``; see :func:`best`.

    Parameters
    ----------
    space
        The cells.
    found
        Partitions of the cells into the same number of clusters, by name.

    Returns
    -------
    By judge, ``(n_partitions,)``: ``"equal"``, ``"own"`` (mean log-likelihood per cell) and ``"agreement"`` (sum of
    adjusted Rand indices).
    """
    rows = space.sample(MAX_JUDGED_CELLS)
    seen = [np.unique(labels[rows], return_inverse=True)[1] for labels in found.values()]
    expression, embedding = space.expression[rows, :N_DIMS], space.embedding[rows]
    return {
        "equal": np.array([fit_mixture(expression, labels, "equal")[0] for labels in seen]),
        "own": np.array([fit_mixture(embedding, labels, "own")[0] for labels in seen]),
        "agreement": _agreement(seen),
    }


def _agreement(partitions: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Sum of the adjusted Rand indices of each partition with all, itself included, ``(n_partitions,)``."""
    matrix = np.eye(len(partitions))
    for one, other in combinations(range(len(partitions)), 2):
        matrix[one, other] = matrix[other, one] = adjusted_rand_score(partitions[one], partitions[other])
    return matrix.sum(axis=1)
