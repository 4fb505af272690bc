"""Read cell graphs that :func:`scanpy.pp.neighbors` wrote to an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scsiameseclu.pp._counts import canonical
from scsiameseclu.pp._graph import NeighborGraph

if TYPE_CHECKING:
    from anndata import AnnData


def graph_from_scanpy(adata: AnnData, neighbors_key: str, n_neighbors: int) -> NeighborGraph:
    """Read a cell graph in the format of scanpy.

    The ``n_neighbors`` strongest edges of each cell are kept. Edges of the same strength are ordered by row number.
    Edges from a cell to itself are dropped. If the largest weight is above 1, all weights are divided by the largest
    weight. The distance of an edge is ``-log(weight)``, because the symmetrised edges of scanpy have no distances.

    Parameters
    ----------
    adata
        Cells with the graph.
    neighbors_key
        Key of ``uns`` with the record of the graph.
    n_neighbors
        Number of neighbours per cell to keep.

    Returns
    -------
    NeighborGraph
        The graph, with symmetric weights.

    Raises
    ------
    KeyError
        If the graph is missing. The message lists the available keys.
    ValueError
        If the shape or the weights of the graph are not valid.
    """
    edges = sparse.coo_matrix(scanpy_connectivities(adata, neighbors_key))
    if not np.all(np.isfinite(edges.data) & (edges.data >= 0)):
        raise ValueError(
            f"uns[{neighbors_key!r}]: expected finite connectivities of at least 0, found negative or infinite values."
        )
    kept = (edges.row != edges.col) & (edges.data > 0)
    rows, columns = edges.row[kept].astype(np.int64), edges.col[kept].astype(np.int64)
    strengths = edges.data[kept].astype(np.float32)
    strengths /= max(1.0, float(strengths.max(initial=0)))

    order = np.lexsort((columns, -strengths, rows))
    rows, columns, strengths = rows[order], columns[order], strengths[order]
    degrees = np.bincount(rows, minlength=adata.n_obs)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    strong = rank < n_neighbors
    rows, rank = rows[strong], rank[strong]

    indices = np.tile(np.arange(adata.n_obs, dtype=np.int64)[:, None], (1, n_neighbors))
    weights = np.zeros(indices.shape, dtype=np.float32)
    indices[rows, rank] = columns[strong]
    weights[rows, rank] = np.maximum(strengths[strong], np.finfo(np.float32).tiny)
    distances = np.zeros_like(weights)
    distances[rows, rank] = -np.log(weights[rows, rank])
    return NeighborGraph(indices, distances + 0, weights, symmetric=True)


def covers_all_cells(adata: AnnData, neighbors_key: str) -> bool:
    """Whether ``adata`` has the graph, and every cell has an edge.

    In a small subset of the cells of a graph, some cells may have no edges.
    """
    if neighbors_key not in adata.uns:
        return False
    return bool(scanpy_connectivities(adata, neighbors_key).getnnz(axis=1).all())


def scanpy_connectivities(adata: AnnData, neighbors_key: str) -> sparse.csr_matrix:
    """Connectivities of a graph, CSR ``(n_obs, n_obs)`` with sorted columns and one entry per edge.

    Raises
    ------
    KeyError
        If the graph is missing. The message lists the available keys.
    """
    if neighbors_key not in adata.uns:
        raise KeyError(
            f"`neighbors_key`: expected a key of adata.uns, found {neighbors_key!r}. Available: {list(adata.uns)}."
        )
    record = adata.uns[neighbors_key]
    key = record.get("connectivities_key", "connectivities") if hasattr(record, "get") else "connectivities"
    if key not in adata.obsp:
        raise KeyError(
            f"uns[{neighbors_key!r}] names the graph obsp[{key!r}], which is missing. "
            f"Available: {list(adata.obsp)}. Run scanpy.pp.neighbors."
        )
    graph = adata.obsp[key]
    return canonical(graph if sparse.issparse(graph) else sparse.csr_matrix(graph))
