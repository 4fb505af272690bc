"""The one currency for cell graphs: a fixed-width table of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, diags

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class NeighborGraph:
    """The neighbours of every cell, as tables of one width.

    A cell with fewer than ``n_neighbors`` neighbours has *padding* at the end of its rows: its own row number in
    ``indices`` and 0 in ``distances`` and ``weights``. No cell is its own neighbour, so padding is never ambiguous.

    Parameters
    ----------
    indices
        int64, shape ``(n_obs, n_neighbors)``: row numbers of the neighbours, nearest first, none twice.
    distances
        float32, shape ``(n_obs, n_neighbors)``: ascending along each row. In the unit of the space the graph was built
        in; ``-log(weight)`` for graphs that have weights only (diffusion, foreign graphs).
    weights
        float32, shape ``(n_obs, n_neighbors)``: edge weights in (0, 1].
    symmetric
        ``True`` if the weight of an edge already holds for both of its directions (a graph read from
        :attr:`~anndata.AnnData.obsp`); ``False`` for directed memberships, which :meth:`connectivities` unites.

    Raises
    ------
    ValueError
        If shapes, dtypes or bounds are not as described.
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
        """Width of the tables, padding included."""
        return int(self.indices.shape[1])

    @property
    def is_edge(self) -> NDArray[np.bool_]:
        """Shape ``(n_obs, n_neighbors)``: ``False`` on padding."""
        return self.indices != np.arange(self.n_obs)[:, None]

    def connectivities(self) -> csr_matrix:
        """Symmetric weighted adjacency matrix, sparse float32 of shape ``(n_obs, n_obs)``.

        Directed memberships ``W`` become ``W + W.T - W * W.T`` with the element-wise product: the probability that at
        least one of the two directed edges exists (UMAP's fuzzy union, McInnes et al. 2018, section 3.1). Weights that
        already hold for both directions become ``max(W, W.T)``.
        """
        directed = self._to_csr(self.weights)
        if self.symmetric:
            return _sorted(directed.maximum(directed.T))
        # `.multiply`, not `*`: the latter is the matrix product for sparse matrices.
        return _sorted(directed + directed.T - directed.multiply(directed.T))

    def distance_matrix(self) -> csr_matrix:
        """Directed distances, sparse float32 of shape ``(n_obs, n_obs)``; duplicates keep an explicit 0."""
        return self._to_csr(self.distances)

    def transition(self) -> csr_matrix:
        """Row-normalised :meth:`connectivities`: rows sum to 1, rows of isolated cells to 0."""
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
            "The table belongs to another set of cells; build it again."
        )
    if (~is_edge[:, :-1] & is_edge[:, 1:]).any():
        raise ValueError(
            "`indices`: expected padding (the own row number) at the end of a row, found it before a neighbour."
        )
    ordered = np.sort(indices, axis=1)
    own_row = np.arange(graph.n_obs)[:, None]
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != own_row)).any():
        raise ValueError("`indices`: expected distinct neighbours, found one listed twice in a row.")
    edge_weights, edge_distances = graph.weights[is_edge], graph.distances[is_edge]
    if not np.all((edge_weights > 0) & (edge_weights <= 1)):
        raise ValueError("`weights`: expected values in (0, 1], found others.")
    if not np.all(np.isfinite(edge_distances) & (edge_distances >= 0)):
        raise ValueError("`distances`: expected finite values of at least 0, found others.")
    if graph.weights[~is_edge].any() or graph.distances[~is_edge].any():
        raise ValueError("Expected weight 0 and distance 0 on padding, found others.")
    if ((np.diff(graph.distances, axis=1) < 0) & is_edge[:, 1:]).any():
        raise ValueError("`distances`: expected ascending rows, found others.")
