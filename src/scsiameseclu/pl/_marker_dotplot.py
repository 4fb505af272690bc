"""Dot plot of the marker genes of clusters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, TARGET_SUM, UNASSIGNED, markers_key
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns
from scsiameseclu.pp._counts import get_counts, row_chunks

__all__ = ["marker_dotplot"]

_LARGEST = 130.0
"""Area of the dot of a gene that all cells of a cluster express, in square points."""
_SHARES = (0.25, 0.5, 1.0)


@with_shared_descriptions
def marker_dotplot(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    *,
    key: str = DEFAULT_KEY,
    n_genes: int = 3,
    layer: str | None = None,
    normalize: bool = True,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the expression of marker genes in clusters as a dot plot.

    The size of a dot shows the share of the cells of the cluster that express the gene. The colour shows the mean of
    ``log(1 + 10,000 * count / total counts of the cell)`` over the cells of the cluster, divided by the largest mean of
    the gene in any cluster.

    Parameters
    ----------
    adata
        Cells with clusters and raw counts. Nothing is written.
    markers
        List of genes, or lists of genes by cell type. ``None``: the best genes of every cluster by
        :func:`~scsiameseclu.tl.markers`, which must be called before.
    key
        Column of ``obs`` with the clusters. Cells without a cluster and ``"unassigned"`` cells are left out.
    n_genes
        Number of genes per cluster, if ``markers`` is ``None``.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Whether to normalise the counts and take logarithms. Pass ``False`` if the values are already log-normalised.
    figsize
        Width and height of the figure, in inches. ``None``: the size is chosen by the numbers of genes and clusters.
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given; otherwise ``None``. The figure has one
    panel (genes x clusters) and a colour bar.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If ``key``, ``layer``, the ranking or a gene does not exist.
    ValueError
        If there is no gene or no cluster to draw, a gene occurs twice in the data, or ``n_genes`` is below 1.
    """
    check_columns(adata, key)
    if n_genes < 1:
        raise ValueError(f"Expected n_genes of at least 1, found {n_genes}.")
    groups = _clusters(adata.obs[key])
    genes = _ranked(adata, key, list(groups.categories), n_genes) if markers is None else _named(markers)
    if not genes or not len(groups.categories):
        raise ValueError(f"Expected genes and clusters to draw, found {len(genes)} and {len(groups.categories)}.")
    means, shares = _expression(
        get_counts(adata, layer), _columns(adata, [gene for gene, _ in genes]), groups, normalize
    )
    scaled = means / np.maximum(means.max(axis=0, keepdims=True), 1e-12)

    n_rows, n_columns = means.shape
    figure, panel = canvas(ax, figsize or (0.28 * n_columns + 2.6, 0.3 * n_rows + 1.9))
    rows, columns = np.indices(means.shape)
    style: dict[str, Any] = {"cmap": "Reds", "vmin": 0.0, "vmax": 1.0, "edgecolor": "grey", "linewidth": 0.3}
    # Matplotlib would read a table with three or four columns as RGB(A) colours, so the values are flattened.
    dots = panel.scatter(columns.ravel(), rows.ravel(), s=_LARGEST * shares.ravel(), c=scaled.ravel(), **style)
    panel.set_xticks(range(n_columns), [gene for gene, _ in genes], rotation=90, fontsize="x-small")
    panel.set_yticks(range(n_rows), groups.categories.astype(str), fontsize="x-small")
    panel.set(xlim=(-0.7, n_columns - 0.3), ylim=(n_rows - 0.4, -0.6), ylabel=key)
    panel.spines[:].set_linewidth(0.5)
    _mark_groups(panel, [of for _, of in genes])
    figure.colorbar(dots, ax=panel, label="mean expression / maximum", location="bottom", shrink=0.4, aspect=30)
    sizes = [panel.scatter([], [], s=_LARGEST * share, color="grey", label=f"{share:.0%}") for share in _SHARES]
    legend: dict[str, Any] = {
        "title": "cells\nexpressing",
        "fontsize": "x-small",
        "title_fontsize": "x-small",
        "frameon": False,
    }
    panel.legend(handles=sizes, loc="upper left", bbox_to_anchor=(1.0, 1.0), **legend)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _clusters(column: pd.Series) -> pd.Categorical:
    clusters = pd.Categorical(column)
    return clusters.remove_categories(
        [name for name in clusters.categories if name == UNASSIGNED]
    ).remove_unused_categories()


