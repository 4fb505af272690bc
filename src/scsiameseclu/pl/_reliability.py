"""Reliability diagram of confidences."""

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.metrics import expected_calibration_error, reliability_curve
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish

__all__ = ["reliability"]


@with_shared_descriptions
def reliability(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = 10,
    figsize: tuple[float, float] = (3.6, 3.6),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the share of correct assignments (accuracy) against the confidence, in bins of confidence.

    For well-calibrated confidences, the line follows the diagonal. Where the line is below the diagonal, confidences
    are too high. The bars show the share of cells in each bin. The title shows the expected calibration error.

    Parameters
    ----------
    confidence
        Confidence of each cell, in ``[0, 1]``, length ``n``.
    correct
        Whether the assignment of each cell is correct, length ``n``.
    n_bins
        Number of bins of equal width.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    ValueError
        As :func:`~scsiameseclu.metrics.reliability_curve`.
    """
    curve = reliability_curve(confidence, correct, n_bins)
    filled = curve[curve["n_cells"] > 0]
    figure, panel = canvas(ax, figsize)
    share = curve["n_cells"] / curve["n_cells"].sum()
    panel.bar(curve["lower"], share, width=1 / n_bins, align="edge", color="lightgrey", label="share of cells")
    panel.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    panel.plot(filled["confidence"], filled["accuracy"], marker="o", markersize=4, linewidth=1.2, label="accuracy")
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share")
    panel.legend(fontsize="x-small", frameon=False, loc="upper left")
    error = expected_calibration_error(confidence, correct, n_bins)
    panel.set_title(f"calibration error {error:.3f}", fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)
