"""Usual preprocessing of counts by scanpy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu._keys import TARGET_SUM
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
    target_sum: float = TARGET_SUM,
    n_pcs: int = 50,
    subset: bool = False,
    random_state: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Log-normalise counts, mark highly variable genes and compute principal components by scanpy.

    The function writes ``layers["counts"]`` (raw counts), ``X`` (log-normalised counts), ``var["highly_variable"]`` and
    ``obsm["X_pca"]``. Pass ``layer="counts"`` to ``setup_anndata`` afterwards.

    Parameters
    ----------
    adata
        Annotated data with raw counts.
    n_top_genes
        Number of genes to mark in ``var["highly_variable"]``. If there are not more genes, all genes are marked.
    layer
        Layer with the raw counts. ``None``: ``X``.
    batch_key
        Column of :attr:`~anndata.AnnData.obs` with batches. Scanpy then selects genes within each batch and merges the
        selections. ``None``: genes are selected over all cells.
    target_sum
        Total counts of every cell after normalisation.
    n_pcs
        Number of principal components. The number is lowered if there are too few cells or genes.
    subset
        Whether to remove the genes that are not highly variable.
    random_state
        Seed of the principal components. ``None``: ``scvi.settings.seed``, or 0 if this seed is not set.
    copy
        Whether to write to a copy of ``adata`` and return the copy.

    Returns
    -------
    AnnData or None
        The copy if ``copy=True``, otherwise ``None``.

    Raises
    ------
    NotImplementedError
        If ``adata`` is backed.
    KeyError
        If ``layer`` or ``batch_key`` is missing.
    ValueError
        If the matrix does not hold raw counts, if the matrix has fewer than two cells or genes, or if no gene varies
        between the cells (of a batch).
    """
    import scanpy as sc

    if adata.isbacked:  # the new ``X`` would overwrite the counts in the file
        raise NotImplementedError(
            "Expected an AnnData in memory, found a backed AnnData; call adata.to_memory() first."
        )
    if batch_key is not None and batch_key not in adata.obs:
        raise KeyError(
            f"`batch_key`: expected a column of adata.obs, found {batch_key!r}. Available: {list(adata.obs)}."
        )
    if min(adata.shape) < 2:
        raise ValueError(f"Expected at least two cells and two genes, found {adata.n_obs} and {adata.n_vars}.")
    # Checked before any change. If the function is called twice, or on normalised data, the data stay unchanged.
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
    """Mark highly variable genes by scanpy, and raise a clear error if no gene varies.

    Parameters
    ----------
    adata
        Cells with log-normalised counts in ``X``.
    batch_key
        Column of ``obs`` with batches, to select genes within each batch. ``None``: no batches.
    **options
        Arguments of :func:`scanpy.pp.highly_variable_genes`.

    Raises
    ------
    ValueError
        If no gene varies between the cells (of a batch).
    """
    import scanpy as sc

    if _where_nothing_varies(adata, None):  # scanpy may or may not raise an error, depending on rounding
        raise ValueError(
            "Expected genes that vary between cells, found none. Check which matrix or layer holds the counts."
        )
    batches = None if batch_key is None else adata.obs[batch_key]
    try:
        if batch_key is not None:  # scanpy does not accept numbers as batches
            adata.obs[batch_key] = adata.obs[batch_key].astype("category")
        sc.pp.highly_variable_genes(adata, batch_key=batch_key, **options)
    except (IndexError, ValueError) as error:
        lacking = _where_nothing_varies(adata, batch_key)
        if not lacking:
            raise
        raise ValueError(
            f"Expected genes that vary between cells in every batch of obs[{batch_key!r}], found none in "
            f"{' and '.join(lacking[:3])}. Leave these cells out, join small batches, or check which matrix or layer "
            "holds the counts."
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
