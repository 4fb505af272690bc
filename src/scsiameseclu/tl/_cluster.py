"""Set up a model, train the model and write its results in one call."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scsiameseclu._keys import DEFAULT_KEY, TARGET_SUM, check_key_added
from scsiameseclu.pp import check_counts
from scsiameseclu.pp._counts import get_counts, repeated_genes, totals, where_counts_are
from scsiameseclu.pp._genes import copy_of_genes, counts_of_genes
from scsiameseclu.pp._preprocess import mark_variable_genes
from scsiameseclu.pp._threads import numba_within_thread_limit
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scsiameseclu.model import SCSiameseClu

__all__ = ["cluster"]

logger = logging.getLogger(__name__)


def cluster(
    adata: AnnData,
    n_clusters: int | Literal["auto"] = "auto",
    key_added: str = DEFAULT_KEY,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    n_top_genes: int | None = 2000,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    setup_kwargs: Mapping[str, Any] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> SCSiameseClu:
    """Cluster cells from raw counts: set up a model, train the model and write the results into ``adata``.

    With more than ``n_top_genes`` genes, the model is trained on a copy of the counts of the highly variable genes. The
    results are written into ``adata``, which keeps all its genes. Set ``scvi.settings.seed`` to make the result
    reproducible.

    Parameters
    ----------
    adata
        Cells with raw counts in ``X`` or ``layers[layer]``.
    n_clusters
        Number of clusters, at least 1. ``"auto"``: the number is estimated without labels, and may be 1.
    key_added
        Name of the results, see :meth:`~scsiameseclu.SCSiameseClu.write_to_adata`.
    layer
        Layer with the counts. ``None``: ``X``.
    batch_key
        Column of ``obs`` with the batch of every cell. Highly variable genes are then chosen within batches. ``None``:
        no batches.
    n_top_genes
        Number of highly variable genes to train on, chosen by the binned dispersion of log-normalised counts (scanpy's
        ``flavor="seurat"``, which uses no labels). ``None``: all genes.
    use_rep
        Entry of ``obsm`` to build the cell graph on. ``None``: principal components of the genes that the model is
        trained on.
    neighbors_key
        Entry of ``uns`` with a graph of :func:`scanpy.pp.neighbors`, to use instead of a new graph. ``None``: a graph
        is built.
    n_neighbors
        Number of neighbours of each cell in the cell graph.
    setup_kwargs
        Further arguments of :meth:`~scsiameseclu.SCSiameseClu.setup_anndata`.
    model_kwargs
        Further arguments of :class:`~scsiameseclu.SCSiameseClu`.
    train_kwargs
        Arguments of :meth:`~scsiameseclu.SCSiameseClu.train`.

    Returns
    -------
    SCSiameseClu
        The trained model. Its ``adata`` holds the genes that the model was trained on.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData. Use :meth:`~scsiameseclu.SCSiameseClu.setup_mudata` for a MuData.
    ValueError
        If the counts are negative or not finite, if ``n_top_genes`` is below 2, if no gene varies between the cells (of
        a batch), if gene names are repeated, if files cannot hold the name ``key_added``, or if data of the user have
        this name. Also as :meth:`~scsiameseclu.SCSiameseClu.setup_anndata`, :class:`~scsiameseclu.SCSiameseClu` and
        :meth:`~scsiameseclu.SCSiameseClu.train`.
    NotImplementedError
        If ``adata`` is backed.
    KeyError
        If ``layer``, ``batch_key``, ``use_rep`` or ``neighbors_key`` does not exist.

    Examples
    --------
    >>> adata = scsiameseclu.datasets.pbmc3k()
    >>> model = scsiameseclu.tl.cluster(adata)
    >>> adata.obs["siamese_clu"].value_counts()
    """
    from scsiameseclu.model import SCSiameseClu  # imported here, so that importing `tl` does not load the model

    check_anndata(adata, "SCSiameseClu.setup_mudata(mdata), train() and write_to_adata() cluster a MuData")
    setup: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "use_rep": use_rep, "neighbors_key": neighbors_key}
    if adata.isbacked:
        raise NotImplementedError(
            "Expected an AnnData in memory, found a backed AnnData. Choose the genes, write the counts of these genes "
            "to a new file, and use SCSiameseClu.setup_anndata on this file opened with backed='r'."
        )
    check_key_added(adata, key_added)
    if repeated := repeated_genes(adata.var_names):
        raise ValueError(repeated)
    counts = get_counts(adata, layer)
    _check_keys(adata, batch_key, use_rep, neighbors_key)
    if n_top_genes is not None and n_top_genes < 2:
        raise ValueError(f"Expected n_top_genes of at least 2 or None, found {n_top_genes}.")
    cells = adata
    if n_top_genes is not None and adata.n_vars > n_top_genes:
        check_counts(counts, adata.obs_names, adata.var_names, advice=lambda: where_counts_are(adata))
        genes = _highly_variable_genes(adata, layer, batch_key, n_top_genes)
        logger.info("Training on %d highly variable genes of %d.", genes.sum(), adata.n_vars)
        cells = copy_of_genes(adata, np.flatnonzero(genes), layer, use_rep, neighbors_key)

    setup_kwargs = {"accelerator": (train_kwargs or {}).get("accelerator", "auto"), **(setup_kwargs or {})}
    with warnings.catch_warnings():
        if cells is not adata:  # the check of all genes above has already given this warning
            warnings.filterwarnings("ignore", "Expected raw integer counts")
        SCSiameseClu.setup_anndata(cells, **setup, n_neighbors=n_neighbors, **setup_kwargs)
    model = SCSiameseClu(cells, n_clusters=n_clusters, **(model_kwargs or {}))
    model.train(**(train_kwargs or {}))
    if cells is not adata:
        model._keep_copy(adata, cells)
    model.write_to_adata(adata, key_added)
    return model


def _check_keys(adata: AnnData, batch_key: str | None, use_rep: str | None, neighbors_key: str | None) -> None:
    """Refuse unknown keys before any work is done."""
    keys = {
        "batch_key": (batch_key, adata.obs.columns),
        "use_rep": (use_rep, adata.obsm.keys()),
        "neighbors_key": (neighbors_key, adata.uns.keys()),
    }
    for argument, (key, present) in keys.items():
        if key is not None and key not in present:
            raise KeyError(f"`{argument}`: expected one of {sorted(map(str, present))}, found {key!r}.")


@numba_within_thread_limit()
def _highly_variable_genes(
    adata: AnnData, layer: str | None, batch_key: str | None, n_top_genes: int
) -> NDArray[np.bool_]:
    """Mask of the highly variable genes, bool ``(n_vars,)``.

    Genes without counts do not change the selection. ``adata`` is not changed.
    """
    counts = get_counts(adata, layer)
    counts = counts if sparse.issparse(counts) else np.asarray(counts)
    present = totals(counts)[1] > 0
    if present.sum() <= n_top_genes:
        return present
    cells = AnnData(counts_of_genes(counts, present), obs=adata.obs[[] if batch_key is None else [batch_key]].copy())
    if cells.X.dtype.kind != "f":
        cells.X = cells.X.astype(np.float32)
    sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
    sc.pp.log1p(cells)
    mark_variable_genes(cells, batch_key, n_top_genes=n_top_genes, flavor="seurat")
    present[np.flatnonzero(present)] = cells.var["highly_variable"].to_numpy()
    return present
