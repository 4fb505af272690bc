"""Find marker genes of clusters by scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from scsiameseclu._keys import DEFAULT_KEY, TARGET_SUM, UNASSIGNED, check_key, markers_key
from scsiameseclu.pp import check_counts
from scsiameseclu.pp._counts import canonical_copy, get_counts, where_counts_are
from scsiameseclu.pp._threads import numba_within_thread_limit
from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["markers"]


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

    Counts are first normalised to 10,000 per cell and log-transformed in a copy. Use the p values only to order genes.
    The p values are too small for a test of whether clusters differ, because the clusters were found in the same
    expression data.

    Parameters
    ----------
    adata
        Cells with clusters. Only ``uns`` is changed.
    key
        Column of ``obs`` with the clusters. Cells without a cluster, ``"unassigned"`` cells, and clusters of a single
        cell are left out.
    groups
        Clusters to rank the genes of. ``None``: all clusters.
    reference
        Cluster to compare with, or ``"rest"`` for all other cells.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Whether to normalise the counts and take logarithms. Pass ``False`` if the values are already log-normalised.
    method
        ``"wilcoxon"``, ``"t-test"``, ``"t-test_overestim_var"`` or ``"logreg"``.
    key_added
        Entry of ``uns`` to write. ``None``: ``f"{key}_markers"``.
    **kwargs
        Further arguments of :func:`scanpy.tl.rank_genes_groups`, such as ``pts=True``.

    Returns
    -------
    pandas.DataFrame
        One row per cluster and gene, with the best gene of each cluster first. The column ``group`` contains the
        cluster. The other columns are those of :func:`scanpy.get.rank_genes_groups_df`.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If ``key`` or ``layer`` does not exist.
    ValueError
        If fewer than two clusters have at least two cells, if a group does not exist, or if the counts are not valid.

    Notes
    -----
    ``uns[key_added]`` is in the format of scanpy. ``sc.pl.rank_genes_groups(adata, key=key_added)`` draws the ranking.
    ``sc.pl.rank_genes_groups_dotplot(adata, key=key_added, ...)`` draws the expression, for which ``adata.X`` has to
    hold log-normalised values.

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
    # The tables are read one by one, because scanpy leaves out the column `group` if there is only one group.
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
    """Rank genes as :func:`markers` does, without writing to ``adata``.

    Returns
    -------
    tuple
        A copy of the cells with the result of scanpy in ``uns["rank_genes_groups"]``, and the names of the clusters.
    """
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
        sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
        sc.pp.log1p(cells)
    chosen = list(labels.cat.categories) if groups is None else list(groups)
    sc.tl.rank_genes_groups(cells, key, groups=chosen, reference=reference, method=method, use_raw=False, **kwargs)
    return cells, chosen


def _labels(column: pd.Series, key: str, groups: Sequence[str] | None, reference: str) -> pd.Series:
    """Clusters as text. The value is missing for cells that are left out."""
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
