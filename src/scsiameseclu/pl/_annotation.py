"""Plot of the overlap of clusters and labels."""

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._heatmap import draw_heatmap
from scsiameseclu.pl._input import check_columns

__all__ = ["annotation_overlap"]


@with_shared_descriptions
def annotation_overlap(
    adata: AnnData,
    labels_key: str,
    *,
    key: str = DEFAULT_KEY,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the share of every label among the cells of every cluster, as a heat map.

    Labels are ordered so that large shares lie along the diagonal. Cells without a cluster or without a label are left
    out.

    Parameters
    ----------
    adata
        Cells with clusters and labels.
    labels_key
        Column of ``obs`` with the labels, for instance known cell types, or the types by
        :func:`~scsiameseclu.tl.annotate`.
    key
        Column of ``obs`` with the clusters.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given; otherwise ``None``. The figure shows a
    heat map (clusters x labels, rows sum to 1) and a colour bar.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If a column is missing. The message lists the existing columns.
    ValueError
        If no cell has both a cluster and a label.
    """
    check_columns(adata, key, labels_key)
    counts = pd.crosstab(adata.obs[key].to_numpy(), adata.obs[labels_key].to_numpy())
    if isinstance(adata.obs[key].dtype, pd.CategoricalDtype):
        counts = counts.reindex([name for name in adata.obs[key].cat.categories if name in counts.index])
    if counts.empty:
        raise ValueError(f"Expected cells with both {key!r} and {labels_key!r}, found none.")
    shares = counts.to_numpy(dtype=float) / counts.to_numpy().sum(axis=1, keepdims=True)
    order = np.argsort(shares.argmax(axis=0), kind="stable")

    n_rows, n_columns = shares.shape
    figure, panel = canvas(ax, figsize or (0.45 * n_columns + 2.4, 0.32 * n_rows + 2.0))
    names = [f"{name} ({size})" for name, size in zip(counts.index, counts.to_numpy().sum(axis=1), strict=True)]
    columns = [str(counts.columns[i]) for i in order]
    draw_heatmap(panel, shares[:, order], names, columns, limits=(0.0, 1.0), label="share of the cluster")
    panel.set_xlabel(labels_key)
    panel.set_ylabel(f"{key} (cells)")
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)
