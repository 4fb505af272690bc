"""How sure the model is of its assignments, cluster by cluster."""

import numpy as np
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from scsiameseclu._keys import DEFAULT_KEY, confidence_key

__all__ = ["confidence"]


def confidence(
    adata: AnnData,
    *,
    key: str = DEFAULT_KEY,
    threshold: float | None = 0.5,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw the confidence of the cells of every cluster as box plots, with the size of each cluster below.

    The confidence of a cell is the probability of its own cluster, between 1/K and 1.

    Parameters
    ----------
    adata
        Cells with the results of :meth:`~scsiameseclu.SCSiameseClu.write_to_adata`.
    key
        The ``key_added`` under which the results were written.
    threshold
        Value to mark with a line; the title then gives the share of cells below it. ``None``: no line.
    figsize
        Width and height of the figure, in inches; by default as wide as the number of clusters asks for.

    Returns
    -------
    The figure, with one panel.

    Raises
    ------
    KeyError
        If clusters or confidences are missing; the message lists the columns there are.
    """
    column = confidence_key(key)
    missing = [name for name in (key, column) if name not in adata.obs]
    if missing:
        raise KeyError(f"Expected obs columns {missing}, found {list(adata.obs.columns)}: call write_to_adata() first.")
    labels = adata.obs[key].astype("category")
    values = adata.obs[column].to_numpy(dtype=float)
    groups = [values[(labels == name).to_numpy()] for name in labels.cat.categories]

    figure, ax = plt.subplots(figsize=figsize or (max(4.0, 0.45 * len(groups) + 1.5), 3.2), layout="constrained")
    ticks = np.arange(len(groups))
    ax.boxplot(groups, positions=ticks, widths=0.6, flierprops={"marker": ".", "markersize": 2}, manage_ticks=False)
    names = [f"{name}\n{len(group)}" for name, group in zip(labels.cat.categories, groups, strict=True)]
    ax.set_xticks(ticks, names, fontsize="x-small")
    ax.set_xlabel(f"{key} (cells)")
    ax.set_ylabel("confidence")
    ax.set_ylim(0, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    if threshold is not None:
        ax.axhline(threshold, color="grey", linestyle=":", linewidth=1)
        ax.set_title(f"{np.mean(values < threshold):.1%} of cells below {threshold:g}", fontsize="small")
    return figure
