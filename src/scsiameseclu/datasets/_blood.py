"""Data sets of blood cells that are bundled with this package or with scanpy."""

import warnings
from importlib.resources import as_file, files

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scsiameseclu._keys import TARGET_SUM

__all__ = ["pbmc3k", "pbmc68k_reduced"]


def pbmc3k() -> AnnData:
    """Load 2,638 blood cells of a healthy donor, with raw counts of 3,016 genes and cell types.

    The data are bundled with this package. The genes are the 3,000 genes of highest variance (scanpy's
    ``flavor="seurat_v3"`` on the counts of all genes) and known markers of blood cells. The cell types were not used to
    choose the genes.

    Returns
    -------
    AnnData
        2,638 cells x 3,016 genes. Each call returns a new object.

        - ``X``: raw counts, CSR, float32.
        - ``obs["cell_type"]``: 9 cell types, categorical.
        - ``obs["n_counts"]``: total counts of the cell over all genes of the experiment, float32. The total is larger
          than the sum over the 3,016 genes.
        - ``uns``: ``"source"``, ``"licence"`` and ``"attribution"``.

    Notes
    -----
    Counts: "3k PBMCs from a Healthy Donor" by `10x Genomics
    <https://www.10xgenomics.com/datasets/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0>`__, licensed under
    `CC BY 4.0 <https://creativecommons.org/licenses/by/4.0/>`__; cells and genes were selected. Cell types: guided
    clustering tutorial of Seurat, through the R package clustifyrdata (MIT licence). The cell types come from a
    clustering of the same counts, and not from surface proteins or cell sorting.

    Examples
    --------
    >>> adata = pbmc3k()
    >>> adata.shape
    (2638, 3016)
    """
    with as_file(files("scsiameseclu.datasets") / "pbmc3k.h5ad") as path:
        adata = anndata.read_h5ad(path)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)  # the file stores the counts as small integers
    return adata


def pbmc68k_reduced() -> AnnData:
    """Load 700 blood cells with integer counts and expert labels.

    The data are bundled with scanpy as log-normalised values. The counts are recovered as
    ``round(expm1(raw.X) * n_counts / 1e4)``, where ``n_counts`` is the total of each cell over all genes. Before
    rounding, 99.9 % of the entries are within 0.05 of an integer.

    Returns
    -------
    AnnData
        700 cells x 765 genes. Each call returns a new object. The representation, graph and clusters that scanpy stores
        with the data are left out.

        - ``X``: counts, CSR, float32.
        - ``obs["cell_type"]``: 10 cell types, categorical, copied from ``obs["bulk_labels"]``.
        - ``obs["bulk_labels"]``: the same cell types under the name that scanpy uses.
        - ``obs["n_counts"]``: total counts of the cell over all genes of the experiment, float32. The total is larger
          than the sum over the 765 genes.

    Notes
    -----
    Source: Zheng et al., Nature Communications 8:14049 (2017), through :func:`scanpy.datasets.pbmc68k_reduced`.

    Examples
    --------
    >>> adata = pbmc68k_reduced()
    >>> adata.shape
    (700, 765)
    """
    import scanpy as sc

    with warnings.catch_warnings():
        # Reading the file of scanpy warns about its old format, which users of this function cannot change.
        warnings.simplefilter("ignore")
        source = sc.datasets.pbmc68k_reduced()
    counts = sparse.csr_matrix(source.raw.X, dtype=np.float64).expm1()
    counts = counts.multiply(source.obs["n_counts"].to_numpy(np.float64)[:, None] / TARGET_SUM).tocsr()
    counts.data = np.rint(counts.data)
    counts.eliminate_zeros()
    labels = source.obs["bulk_labels"]
    obs = pd.DataFrame(
        {"cell_type": labels.copy(), "bulk_labels": labels.copy(), "n_counts": source.obs["n_counts"].copy()},
        index=pd.Index(source.obs_names.to_numpy(), name=None),
    )
    var = pd.DataFrame(index=pd.Index(source.raw.var_names.to_numpy(), name=None))
    return AnnData(counts.astype(np.float32), obs=obs, var=var)
