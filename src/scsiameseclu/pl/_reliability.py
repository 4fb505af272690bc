"""Do confidences mean what they say?"""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from scsiameseclu.metrics import expected_calibration_error, reliability_curve

__all__ = ["reliability"]


def reliability(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = 10,
    figsize: tuple[float, float] = (3.6, 3.6),
) -> Figure:
    """Draw the share of right assignments against their confidence, in bins of confidence.

    On the diagonal, confidences mean what they say; below it, they are too high. The bars show the share of cells in
    every bin, the title the expected calibration error.

    Parameters
    ----------
    confidence
        Confidence of each cell, in ``[0, 1]``, length ``n``.
    correct
        Whether the assignment is right, length ``n``.
    n_bins
        Number of bins of equal width.
    figsize
        Width and height of the figure, in inches.

    Returns
    -------
    The figure, with one panel.

    Raises
    ------
    ValueError
        As :func:`~scsiameseclu.metrics.reliability_curve`.
    """
    curve = reliability_curve(confidence, correct, n_bins)
    filled = curve[curve["n_cells"] > 0]
    figure, ax = plt.subplots(figsize=figsize, layout="constrained")
    share = curve["n_cells"] / curve["n_cells"].sum()
    ax.bar(curve["lower"], share, width=1 / n_bins, align="edge", color="lightgrey", label="share of cells")
    ax.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    ax.plot(filled["confidence"], filled["accuracy"], marker="o", markersize=4, linewidth=1.2, label="accuracy")
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share")
    ax.legend(fontsize="x-small", frameon=False, loc="upper left")
    error = expected_calibration_error(confidence, correct, n_bins)
    ax.set_title(f"calibration error {error:.3f}", fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