def _named(markers: Mapping[str, Sequence[str]] | Sequence[str]) -> list[tuple[str, str]]:
    """Genes with the cell type that each gene is a marker of. The type is empty if ``markers`` is a list."""
    if isinstance(markers, str):
        raise ValueError(f"Expected a list of genes, found the string {markers!r}; write [{markers!r}].")
    if not isinstance(markers, Mapping):
        return [(str(gene), "") for gene in markers]
    return [(str(gene), str(name)) for name, genes in markers.items() for gene in genes]


def _ranked(adata: AnnData, key: str, clusters: Sequence[str], n_genes: int) -> list[tuple[str, str]]:
    """The best genes of every cluster. A gene of several clusters is only listed for the first of these clusters."""
    if markers_key(key) not in adata.uns:
        raise KeyError(
            f"Expected ranked genes in uns[{markers_key(key)!r}], found {sorted(adata.uns)}: call "
            f"tl.markers(adata, {key!r}) first, or pass markers."
        )
    names = adata.uns[markers_key(key)]["names"]
    found: dict[str, str] = {}
    for cluster in map(str, clusters):
        if cluster in names.dtype.names:
            left = [gene for gene in names[cluster].tolist() if gene not in found][:n_genes]
            found |= dict.fromkeys(left, cluster)
    return list(found.items())


def _columns(adata: AnnData, genes: Sequence[str]) -> NDArray[np.int64]:
    unknown = [gene for gene in dict.fromkeys(genes) if gene not in adata.var_names]
    if unknown:
        raise KeyError(
            f"Expected genes of the data, found {unknown}. The data have gene names such as "
            f"{list(adata.var_names[:3])}."
        )
    twice = adata.var_names[adata.var_names.duplicated()].intersection(genes)
    if len(twice):
        raise ValueError(
            f"Expected genes that occur once in the data, found several genes {list(twice)}; make the names unique."
        )
    return np.array([adata.var_names.get_loc(gene) for gene in genes], dtype=np.int64)


def _expression(
    counts: Any, genes: NDArray[np.int64], groups: pd.Categorical, normalize: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean log-normalised expression and share of expressing cells, both ``(n_clusters, n_genes)``."""
    n_clusters, codes = len(groups.categories), np.asarray(groups.codes, dtype=np.int64)
    sums, positive = np.zeros((2, n_clusters, len(genes)))
    for rows, block in row_chunks(counts):
        values = sparse.csr_matrix(block[:, genes], dtype=np.float64)
        if normalize:
            per_cell = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            values = (sparse.diags(TARGET_SUM / np.maximum(per_cell, 1e-12)) @ values).log1p()
        cells = np.flatnonzero(codes[rows] >= 0)
        member = sparse.csr_matrix((np.ones(len(cells)), (codes[rows][cells], cells)), (n_clusters, values.shape[0]))
        sums += (member @ values).toarray()
        positive += (member @ (values > 0)).toarray()
    sizes = np.bincount(codes[codes >= 0], minlength=n_clusters)[:, None]
    return sums / sizes, positive / sizes


def _mark_groups(panel: Axes, names: Sequence[str]) -> None:
    """Write the cell type or cluster above its marker genes."""
    starts = [at for at, name in enumerate(names) if at == 0 or name != names[at - 1]]
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        if not names[start]:
            continue
        middle = (start + end - 1) / 2
        panel.plot([start - 0.3, end - 0.7], [-0.75, -0.75], color="black", linewidth=1, clip_on=False)
        panel.text(
            middle,
            -0.9,
            names[start],
            ha="left",
            va="bottom",
            rotation=45 if len(names[start]) > 2 else 0,
            fontsize="x-small",
        )
