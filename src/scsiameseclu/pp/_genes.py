"""Copy cells with a selection of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anndata import AnnData
from scipy import sparse

from scsiameseclu.pp._counts import canonical, get_counts

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def columns_of(found: pd.Index, names: pd.Index) -> NDArray[np.int64] | None:
    """Column numbers of the genes ``names`` in ``found``; None if a gene is missing or a name occurs twice."""
    if not (found.is_unique and names.is_unique):
        return None
    columns = found.get_indexer(names)
    return None if (columns < 0).any() else columns


def counts_of_genes(counts: Any, genes: NDArray[Any]) -> Any:
    """Copy the counts of some genes, given as a mask or as column numbers in the requested order."""
    return (canonical(counts) if sparse.issparse(counts) else counts)[:, genes]


def copy_of_genes(
    adata: AnnData,
    columns: NDArray[Any],
    layer: str | None = None,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
) -> AnnData:
    """Copy the counts of some genes, and all parts of an AnnData that the set-up of a model can read.

    Other parts are not copied, because the AnnData may be large.

    Parameters
    ----------
    adata
        Cells.
    columns
        Column numbers of the genes, in the requested order.
    layer
        Layer with the counts. ``None``: ``X``.
    use_rep, neighbors_key
        Entries of ``obsm`` and ``uns`` to copy, if they exist.

    Raises
    ------
    KeyError
        If ``layer`` does not exist.
    """
    counts = counts_of_genes(get_counts(adata, layer), columns)
    cells = AnnData(counts, obs=adata.obs.copy(), var=adata.var.iloc[columns, :0].copy())
    if layer is not None:
        cells.layers[layer] = counts
    if use_rep in adata.obsm:
        cells.obsm[use_rep] = adata.obsm[use_rep].copy()
    if neighbors_key in adata.uns:
        graph = adata.uns[neighbors_key]
        cells.uns[neighbors_key] = graph
        for slot in ("connectivities_key", "distances_key"):
            if graph.get(slot) in adata.obsp:
                cells.obsp[graph[slot]] = adata.obsp[graph[slot]]
        if (rep := graph.get("params", {}).get("use_rep")) in adata.obsm:
            cells.obsm[rep] = adata.obsm[rep]
    return cells
