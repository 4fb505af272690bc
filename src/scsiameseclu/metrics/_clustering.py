"""Agreement between a clustering and known labels."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score


class ClusteringMetrics(TypedDict):
    """Result of :func:`clustering_metrics`."""

    acc: float
    """Share of cells whose cluster is matched to their label."""
    nmi: float
    """Normalised mutual information, arithmetic mean of the two entropies as denominator."""
    ari: float
    """Adjusted Rand index: 0 is chance, 1 is perfect."""
    f1_macro: float
    """F1 score after matching, averaged over the labels with equal weight."""
    n_clusters: int
    """Number of clusters that have cells."""


def clustering_metrics(y_true: Sequence[Any] | Any, y_pred: Sequence[Any] | Any) -> ClusteringMetrics:
    """Score a clustering against known labels.

    Accuracy and F1 match clusters to labels one to one (Hungarian method), which maximises the number of matched
    cells; among equally good matchings the one with the highest F1 is taken, so that the scores do not depend on how
    labels or clusters are named. The numbers of labels and clusters may differ: cells of a cluster without a label are
    errors, and a label without a cluster has an F1 score of 0.

    Parameters
    ----------
    y_true
        Known labels, length ``n``: strings, numbers, booleans or a pandas categorical; no missing values.
    y_pred
        Cluster of each cell, in the same order and of any of these types; names need not agree with the labels.

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
    Accuracy and macro-F1 as in the clustering benchmarks that scSiameseClu reports; NMI and ARI are those of
    scikit-learn.

    Examples
    --------
    >>> clustering_metrics(["B", "B", "T", "T"], [1, 1, 0, 2])["acc"]
    0.75
    """
    _check_same_order(y_true, y_pred)
    true, n_true = _codes(y_true, "y_true")
    pred, n_pred = _codes(y_pred, "y_pred")
    if len(true) != len(pred):
        raise ValueError(
            f"Expected y_true and y_pred of one length, found {len(true)} and {len(pred)}; pass the same cells to both."
        )
    counts = np.bincount(true * n_pred + pred, minlength=n_true * n_pred).reshape(n_true, n_pred)
    f1 = 2.0 * counts / (counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True))
    # The F1 part of the sum stays below 1, so it decides between matchings of equal accuracy and nothing else.
    rows, columns = linear_sum_assignment(counts + f1 / (min(n_true, n_pred) + 1), maximize=True)
    return {
        "acc": float(counts[rows, columns].sum() / len(true)),
        "nmi": float(normalized_mutual_info_score(true, pred)),
        "ari": float(adjusted_rand_score(true, pred)),
        "f1_macro": float(f1[rows, columns].sum() / n_true),
        "n_clusters": n_pred,
    }


def _codes(labels: Any, name: str) -> tuple[NDArray[np.int64], int]:
    """Numbers of the labels that occur, and how many there are."""
    values = labels if isinstance(labels, pd.Series | pd.Index | pd.Categorical | np.ndarray) else _as_array(labels)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"Expected {name} as a non-empty one-dimensional array, found shape {tuple(values.shape)}; "
            "pass one label per cell."
        )
    codes, names = pd.factorize(values)
    if (codes < 0).any():
        position = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"Expected {name} without missing values, found {int((codes < 0).sum())} (the first at position "
            f"{position}); drop the unlabelled cells from both inputs."
        )
    return codes.astype(np.int64), len(names)


def _as_array(labels: Any) -> NDArray[Any]:
    """Array of the labels; lists stay objects, because NumPy would turn a missing value among strings into 'nan'."""
    if hasattr(labels, "__array__"):
        return np.asarray(labels)
    return pd.Series(list(labels)).to_numpy()


def _check_same_order(y_true: Any, y_pred: Any) -> None:
    """Refuse two Series that name the same cells in a different order: scores go by position."""
    if not (isinstance(y_true, pd.Series) and isinstance(y_pred, pd.Series)):
        return
    first, second = y_true.index, y_pred.index
    if len(first) == len(second) and not first.equals(second) and first.sort_values().equals(second.sort_values()):
        raise ValueError(
            "Expected y_true and y_pred in the same order, found the same cells in different orders; "
            "reindex one with the other's index."
        )
