"""The usual first steps, as calls to scanpy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scsiameseclu.pp._counts import canonical_copy, check_counts, get_counts
from scsiameseclu.pp._neighbors import resolve_seed

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


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
    ``None``, or the copy. It has ``layers["counts"]`` (raw counts: name it as ``layer`` in ``setup_anndata``), log-normalised
    ``X``, ``var["highly_variable"]`` and ``obsm["X_pca"]``.

    Raises
    ------
    NotImplementedError
        If ``adata`` is backed.
    KeyError
        If ``layer`` or ``batch_key`` is missing.
    ValueError
        If the matrix does not hold raw counts, or has fewer than two cells or genes.
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
    check_counts(get_counts(adata, layer), adata.obs_names, adata.var_names, non_integer="raise")
    adata = adata.copy() if copy else adata
    adata.layers["counts"] = canonical_copy(get_counts(adata, layer))
    adata.X = adata.layers["counts"].copy()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    if adata.n_vars > n_top_genes:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, batch_key=batch_key, subset=subset)
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
