"""Integer codes of labels, and one-to-one matching of two groupings of the same cells."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def codes_of(labels: Any, name: str) -> tuple[NDArray[np.int64], pd.Index]:
    """Integer codes of the labels, int64 ``(n,)``, and the distinct labels in order of appearance."""
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
    return codes.astype(np.int64), pd.Index(names)


def check_same_cells(y_true: Any, y_pred: Any) -> None:
    """Refuse two Series with the same cells in a different order, because cells are compared by position."""
    if not (isinstance(y_true, pd.Series) and isinstance(y_pred, pd.Series)):
        return
    first, second = y_true.index, y_pred.index
    if len(first) == len(second) and not first.equals(second) and first.sort_values().equals(second.sort_values()):
        raise ValueError(
            "Expected y_true and y_pred in the same order, found the same cells in different orders; "
            "reindex one with the other's index."
        )


def contingency(first: NDArray[np.int64], second: NDArray[np.int64], n_first: int, n_second: int) -> NDArray[np.int64]:
    """Number of cells in every pair of groups, int64 ``(n_first, n_second)``."""
    return np.bincount(first * n_second + second, minlength=n_first * n_second).reshape(n_first, n_second)


def overlap_f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 score of every pair of groups. ``counts`` is the result of :func:`contingency`; every group needs a cell."""
    return 2.0 * counts / (counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True))


def match_groups(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match rows and columns one to one, so that the matched pairs have the most cells in common.

    Among equally good matchings, the matching with the highest sum of F1 scores is chosen.
    """
    # The sum of the scaled F1 scores is below 1. So F1 only decides between matchings with equally many common cells.
    return linear_sum_assignment(counts + overlap_f1(counts) / (min(counts.shape) + 1), maximize=True)


def contingency_of_labels(y_true: Any, y_pred: Any) -> tuple[NDArray[np.int64], pd.Index, pd.Index]:
    """Contingency table of labels (rows) and clusters (columns), names of the labels, and names of the clusters."""
    check_same_cells(y_true, y_pred)
    true, true_names = codes_of(y_true, "y_true")
    pred, pred_names = codes_of(y_pred, "y_pred")
    if len(true) != len(pred):
        raise ValueError(
            f"Expected y_true and y_pred of the same length, found {len(true)} and {len(pred)}; pass the same cells in "
            "both."
        )
    return contingency(true, pred, len(true_names), len(pred_names)), true_names, pred_names


def _as_array(labels: Any) -> NDArray[Any]:
    """Convert labels to an array. Lists become arrays of objects: numpy would change missing values to ``"nan"``."""
    if hasattr(labels, "__array__"):
        return np.asarray(labels)
    return pd.Series(list(labels)).to_numpy()
