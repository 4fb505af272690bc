"""Plot of the shares of the clusters in samples."""

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY
from scsiameseclu.pl._colors import group_colors
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns

__all__ = ["abundance"]


@with_shared_descriptions
def abundance(
    adata: AnnData,
    groupby: str,
    *,
    key: str = DEFAULT_KEY,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the share of every cluster among the cells of every batch, sample or condition, as stacked bars.

    The shares in each bar sum to 1. So if the share of one cluster is larger, the shares of other clusters are smaller,
    even if their numbers of cells are the same. Cells without a cluster or without a sample are left out.

    Parameters
    ----------
    adata
        Cells with clusters.
    groupby
        Column of ``obs`` with the batch, sample or condition. Each value gets a bar.
    key
        Column of ``obs`` with the clusters.
    figsize
        Width and height of the figure, in inches. ``None``: the width is chosen by the number of bars.
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
        If no cell has values in both columns.
    """
    check_columns(adata, key, groupby)
    counts = pd.crosstab(pd.Categorical(adata.obs[groupby]), pd.Categorical(adata.obs[key]))
    if counts.empty:
        raise ValueError(f"Expected cells with both {groupby!r} and {key!r}, found none.")
    sizes = counts.sum(axis=1)
    shares = counts.div(sizes, axis=0)

    figure, panel = canvas(ax, figsize or (max(3.6, 0.5 * len(shares) + 2.2), 3.4))
    ticks, below = np.arange(len(shares)), np.zeros(len(shares))
    colors = group_colors(adata, key)
    for name in shares:
        values = shares[name].to_numpy()
        panel.bar(ticks, values, bottom=below, width=0.8, color=colors[str(name)], label=str(name))
        below = below + values
    names = [f"{name}\n{size:,}" for name, size in sizes.items()]
    panel.set_xticks(ticks, names, fontsize="x-small", rotation=90 if max(map(len, names)) > 16 else 0)
    panel.set(ylim=(0, 1), xlabel=f"{groupby} (cells)", ylabel="share of the cells")
    handles, labels = panel.get_legend_handles_labels()
    panel.legend(
        handles[::-1], labels[::-1], title=key, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False,
        fontsize="x-small", title_fontsize="x-small", ncols=1 + (len(labels) - 1) // 15,
    )  # fmt: skip
    panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)
