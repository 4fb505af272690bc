"""Agreement between a clustering and known labels."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scsiameseclu.metrics._matching import codes_of, contingency_of_labels, match_groups, overlap_f1


class ClusteringMetrics(TypedDict):
    """Result of :func:`clustering_metrics`."""

    acc: float
    """Accuracy: share of cells whose cluster is matched to their label."""
    nmi: float
    """Normalised mutual information. The denominator is the arithmetic mean of the two entropies."""
    ari: float
    """Adjusted Rand index. Random clusters have an expected index of 0, perfect clusters have 1."""
    f1_macro: float
    """F1 score of each label with its matched cluster, averaged over the labels with equal weight."""
    n_clusters: int
    """Number of clusters that have cells."""


def clustering_metrics(y_true: Sequence[Any] | Any, y_pred: Sequence[Any] | Any) -> ClusteringMetrics:
    """Score a clustering against known labels.

    For accuracy and F1, clusters are matched to labels one to one (Hungarian method), so that the number of matched
    cells is as large as possible. Among equally good matchings, the matching with the highest F1 is chosen. So the
    scores do not depend on the names of labels or clusters. The numbers of labels and clusters may differ. Cells of a
    cluster without a matched label count as errors. A label without a matched cluster has an F1 score of 0.

    Parameters
    ----------
    y_true
        Known label of each cell, length ``n``: strings, numbers, booleans or a pandas categorical, without missing
        values.
    y_pred
        Cluster of each cell, length ``n``, in the same order as ``y_true``. The same types as for ``y_true`` are
        accepted. The names of the clusters need not be names of labels.

    Returns
    -------
    ClusteringMetrics
        Dictionary with ``acc``, ``nmi``, ``ari``, ``f1_macro`` (floats, at most 1) and ``n_clusters`` (int).

    Raises
    ------
    ValueError
        If the inputs are empty, not one-dimensional, of different lengths, have missing values, or are two pandas
        Series with the same cells in a different order.

    Notes
    -----
    Accuracy and macro-F1 are defined as in the benchmarks of scSiameseClu (Xu et al., IJCAI 2025). NMI and ARI are
    computed by scikit-learn.

    Examples
    --------
    >>> clustering_metrics(["B", "B", "T", "T"], [1, 1, 0, 2])["acc"]
    0.75
    """
    counts = contingency_of_labels(y_true, y_pred)[0]
    f1 = overlap_f1(counts)
    rows, columns = match_groups(counts)
    true, pred = codes_of(y_true, "y_true")[0], codes_of(y_pred, "y_pred")[0]
    return {
        "acc": float(counts[rows, columns].sum() / counts.sum()),
        "nmi": float(normalized_mutual_info_score(true, pred)),
        "ari": float(adjusted_rand_score(true, pred)),
        "f1_macro": float(f1[rows, columns].sum() / len(counts)),
        "n_clusters": counts.shape[1],
    }


def rare_type_recall(y_true: Sequence[Any] | Any, y_pred: Sequence[Any] | Any, max_fraction: float = 0.02) -> float:
    """Compute the mean recall of rare cell types.

    Clusters are matched to labels one to one, as in :func:`clustering_metrics`. The recall of a type is the share of
    its cells in the matched cluster, or 0 if the type has no matched cluster. All rare types have equal weight in the
    mean.

    Parameters
    ----------
    y_true
        Known label of each cell, as for :func:`clustering_metrics`.
    y_pred
        Cluster of each cell, in the same order as ``y_true``.
    max_fraction
        A type is rare if its share of all cells is at most ``max_fraction``, in ``(0, 1]``.

    Returns
    -------
    float
        Mean recall of the rare types, in ``[0, 1]``; NaN if no type is rare.

    Raises
    ------
    ValueError
        As :func:`clustering_metrics`, or if ``max_fraction`` is out of range.

    Examples
    --------
    >>> rare_type_recall(["T"] * 98 + ["pDC"] * 2, [0] * 99 + [1])
    0.5
    """
    if not 0 < max_fraction <= 1:
        raise ValueError(f"Expected max_fraction in (0, 1], found {max_fraction}; pass a share of the cells.")
    counts = contingency_of_labels(y_true, y_pred)[0]
    sizes = counts.sum(axis=1)
    recall = np.zeros(len(sizes))
    rows, columns = match_groups(counts)
    recall[rows] = counts[rows, columns] / sizes[rows]
    rare = sizes <= max_fraction * sizes.sum()
    return float(recall[rare].mean()) if rare.any() else float("nan")
