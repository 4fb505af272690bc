"""What every plot does with its figure: the axes to draw into, and showing, saving or returning it as scanpy does."""

import warnings
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TypeAlias

import scanpy as sc
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Drawn: TypeAlias = Figure | Axes | list[Axes] | None
PathOf: TypeAlias = str | PathLike[str]

_DPI = 150


def canvas(ax: Axes | None, figsize: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return the axes of the user with their figure, or a new figure with one panel."""
    if ax is None:
        return plt.subplots(figsize=figsize, layout="constrained")
    return ax.figure.figure, ax  # the whole figure, also for axes in a part of it


def finish(
    figure: Figure,
    axes: Axes | Sequence[Axes],
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Save, show and return a figure.

    Parameters
    ----------
    figure, axes
        What was drawn.
    ax
        Axes that the user gave, if any. The user goes on with their figure, so that it is not shown unless asked for.
    show
        Show the figure. ``None``: as ``scanpy.settings.autoshow`` says, but not with ``ax`` or ``return_fig``.
    save
        File to write the figure to.
    return_fig
        Return the figure, which pyplot then forgets: a notebook would draw it twice otherwise.

    Returns
    -------
    The figure if ``return_fig``; otherwise the axes if the figure is not shown; otherwise nothing.
    """
    if save is not None:
        figure.savefig(fspath(save), dpi=_DPI, bbox_inches="tight")
    if show is None:
        show = ax is None and not return_fig and sc.settings.autoshow
    if show:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is non-interactive")  # a script that only writes files
            plt.show()
    if return_fig:
        if ax is None:
            plt.close(figure)
        return figure
    if not show:
        return axes if isinstance(axes, Axes) else list(axes)
    if not plt.isinteractive():  # an interactive window stays open
        plt.close(figure)
    return None
