"""The two spaces in which cells are partitioned, with neighbour graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scsiameseclu.pp._knn import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_NEIGHBORS = 15
_OWN_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Space:
    """Decoded expression and embedding of the same cells.

    Distances have different meanings in the two spaces. Decoded expression keeps the sizes of the differences between
    cells. The axes of the embedding are decorrelated and have about equal variances, so that narrow and broad cell
    types have about the same width.

    Parameters
    ----------
    expression
        Principal components of decoded expression, ``(n_obs, n_comps)``, largest variance first.
    embedding
        Embedding, ``(n_obs, n_latent)``.
    random_state
        Seed of all random steps of a partition.
    """

    expression: NDArray[np.float32]
    embedding: NDArray[np.float32]
    random_state: int = 0

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.expression)

    @cached_property
    def expression_graph(self) -> sparse.csr_matrix:
        """Weights between nearest neighbours in decoded expression, ``(n_obs, n_obs)``, sparse and symmetric."""
        return _graph(self.expression, self.random_state)

    @cached_property
    def embedding_graph(self) -> sparse.csr_matrix:
        """Weights between nearest neighbours in the embedding, ``(n_obs, n_obs)``, sparse and symmetric."""
        return _graph(self.embedding, self.random_state)

    def smoothed(self, graph: sparse.csr_matrix) -> NDArray[np.float32]:
        """Average the decoded expression of each cell with the weighted mean of its neighbours in ``graph``."""
        total = np.asarray(graph.sum(axis=1)).ravel()
        means = sparse.diags(1.0 / np.maximum(total, 1e-9)) @ graph @ self.expression
        # A cell without neighbours keeps its own values.
        means = np.where(total[:, None] > 0, means, self.expression)
        return np.asarray(_OWN_SHARE * self.expression + (1.0 - _OWN_SHARE) * means, dtype=np.float32)

    def sample(self, at_most: int) -> NDArray[np.int64]:
        """Row numbers, ascending, of a random sample of ``at_most`` cells, or of all cells if there are fewer."""
        if self.n_obs <= at_most:
            return np.arange(self.n_obs)
        return np.sort(np.random.default_rng(self.random_state).choice(self.n_obs, at_most, replace=False))

    def of(self, rows: NDArray[np.int64]) -> Space:
        """The same space with only the cells in ``rows``."""
        return Space(self.expression[rows], self.embedding[rows], self.random_state)


def _graph(points: NDArray[np.float32], random_state: int) -> sparse.csr_matrix:
    n_neighbors = min(N_NEIGHBORS, max(len(points) - 1, 1))
    return knn(np.ascontiguousarray(points, dtype=np.float32), n_neighbors, random_state).connectivities()
