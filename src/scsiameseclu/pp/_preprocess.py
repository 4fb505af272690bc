"""The usual first steps, as calls to scanpy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._check_counts import check_counts
from scsiameseclu.pp._counts import canonical_copy, get_counts, where_counts_are
from scsiameseclu.pp._graph_input import resolve_seed
from scsiameseclu.pp._threads import numba_within_thread_limit, within_thread_limit

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


@within_thread_limit()
@numba_within_thread_limit()
def preprocess(
    adata: AnnData,
    n_top_genes: int = 2000,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    target_sum: float = 1e4,
    n_pcs: int = 50,
    subset: bool = False,
    random_state: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Keep the counts, normalise, take logarithms, mark variable genes, compute principal components.

    Parameters
    ----------
    adata
        Annotated data with raw counts.
    n_top_genes
        Genes to mark in ``var["highly_variable"]``; all of them if there are not more.
    layer
        Layer with the raw counts. Default: ``X``.
    batch_key
        Column of :attr:`~anndata.AnnData.obs`: select genes within each batch and merge (scanpy's rule).
    target_sum
        Total of every cell after normalisation.
    n_pcs
        Number of principal components; lowered where there are fewer cells or genes.
    subset
        Drop all other genes.
    random_state
        Seed of the principal components. Default: ``scvi.settings.seed``, or 0 where that is not set.
    copy
        Work on a copy and return it.

    Returns
    -------
    ``None``, or the copy. It has ``layers["counts"]`` (raw counts: name it as ``layer`` in ``setup_anndata``),
    log-normalised ``X``, ``var["highly_variable"]`` and ``obsm["X_pca"]``.

    Raises
    ------
    NotImplementedError
        If ``adata`` is backed.
    KeyError
        If ``layer`` or ``batch_key`` is missing.
    ValueError
        If the matrix does not hold raw counts, has fewer than two cells or genes, or no gene varies (in one of the
        batches).
    """
    import scanpy as sc

    if adata.isbacked:  # a new ``X`` would be written to the file
        raise NotImplementedError("Expected an AnnData in memory, found a backed one; call adata.to_memory() first.")
    if batch_key is not None and batch_key not in adata.obs:
        raise KeyError(
            f"`batch_key`: expected a column of adata.obs, found {batch_key!r}. Available: {list(adata.obs)}."
        )
    if min(adata.shape) < 2:
        raise ValueError(f"Expected at least two cells and two genes, found {adata.n_obs} and {adata.n_vars}.")
    # Before any change: running this twice, or on normalised data, must leave the data as it was.
    counts = get_counts(adata, layer)
    check_counts(counts, adata.obs_names, adata.var_names, non_integer="raise", advice=lambda: where_counts_are(adata))
    adata = adata.copy() if copy else adata
    adata.layers["counts"] = canonical_copy(counts)
    adata.X = adata.layers["counts"].copy()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    if adata.n_vars > n_top_genes:
        mark_variable_genes(adata, batch_key, n_top_genes=n_top_genes, subset=subset)
    else:
        adata.var["highly_variable"] = True
    n_genes = int(adata.var["highly_variable"].sum())
    n_comps = min(n_pcs, adata.n_obs - 1, n_genes - 1)
    if n_comps < n_pcs:
        logger.warning(
            "Computing %d principal components instead of %d: there are too few cells or genes.", n_comps, n_pcs
        )
    sc.pp.pca(adata, n_comps=n_comps, mask_var="highly_variable", random_state=resolve_seed(random_state))
    return adata if copy else None


def mark_variable_genes(adata: AnnData, batch_key: str | None, **options: Any) -> None:
    """Mark highly variable genes by scanpy, and say what is wrong where there are none.

    Parameters
    ----------
    adata
        Log-normalised counts in ``X``.
    batch_key
        Column of ``obs`` with batches to choose the genes within.
    **options
        Arguments of :func:`scanpy.pp.highly_variable_genes`.

    Raises
    ------
    ValueError
        If no gene varies between the cells (of a batch).
    """
    import scanpy as sc

    if _where_nothing_varies(adata, None):  # whether scanpy fails depends on rounding
        raise ValueError(
            "Expected genes that vary between cells, found none. Check which matrix or layer holds the counts."
        )
    batches = None if batch_key is None else adata.obs[batch_key]
    try:
        if batch_key is not None:  # scanpy takes no numbers for batches
            adata.obs[batch_key] = adata.obs[batch_key].astype("category")
        sc.pp.highly_variable_genes(adata, batch_key=batch_key, **options)
    except (IndexError, ValueError) as error:
        lacking = _where_nothing_varies(adata, batch_key)
        if not lacking:
            raise
        raise ValueError(
            f"Expected genes that vary between cells in every batch of obs[{batch_key!r}], found none in "
            f"{' and '.join(lacking[:3])}. Leave these cells out, join "
            "small batches, or check which matrix or layer holds the counts."
        ) from error
    finally:
        if batch_key is not None:
            adata.obs[batch_key] = batches


def _where_nothing_varies(adata: AnnData, batch_key: str | None) -> list[str]:
    """Descriptions of the batches (or of all cells) in which no gene varies."""
    groups = {"the data": np.arange(adata.n_obs)}
    if batch_key is not None:
        groups = {f"batch {name!r}": rows for name, rows in adata.obs.groupby(batch_key, observed=True).indices.items()}
    lacking = []
    for name, rows in groups.items():
        block = adata.X[rows]
        low, high = (np.asarray(_dense(getattr(block, extreme)(axis=0))).ravel() for extreme in ("min", "max"))
        if not (high - low > 1e-6 * np.abs(high)).any():
            lacking.append(f"{name} ({len(rows)} cell(s){'' if high.any() else ' without counts'})")
    return lacking


def _dense(values: Any) -> Any:
    return values.toarray() if sparse.issparse(values) else values
