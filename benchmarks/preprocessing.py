"""The preparation that all peers share: genes, log-normalised values, principal components."""

from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

N_TOP_GENES = 2000
N_COMPONENTS = 50


def counts_only(adata: AnnData) -> AnnData:
    """Copy only the counts and names of an AnnData, so that a peer can read nothing else."""
    counts = (
        sparse.csr_matrix(adata.X, dtype=np.float32) if sparse.issparse(adata.X) else np.asarray(adata.X, "float32")
    )
    cells = AnnData(counts.copy())
    cells.obs_names = adata.obs_names.copy()
    cells.var_names = adata.var_names.copy()
    cells.obs_names_make_unique()
    cells.var_names_make_unique()
    return cells


def select_genes(adata: AnnData, n_top_genes: int = N_TOP_GENES) -> AnnData:
    """Counts of the highly variable genes in ``layers["counts"]``, their log-normalised values in ``X``.

    Genes that no cell expresses are dropped. Genes are selected by scanpy's default (binned dispersion of
    log-normalised counts), as in ``scsiameseclu.tl.cluster``. Library sizes count all genes of the file.
    """
    import scanpy as sc

    cells = counts_only(adata)
    sc.pp.filter_genes(cells, min_cells=1)
    cells.layers["counts"] = cells.X.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    if cells.n_vars > n_top_genes:
        sc.pp.highly_variable_genes(cells, n_top_genes=n_top_genes, flavor="seurat")
        cells = cells[:, cells.var["highly_variable"]].copy()
    return cells


def scaled_values(adata: AnnData, n_top_genes: int = N_TOP_GENES) -> NDArray[np.float32]:
    """z-scores of the log-normalised highly variable genes, at most 10: dense, one row per cell."""
    import scanpy as sc

    cells = select_genes(adata, n_top_genes)
    sc.pp.scale(cells, max_value=10)
    return np.asarray(cells.X, dtype=np.float32)


def principal_components(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Scanpy's usual preparation: z-scores of 2,000 highly variable genes, 50 principal components."""
    import scanpy as sc

    cells: Any = AnnData(scaled_values(adata))
    sc.pp.pca(cells, n_comps=min(N_COMPONENTS, cells.n_vars - 1, cells.n_obs - 1), random_state=seed)
    return np.asarray(cells.obsm["X_pca"], dtype=np.float32)
