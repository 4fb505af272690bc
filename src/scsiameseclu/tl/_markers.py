"""Marker genes of clusters, through scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from scsiameseclu._keys import DEFAULT_KEY, UNASSIGNED, check_key, markers_key
from scsiameseclu.pp import check_counts
from scsiameseclu.pp._counts import canonical_copy, get_counts, where_counts_are
from scsiameseclu.pp._threads import numba_within_thread_limit
from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["markers"]

_TARGET_SUM = 1e4


@numba_within_thread_limit()
def markers(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    groups: Sequence[str] | None = None,
    reference: str = "rest",
    layer: str | None = None,
    normalize: bool = True,
    method: str = "wilcoxon",
    key_added: str | None = None,
    **kwargs: Any,
) -> pd.DataFrame:
    """Rank the genes of every cluster against the other cells by :func:`scanpy.tl.rank_genes_groups`.

    Counts are normalised to 10,000 per cell and log-transformed in a copy first. The p values compare clusters that
    were found in the same expression: they order genes, and are too small to test whether the clusters differ.

    Parameters
    ----------
    adata
        Cells with clusters. Only ``uns`` is changed.
    key
        Column of ``obs`` with the clusters. Cells without one, ``"unassigned"`` ones, and
        clusters of a single cell take no part.
    groups
        Clusters to rank genes of; all by default.
    reference
        Cluster to compare with, or ``"rest"``: all other cells.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Normalise and log-transform; False if the values are log-normalised already.
    method
        ``"wilcoxon"``, ``"t-test"``, ``"t-test_overestim_var"`` or ``"logreg"``.
    key_added
        Entry of ``uns`` to write. ``None``: ``f"{key}_markers"``.
    **kwargs
        Further arguments of :func:`scanpy.tl.rank_genes_groups`, such as ``pts=True``.

    Returns
    -------
    One row per cluster and gene, best first: the columns of :func:`scanpy.get.rank_genes_groups_df` after ``group``,
    the cluster.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If ``key`` or ``layer`` does not exist.
    ValueError
        If there are fewer than two clusters with at least two cells, a group does not exist, or the counts are not
        valid.

    Notes
    -----
    ``uns[key_added]`` is in scanpy's format: ``sc.pl.rank_genes_groups(adata, key=key_added)`` draws it, and
    ``sc.pl.rank_genes_groups_dotplot(adata, key=key_added, ...)`` does, from log-normalised values.

    Examples
    --------
    >>> table = scsiameseclu.tl.markers(adata)
    >>> table.groupby("group", observed=True).head(3)
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    key_added = markers_key(key) if key_added is None else key_added
    check_key(key_added)
    cells, chosen = rank_genes(
        adata, key, groups=groups, reference=reference, layer=layer, normalize=normalize, method=method, **kwargs
    )
    adata.uns[key_added] = cells.uns["rank_genes_groups"]
    # Scanpy leaves the group out of a table of one group.
    tables = {group: sc.get.rank_genes_groups_df(cells, group) for group in chosen if group != reference}
    return pd.concat(tables, names=["group", None]).reset_index("group").reset_index(drop=True)


def rank_genes(
    adata: AnnData,
    key: str,
    *,
    groups: Sequence[str] | None = None,
    reference: str = "rest",
    layer: str | None = None,
    normalize: bool = True,
    method: str,
    **kwargs: Any,
) -> tuple[AnnData, list[str]]:
    """Rank genes as :func:`markers` does, without writing: a copy of the cells with scanpy's result, and the groups."""
    if key not in adata.obs:
        raise KeyError(
            f"Expected clusters in obs[{key!r}], found {list(adata.obs.columns)}: call write_to_adata() first."
        )
    matrix = get_counts(adata, layer)
    if normalize:
        check_counts(matrix, adata.obs_names, adata.var_names, advice=lambda: where_counts_are(adata))
    labels = _labels(adata.obs[key], key, groups, reference)
    kept = labels.notna().to_numpy()
    values = canonical_copy(matrix)[kept]
    values = values if values.dtype.kind == "f" else values.astype(np.float32)
    cells = AnnData(values, obs=pd.DataFrame({key: labels[kept]}), var=adata.var[[]].copy())
    if normalize:
        sc.pp.normalize_total(cells, target_sum=_TARGET_SUM)
        sc.pp.log1p(cells)
    chosen = list(labels.cat.categories) if groups is None else list(groups)
    sc.tl.rank_genes_groups(cells, key, groups=chosen, reference=reference, method=method, use_raw=False, **kwargs)
    return cells, chosen


def _labels(column: pd.Series, key: str, groups: Sequence[str] | None, reference: str) -> pd.Series:
    """Clusters as text; missing where a cell takes no part."""
    labels = column.astype("category").cat.rename_categories(str)
    labels = labels.cat.remove_categories([name for name in labels.cat.categories if name == UNASSIGNED])
    sizes = labels.value_counts()
    large = sizes.index[sizes > 1].astype(str)
    if len(large) < 2:
        raise ValueError(f"obs[{key!r}]: expected at least two clusters of two cells or more, found {len(large)}.")
    wanted = [*(groups or []), *([] if reference == "rest" else [reference])]
    if unknown := [name for name in wanted if name not in large]:
        raise ValueError(f"obs[{key!r}]: expected clusters of two cells or more among {list(large)}, found {unknown}.")
    return labels.where(labels.isin(large)).cat.remove_unused_categories()
