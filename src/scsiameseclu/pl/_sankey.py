"""Sankey diagram between two columns of labels."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY
from scsiameseclu.pl._colors import group_colors
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns

__all__ = ["sankey"]

_WIDTH = 0.04
_GAP = 0.02
"""Gap between two bars, as a share of all cells."""


@with_shared_descriptions
def sankey(
    adata: AnnData,
    right: str,
    left: str = DEFAULT_KEY,
    *,
    min_cells: int = 1,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw a Sankey diagram, which shows how the cells of groups on the left are distributed over groups on the right.

    The heights of bars and bands show numbers of cells. Each band has the colour of its group on the left. Groups on
    the right are ordered so that few bands cross. Cells without a label in one of the columns are left out.

    Parameters
    ----------
    adata
        Cells with two columns of labels.
    right, left
        Columns of ``obs`` with the groups on the right and on the left, for instance known types and clusters.
    min_cells
        Bands of fewer cells are not drawn. The heights of the bars still include these cells.
    figsize
        Width and height of the figure, in inches. ``None``: the height is chosen by the number of groups.
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If a column is missing. The message lists the existing columns.
    ValueError
        If no cell has labels in both columns.
    """
    check_columns(adata, left, right)
    counts = pd.crosstab(_labels(adata, left), _labels(adata, right))
    if counts.empty:
        raise ValueError(f"Expected cells with both {left!r} and {right!r}, found none.")
    # A group on the right is placed at the mean position of its cells on the left.
    places = np.arange(len(counts)) @ counts.to_numpy() / counts.to_numpy().sum(axis=0)
    counts = counts.iloc[:, np.argsort(places, kind="stable")]
    flows = counts.to_numpy()
    lefts, rights = _bars(flows.sum(axis=1)), _bars(flows.sum(axis=0))

    figure, panel = canvas(ax, figsize or (5.2, max(3.0, 0.32 * max(flows.shape) + 0.8)))
    of_groups = group_colors(adata, left)
    colors = [of_groups[str(name)] for name in counts.index]
    from_left, from_right = lefts.copy(), rights.copy()
    for (i, j), n_cells in np.ndenumerate(flows):
        if n_cells >= max(min_cells, 1):
            band = _band(float(from_left[i]), float(from_right[j]), int(n_cells))
            panel.add_patch(PathPatch(band, facecolor=colors[i], edgecolor="none", alpha=0.5))
        from_left[i] += n_cells
        from_right[j] += n_cells
    for at, bars, names, sizes, align in (
        (-_WIDTH, lefts, counts.index, flows.sum(axis=1), "right"),
        (1.0, rights, counts.columns, flows.sum(axis=0), "left"),
    ):
        for number, (start, name, size) in enumerate(zip(bars, names, sizes, strict=True)):
            color = colors[number] if at < 0 else "dimgrey"
            panel.add_patch(Rectangle((at, start), _WIDTH, size, color=color))
            x = at - 0.02 if at < 0 else at + _WIDTH + 0.02
            panel.text(x, start + size / 2, f"{name} ({size:,})", ha=align, va="center", fontsize="x-small")
    top = max(lefts[-1] + flows[-1].sum(), rights[-1] + flows[:, -1].sum())
    panel.set(xlim=(-_WIDTH, 1 + _WIDTH), ylim=(1.01 * top, -0.01 * top), xticks=[0, 1], yticks=[])
    panel.set_xticklabels([left, right])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _labels(adata: AnnData, column: str) -> Any:
    """Labels as text, in the order of their categories."""
    labels = pd.Categorical(adata.obs[column])
    return labels.rename_categories([str(name) for name in labels.categories])


def _bars(sizes: np.ndarray) -> np.ndarray:
    """Start of each bar on the vertical axis."""
    gap = _GAP * sizes.sum()
    return np.concatenate([[0.0], np.cumsum(sizes[:-1] + gap)])


def _band(left: float, right: float, height: int) -> Path:
    """Path of a band that starts at ``left``, ends at ``right``, and has the same height at both ends."""
    corners = [(0, left), (0.5, left), (0.5, right), (1, right)]
    back = [(1, right + height), (0.5, right + height), (0.5, left + height), (0, left + height)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return Path([*corners, *back, (0, left)], codes)
