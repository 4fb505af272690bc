"""Copies of cells with some of their genes."""

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
    """Columns of genes among those found; None if one is missing, or names occur more than once."""
    if not (found.is_unique and names.is_unique):
        return None
    columns = found.get_indexer(names)
    return None if (columns < 0).any() else columns


def counts_of_genes(counts: Any, genes: NDArray[Any]) -> Any:
    """A copy of the counts of some genes, given as a mask or as columns in the order wanted."""
    return (canonical(counts) if sparse.issparse(counts) else counts)[:, genes]


def copy_of_genes(
    adata: AnnData,
    columns: NDArray[Any],
    layer: str | None = None,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
) -> AnnData:
    """Counts of some genes with all that set-up can ask for, and nothing else of what may be a large object.

    Parameters
    ----------
    adata
        Cells.
    columns
        Columns of the genes, in the order wanted.
    layer
        Layer with the counts; ``X`` by default.
    use_rep, neighbors_key
        Entries of ``obsm`` and ``uns`` to copy, if they are there.

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
