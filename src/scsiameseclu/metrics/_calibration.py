"""Calibration: comparison of confidences with the share of correct assignments."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["expected_calibration_error", "reliability_curve"]


def reliability_curve(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> pd.DataFrame:
    r"""Compare confidences with the share of correct assignments, in bins of confidence.

    Parameters
    ----------
    confidence
        Confidence of each cell, in ``[0, 1]``, length ``n``.
    correct
        Whether the assignment of each cell is correct, length ``n``: booleans, or 0 and 1.
    n_bins
        Number of bins :math:`M` of equal width. Bin :math:`m` holds the confidences in :math:`((m - 1) / M, m / M]`.
        The first bin also holds the confidence 0.

    Returns
    -------
    pandas.DataFrame
        One row per bin. Columns: ``lower`` and ``upper`` (limits of the bin), ``confidence`` (mean confidence of the
        cells in the bin), ``accuracy`` (share of correct assignments) and ``n_cells``. ``confidence`` and ``accuracy``
        are NaN in empty bins.

    Raises
    ------
    ValueError
        If the inputs are empty, of different lengths, have missing values, or are out of range.

    Notes
    -----
    Bins as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> reliability_curve([0.9, 0.8, 0.3], [True, False, False], n_bins=2)["accuracy"].tolist()
    [0.0, 0.5]
    """
    if n_bins < 1:
        raise ValueError(f"Expected n_bins of at least 1, found {n_bins}.")
    values, hits = _check(confidence, correct)
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, n_bins - 1)
    n_cells = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=each, minlength=n_bins) / n_cells for each in (values, hits)]
    return pd.DataFrame(
        {"lower": edges[:-1], "upper": edges[1:], "confidence": means[0], "accuracy": means[1], "n_cells": n_cells}
    )


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> float:
    r"""Compute the expected calibration error: the mean absolute difference between confidence and accuracy.

    .. math:: \mathrm{ECE} = \sum_m \frac{n_m}{n} \, \lvert \mathrm{accuracy}_m - \mathrm{confidence}_m \rvert

    The sum runs over the bins of :func:`reliability_curve`. :math:`n_m` is the number of cells in bin :math:`m`.

    Parameters
    ----------
    confidence, correct, n_bins
        As for :func:`reliability_curve`.

    Returns
    -------
    float
        Number between 0 and 1. With 0, the confidence equals the share of correct assignments in every bin.

    Raises
    ------
    ValueError
        As :func:`reliability_curve`.

    Notes
    -----
    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3.

    Examples
    --------
    >>> expected_calibration_error([0.75] * 4, [True, True, True, False])
    0.0
    """
    curve = reliability_curve(confidence, correct, n_bins)
    gaps = (curve["accuracy"] - curve["confidence"]).abs().fillna(0.0)
    return float((gaps * curve["n_cells"]).sum() / curve["n_cells"].sum())


def _check(confidence: Any, correct: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or values.shape != hits.shape or values.size == 0:
        raise ValueError(
            f"Expected confidence and correct of the same length, found shapes {values.shape} and {hits.shape}; "
            "pass one value per cell in both."
        )
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():  # single-precision probabilities exceed 1 by rounding
        raise ValueError(
            f"Expected confidences in [0, 1] without missing values, found {values.min()} to {values.max()}; "
            "pass probabilities."
        )
    if not np.isin(hits, (0.0, 1.0)).all():
        raise ValueError("Expected correct as booleans, found other values; compare predictions with labels first.")
    return np.minimum(values, 1.0), hits
