"""The cell graph, as tables with a fixed number of neighbours per cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, diags

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class NeighborGraph:
    """The neighbours of every cell, as tables with one row per cell.

    A cell with fewer than ``n_neighbors`` neighbours has *padding* at the end of its rows: its own row number in
    ``indices``, and 0 in ``distances`` and ``weights``. No cell is its own neighbour, so its own row number always
    means padding.

    Parameters
    ----------
    indices
        Row numbers of the neighbours, int64 ``(n_obs, n_neighbors)``. The neighbours of a cell are distinct, and the
        nearest neighbour comes first.
    distances
        Distances to the neighbours, float32 ``(n_obs, n_neighbors)``, ascending along each row. The unit is that of the
        representation that the graph was built on. In graphs that only have weights (diffusion, graphs of scanpy), the
        distance is ``-log(weight)``.
    weights
        Edge weights in (0, 1], float32 ``(n_obs, n_neighbors)``.
    symmetric
        ``True`` if each weight is valid for both directions of its edge, as in a graph read from
        :attr:`~anndata.AnnData.obsp`. ``False`` for directed membership strengths, which :meth:`connectivities`
        combines.

    Raises
    ------
    ValueError
        If shapes, dtypes or values are not as described.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    weights: NDArray[np.float32]
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name, dtype in (("indices", np.int64), ("distances", np.float32), ("weights", np.float32)):
            table = getattr(self, name)
            if not isinstance(table, np.ndarray) or table.dtype != dtype or table.ndim != 2:
                found = f"{getattr(table, 'dtype', type(table).__name__)} of shape {getattr(table, 'shape', '?')}"
                raise ValueError(f"`{name}`: expected a 2-d array of {np.dtype(dtype)}, found {found}.")
            if table.shape != self.indices.shape or 0 in table.shape:
                raise ValueError(
                    f"`{name}`: expected shape {self.indices.shape} without empty axes, found {table.shape}."
                )
        _check_bounds(self)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return int(self.indices.shape[0])

    @property
    def n_neighbors(self) -> int:
        """Number of columns of the tables, padding included."""
        return int(self.indices.shape[1])

    @property
    def is_edge(self) -> NDArray[np.bool_]:
        """Whether an entry of the tables is a neighbour, bool ``(n_obs, n_neighbors)``; ``False`` on padding."""
        return self.indices != np.arange(self.n_obs)[:, None]

    def connectivities(self) -> csr_matrix:
        """Compute the symmetric weighted adjacency matrix, sparse float32 ``(n_obs, n_obs)``.

        Directed membership strengths ``W`` are combined to ``W + W.T - W * W.T`` with the element-wise product. This is
        the probability that at least one of the two directed edges exists (the fuzzy union of UMAP, McInnes et al.
        2018, section 3.1). Symmetric weights are combined to ``max(W, W.T)``.
        """
        directed = self._to_csr(self.weights)
        if self.symmetric:
            return _sorted(directed.maximum(directed.T))
        # `*` would be the matrix product of the sparse matrices.
        return _sorted(directed + directed.T - directed.multiply(directed.T))

    def distance_matrix(self) -> csr_matrix:
        """Directed distances, sparse float32 ``(n_obs, n_obs)``. The distance 0 of identical cells is stored."""
        return self._to_csr(self.distances)

    def transition(self) -> csr_matrix:
        """Row-normalised :meth:`connectivities`. Each row sums to 1, or to 0 if the cell has no neighbours."""
        adjacency = self.connectivities()
        totals = np.asarray(adjacency.sum(axis=1)).ravel()
        inverse = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        return csr_matrix(diags(inverse.astype(np.float32)) @ adjacency)

    def _to_csr(self, values: NDArray[np.float32]) -> csr_matrix:
        is_edge = self.is_edge
        indptr = np.concatenate([[0], np.cumsum(is_edge.sum(axis=1))])
        return _sorted(csr_matrix((values[is_edge], self.indices[is_edge], indptr), shape=(self.n_obs, self.n_obs)))


def _sorted(matrix: csr_matrix) -> csr_matrix:
    matrix = csr_matrix(matrix)
    matrix.sort_indices()
    return matrix


def _check_bounds(graph: NeighborGraph) -> None:
    indices, is_edge = graph.indices, graph.is_edge
    if indices.min() < 0 or indices.max() >= graph.n_obs:
        raise ValueError(
            f"`indices`: expected row numbers in [0, {graph.n_obs}), found {indices.min()} to {indices.max()}. "
            "The table belongs to another set of cells; build the graph again."
        )
    if (~is_edge[:, :-1] & is_edge[:, 1:]).any():
        raise ValueError(
            "`indices`: expected padding (the row number of the cell itself) at the end of a row, found padding before "
            "a neighbour."
        )
    ordered = np.sort(indices, axis=1)
    own_row = np.arange(graph.n_obs)[:, None]
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != own_row)).any():
        raise ValueError("`indices`: expected distinct neighbours, found a neighbour twice in one row.")
    edge_weights, edge_distances = graph.weights[is_edge], graph.distances[is_edge]
    if not np.all((edge_weights > 0) & (edge_weights <= 1)):
        raise ValueError("`weights`: expected values in (0, 1], found other values.")
    if not np.all(np.isfinite(edge_distances) & (edge_distances >= 0)):
        raise ValueError("`distances`: expected finite values of at least 0, found other values.")
    if graph.weights[~is_edge].any() or graph.distances[~is_edge].any():
        raise ValueError("Expected weight 0 and distance 0 on padding, found other values.")
    if ((np.diff(graph.distances, axis=1) < 0) & is_edge[:, 1:]).any():
        raise ValueError("`distances`: expected ascending values in each row, found another order.")
