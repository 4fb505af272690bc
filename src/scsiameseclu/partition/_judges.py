"""Choice among several partitions of the cells, without labels."""

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
    """Partition cells into clusters.

    The function computes several partitions (:func:`~scsiameseclu.partition._candidates.candidates`), and returns the
    best partition (:func:`best`).

    Parameters
    ----------
    space
        The cells.
    n_clusters
        Number of clusters, at least 1.

    Returns
    -------
    Cluster of each cell, int64 ``(n_obs,)``. The number of clusters is smaller than ``n_clusters`` only if there are
    fewer different cells.

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
    """Find the partition with the best sum of ranks.

    Three criteria rank the partitions:

    * the likelihood of a Gaussian mixture with one covariance for all clusters, on decoded expression;
    * the likelihood of a Gaussian mixture in which each cluster has its own width, on the embedding;
    * the mean agreement with the other partitions (adjusted Rand index), with twice the weight.

    No single criterion works for all data. The first criterion splits broad cell types, and the second favours
    elongated chains of cells. The criteria are computed on at most 2,000 cells.

    Parameters
    ----------
    space
        The cells.
    found
        Partitions of the cells into the same number of clusters, by name.

    Returns
    -------
    Name of the best partition.
    """
    return max(scores := judge(space, found), key=lambda name: scores[name])


def judge(space: Space, found: Mapping[str, NDArray[np.integer]]) -> dict[str, float]:
    """Weighted sum of the ranks of each partition, by name (see :func:`best`). Higher is better."""
    return dict(zip(found, sum_of_ranks(judge_values(space, found)).tolist(), strict=True))


def sum_of_ranks(values: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """Weighted sum of the ranks of each partition, ``(n_partitions,)``, from the result of :func:`judge_values`."""
    # Rounding gives the same rank to two partitions that differ only in the numbers of their clusters.
    equal, own, agreement = (rankdata(np.round(values[name], 6)) for name in ("equal", "own", "agreement"))
    return equal + own + AGREEMENT_WEIGHT * agreement


def judge_values(space: Space, found: Mapping[str, NDArray[np.integer]]) -> dict[str, NDArray[np.float64]]:
    """Compute the three criteria of :func:`best` for each partition. Higher is better.

    Parameters
    ----------
    space
        The cells.
    found
        Partitions of the cells into the same number of clusters, by name.

    Returns
    -------
    Values by criterion, ``(n_partitions,)``, in the order of ``found``. ``"equal"`` and ``"own"`` are mean
    log-likelihoods per cell, in nats. ``"agreement"`` is the sum of adjusted Rand indices.
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
    """Sum of the adjusted Rand indices of each partition with all partitions, itself included, ``(n_partitions,)``."""
    matrix = np.eye(len(partitions))
    for one, other in combinations(range(len(partitions)), 2):
        matrix[one, other] = matrix[other, one] = adjusted_rand_score(partitions[one], partitions[other])
    return matrix.sum(axis=1)
