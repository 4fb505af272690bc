"""Agreement of clusters and known types in their marker genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from sklearn.preprocessing import MultiLabelBinarizer

from scsiameseclu._keys import DEFAULT_KEY
from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata
from scsiameseclu.tl._markers import rank_genes

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["marker_overlap"]


def marker_overlap(
    adata: AnnData,
    labels_key: str,
    groupby: str = DEFAULT_KEY,
    *,
    n_genes: int = 100,
    layer: str | None = None,
    normalize: bool = True,
    method: str = "t-test",
) -> pd.DataFrame:
    """Share of the best marker genes that each cluster has in common with each known type.

    The genes of every cluster are ranked against the other cells, and so are those of every type; the overlap is the
    number of genes that are among the first ``n_genes`` of both, over ``n_genes``. This is how the paper of
    scSiameseClu and the benchmark scCluBench judge annotations. Known labels enter: it is a score of clusters, and no
    way to name clusters of unknown cells.

    Parameters
    ----------
    adata
        Cells with raw counts, clusters and known types. Nothing is written.
    labels_key
        Column of ``obs`` with the known types. Cells without one take no part in the ranking of the types.
    groupby
        Column of ``obs`` with the clusters.
    n_genes
        Genes of each cluster and type, at least 1.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Normalise and log-transform; False if the values are log-normalised already.
    method
        How :func:`scanpy.tl.rank_genes_groups` ranks; its own default by default.

    Returns
    -------
    pandas.DataFrame
        Overlap in ``[0, 1]``, float64: one row per cluster, one column per type, both of two cells or more.
        ``overlap.idxmax(axis=1)`` is the type that each cluster is mapped to.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If a column or ``layer`` does not exist.
    ValueError
        If ``n_genes`` is not between 1 and the number of genes, there are fewer than two clusters or types of two cells
        or more, or the counts are not valid.

    Examples
    --------
    >>> overlap = scsiameseclu.tl.marker_overlap(adata, "cell_type")
    >>> named = adata.obs["siamese_clu"].map(overlap.idxmax(axis=1))
    >>> float((named == adata.obs["cell_type"]).mean())
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    if not 1 <= n_genes <= adata.n_vars:
        raise ValueError(f"Expected n_genes in [1, {adata.n_vars}], the number of genes, found {n_genes}.")
    first, second = (
        _membership(adata, key, n_genes, layer=layer, normalize=normalize, method=method)
        for key in (groupby, labels_key)
    )
    return (first @ second.T / n_genes).rename_axis(index=groupby, columns=labels_key)


def _membership(
    adata: AnnData, key: str, n_genes: int, *, layer: str | None, normalize: bool, method: str
) -> pd.DataFrame:
    """Which genes are among the first ``n_genes`` of each group: 1 or 0, one row per group, one column per gene."""
    cells, groups = rank_genes(adata, key, layer=layer, normalize=normalize, method=method, n_genes=n_genes)
    names = cells.uns["rank_genes_groups"]["names"]
    binarizer = MultiLabelBinarizer(classes=list(adata.var_names))
    return pd.DataFrame(binarizer.fit_transform([names[group] for group in groups]), index=groups, dtype=float)
