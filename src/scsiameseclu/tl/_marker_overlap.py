"""Overlap of the marker genes of clusters and of known types."""

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
    """Compute the share of the best marker genes that each cluster has in common with each known cell type.

    The genes of each cluster, and the genes of each type, are ranked against the other cells. The overlap of a cluster
    and a type is the number of genes that are among the first ``n_genes`` of both, divided by ``n_genes``. Xu et al.
    (IJCAI 2025) and the benchmark scCluBench judge annotations in the same way.

    The function uses known labels. So the overlap is a score for clusters of labelled cells, and cannot be used to
    annotate unlabelled cells. Use :func:`~scsiameseclu.tl.annotate` for these.

    Parameters
    ----------
    adata
        Cells with raw counts, clusters and known types. Nothing is written.
    labels_key
        Column of ``obs`` with the known types. Cells without a type are left out of the ranking of the types.
    groupby
        Column of ``obs`` with the clusters.
    n_genes
        Number of genes of each cluster and type, at least 1.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Whether to normalise the counts and take logarithms. Pass ``False`` if the values are already log-normalised.
    method
        Method of :func:`scanpy.tl.rank_genes_groups`. ``"t-test"`` is also the default of scanpy.

    Returns
    -------
    pandas.DataFrame
        Overlap in ``[0, 1]``, float64, with one row per cluster and one column per type. Clusters and types with a
        single cell are left out. ``overlap.idxmax(axis=1)`` is the type with the largest overlap for each cluster.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If a column or ``layer`` does not exist.
    ValueError
        If ``n_genes`` is not between 1 and the number of genes, if fewer than two clusters or fewer than two types have
        at least two cells, or if the counts are not valid.

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
    """Whether a gene is among the first ``n_genes`` of a group: 1 or 0, with groups as rows and genes as columns."""
    cells, groups = rank_genes(adata, key, layer=layer, normalize=normalize, method=method, n_genes=n_genes)
    names = cells.uns["rank_genes_groups"]["names"]
    binarizer = MultiLabelBinarizer(classes=list(adata.var_names))
    return pd.DataFrame(binarizer.fit_transform([names[group] for group in groups]), index=groups, dtype=float)
