"""Create, show, save and return the figures of all plots, as scanpy does."""

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
    """Return the user's axes ``ax`` and their figure, or a new figure with one panel if ``ax`` is None."""
    if ax is None:
        return plt.subplots(figsize=figsize, layout="constrained")
    return ax.figure.figure, ax  # `ax.figure` may be a subfigure, whose attribute `figure` is the whole figure


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
        The drawn figure and its axes.
    ax
        Axes that the user gave, or ``None``. With ``ax``, the figure is only shown if ``show=True``, because the user
        may continue to draw.
    show
        Whether to show the figure. ``None``: the value of ``scanpy.settings.autoshow``, but ``False`` with ``ax`` or
        ``return_fig``.
    save
        Path of a file to write the figure to.
    return_fig
        Whether to return the figure. A new figure is then closed in pyplot, because a notebook would otherwise show the
        figure twice.

    Returns
    -------
    The figure if ``return_fig``; otherwise the axes if the figure is not shown; otherwise ``None``.
    """
    if save is not None:
        figure.savefig(fspath(save), dpi=_DPI, bbox_inches="tight")
    if show is None:
        show = ax is None and not return_fig and sc.settings.autoshow
    if show:
        with warnings.catch_warnings():
            # Scripts that only write files use a backend that cannot show figures.
            warnings.filterwarnings("ignore", message=".*is non-interactive")
            plt.show()
    if return_fig:
        if ax is None:
            plt.close(figure)
        return figure
    if not show:
        return axes if isinstance(axes, Axes) else list(axes)
    if not plt.isinteractive():  # in interactive mode, the window stays open
        plt.close(figure)
    return None
