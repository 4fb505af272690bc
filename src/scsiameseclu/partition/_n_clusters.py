"""Choice of the number of clusters, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.partition._candidates import leiden
from scsiameseclu.partition._tree import null_separability, separability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scsiameseclu.partition._space import Space

AUTO_RESOLUTION = 0.14
CURVE_RESOLUTIONS = (0.03, 0.07, 0.14, 0.2, 0.3, 0.5, 1.0)
MAX_CLUSTERS = 50
MIN_SEPARABILITY = 1.8
"""Smallest relative separability of clusters. Data with less separable communities count as one population."""
_MAX_CELLS = 2_000
_MIN_GROUP = 10


@dataclass(frozen=True)
class NClustersResult:
    """Outcome of the search for the number of clusters.

    Attributes
    ----------
    n_clusters
        The chosen number.
    criterion
        Text that says how the number was chosen.
    values
        Number of Leiden communities by resolution. The values show how much the choice depends on the resolution.
    separability
        Relative separability of the best separated community from its nearest neighbour. 0 if there are no two
        communities to compare.
    """

    n_clusters: int
    criterion: str
    values: dict[float, int]
    separability: float = 0.0

    def to_state(self) -> dict[str, Any]:
        """Return the fields as built-in Python types, which can be stored in a model file or in ``uns``."""
        return {
            "n_clusters": int(self.n_clusters),
            "criterion": self.criterion,
            "resolutions": [float(resolution) for resolution in self.values],
            "n_communities": [int(number) for number in self.values.values()],
            "separability": float(self.separability),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NClustersResult:
        """Inverse of :meth:`to_state`. States of early versions have no separability, and get 0."""
        values = dict(zip(state["resolutions"], state["n_communities"], strict=True))
        return cls(state["n_clusters"], state["criterion"], values, state.get("separability", 0.0))


def choose_n_clusters(space: Space) -> NClustersResult:
    """Choose the number of clusters.

    The number of clusters is the number of Leiden communities in the embedding at resolution 0.14, at most 50.

    If no community is clearly separate from all other communities, the number of clusters is 1. The function computes
    the relative separability (see :class:`~scsiameseclu.partition._tree.MergeTree`) of each community and its nearest
    neighbour, and compares the largest value with 1.8. Separability is computed in decoded expression and in the
    embedding, and the smaller value is used.

    The function uses at most 2,000 sampled cells, because the number of communities of a graph with a fixed number of
    neighbours grows with the number of cells.

    Parameters
    ----------
    space
        The cells, at least 3.

    Returns
    -------
    The number of clusters and how it was chosen.

    Raises
    ------
    ValueError
        If there are fewer than 3 cells.
    """
    if space.n_obs < 3:
        raise ValueError(f"Expected at least 3 cells to choose the number of clusters, found {space.n_obs}.")
    space = space.of(space.sample(_MAX_CELLS))
    seed = space.random_state
    labels = {each: leiden(space.embedding_graph, each, seed) for each in CURVE_RESOLUTIONS}
    curve = {each: int(groups.max()) + 1 for each, groups in labels.items()}
    apart = farthest(space, labels[AUTO_RESOLUTION])
    n_clusters = min(curve[AUTO_RESOLUTION], MAX_CLUSTERS, space.n_obs - 1)
    if n_clusters > 1 and apart < MIN_SEPARABILITY:
        criterion = f"one population: relative separability {apart:.2f}, below {MIN_SEPARABILITY}"
        return NClustersResult(1, criterion, curve, apart)
    return NClustersResult(n_clusters, f"Leiden communities at resolution {AUTO_RESOLUTION}", curve, apart)


def farthest(space: Space, groups: NDArray[np.integer]) -> float:
    """Relative separability of the best separated group from its nearest neighbour.

    Groups with fewer than 10 cells (or fewer than a quarter of all cells, if that is less) are ignored. If fewer than
    two groups are left, the result is 0.

    Parameters
    ----------
    space
        The cells.
    groups
        Number of the group of every cell, from 0, ``(n_obs,)``.
    """
    order = np.random.default_rng(space.random_state).permutation(space.n_obs)
    rows = [order[groups[order] == group] for group in range(int(groups.max()) + 1)]
    rows = [each for each in rows if len(each) >= min(_MIN_GROUP, space.n_obs // 4)]
    if len(rows) < 2:
        return 0.0
    nearest = np.full(len(rows), np.inf)
    for at, first in enumerate(rows):
        for other, second in enumerate(rows[:at]):
            value = _relative(space, first, second)
            nearest[at], nearest[other] = min(nearest[at], value), min(nearest[other], value)
    return float(nearest.max())


def _relative(space: Space, first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Relative separability of two groups of cells: the smaller value of decoded expression and embedding."""
    null = null_separability(len(first) / (len(first) + len(second)))
    return min(separability(points[first], points[second]) for points in (space.expression, space.embedding)) / null
