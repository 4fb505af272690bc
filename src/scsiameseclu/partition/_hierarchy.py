"""The tree over the clusters and below them: separability, significance and genes of every split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri
from sklearn.metrics import pairwise_distances_argmin

from scsiameseclu.partition._candidates import leiden
from scsiameseclu.partition._tree import MergeTree, null_separability, separability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scsiameseclu.partition._space import Space

FINE_RESOLUTION = 3.0
MIN_GROUP = 10
_MAX_GROUPS = 200
"""Least cells of a small group, next to one part in 200 of all cells.

A smaller group is joined to the nearest one of its cluster.
"""
SIZE_POWER = 0.15
N_DRAWS = 99
N_GENES = 10
_MAX_CELLS = 400
"""Cells of a side that a split is measured on."""
_MAX_NULL_CELLS = 200
"""Cells of a side in the draws of one population, and in what they are compared with."""
_ENOUGH_ABOVE = 5
"""Draws at least as separable as what was found, after which no more are made: the split is not significant."""
_CLUMPING = 1.6
"""Factor on the separability of the draws.

Training gathers cells around each other, also where there is one population. Models trained on one simulated
population, with three and four clusters asked for, had splits of up to 1.4 relative separability, most below 1.
"""
_MIN_SPREAD = 0.1
"""Added to the standard deviation of a gene within the sides, in units of its standard deviation over all cells."""


@dataclass(frozen=True)
class Hierarchy:
    """A binary tree over small groups of cells that passes through a partition.

    Nodes are numbered as in :func:`scipy.cluster.hierarchy.linkage`: the small groups from 0, then one node per merge,
    in the order of merging. The last node is the root.

    Attributes
    ----------
    centers
        Centre of every small group in the embedding, ``(n_groups, n_latent)``.
    clusters
        Cluster of every small group in the partition the tree passes through, ``(n_groups,)``.
    sizes
        Cells of every small group, ``(n_groups,)``.
    children
        The two nodes that each merge joins, ``(n_groups - 1, 2)``.
    """

    centers: NDArray[np.float32]
    clusters: NDArray[np.int64]
    sizes: NDArray[np.int64]
    children: NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """Number of small groups."""
        return len(self.centers)

    def assign(self, embedding: NDArray[np.floating], clusters: NDArray[np.integer]) -> NDArray[np.int64]:
        """Small group of cells: the nearest centre among the groups of the cell's cluster.

        Parameters
        ----------
        embedding
            Cells, ``(n, n_latent)``.
        clusters
            Cluster of each cell in the partition the tree passes through, ``(n,)``. A cell of a cluster without a small
            group goes to the nearest centre of all.

        Returns
        -------
        int64 ``(n,)``.
        """
        return _nearest(embedding, clusters, self.centers, self.clusters)

    def members(self, node: int) -> NDArray[np.int64]:
        """Small groups of a node, ascending."""
        found, open_nodes = [], [int(node)]
        while open_nodes:
            at = open_nodes.pop()
            if at < self.n_groups:
                found.append(at)
            else:
                open_nodes.extend(self.children[at - self.n_groups].tolist())
        return np.sort(np.asarray(found, dtype=np.int64))

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Cluster of every small group with so many clusters, from 0, ``(n_groups,)``.

        Raises
        ------
        ValueError
            If there are fewer small groups than clusters, or ``n_clusters`` is below 1.
        """
        if not 1 <= n_clusters <= self.n_groups:
            raise ValueError(f"Expected n_clusters from 1 to {self.n_groups} (small groups), found {n_clusters}.")
        return self._merged(range(self.n_groups - n_clusters))

    def cut_at(self, p_values: Sequence[float], significance: float) -> NDArray[np.int64]:
        """Cluster of every small group if only significant splits are kept, from 0, ``(n_groups,)``.

        From the bottom: two nodes are joined if the p value of their split is above ``significance`` and neither is
        split itself. So a split that is not significant stays where one below it is.

        Parameters
        ----------
        p_values
            P value of each merge, in the order of merging, ``(n_groups - 1,)``.
        significance
            Largest p value of a split that is kept.
        """
        whole = np.ones(2 * self.n_groups - 1, dtype=bool)
        for merge, (first, second) in enumerate(self.children):
            whole[self.n_groups + merge] = whole[first] and whole[second] and p_values[merge] > significance
        return self._merged([merge for merge in range(self.n_groups - 1) if whole[self.n_groups + merge]])

    def _merged(self, merges: Sequence[int]) -> NDArray[np.int64]:
        """Cluster of every small group if these merges are made."""
        cluster = np.arange(self.n_groups)
        for merge in merges:
            groups = self.members(self.n_groups + merge)
            cluster[groups] = groups[0]
        return np.unique(cluster, return_inverse=True)[1].ravel()

    def topmost_split(self, groups: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The two sides of the topmost split that divides these small groups; None if there is only one group."""
        for merge in range(self.n_groups - 2, -1, -1):
            first, second = (np.intersect1d(groups, self.members(node)) for node in self.children[merge])
            if len(first) and len(second):
                return first, second
        return None


def small_groups(space: Space, clusters: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cut every cluster into small groups: Leiden's communities of the embedding at resolution 3 within it.

    Pieces below 10 cells, or one part in 200 of all, are joined to the nearest piece of their cluster. Then every cell
    goes to the nearest centre of its cluster, which is the rule other cells are assigned by.

    Parameters
    ----------
    space
        The cells.
    clusters
        Cluster of each cell, ``(n_obs,)``.

    Returns
    -------
    Small group of each cell, int64 ``(n_obs,)``, from 0 without gaps, and centres in the embedding, ``(n_groups,
    n_latent)``.
    """
    fine = leiden(space.embedding_graph, FINE_RESOLUTION, space.random_state)
    smallest = max(MIN_GROUP, space.n_obs // _MAX_GROUPS)
    centers, owners = [], []
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        pieces, sizes = np.unique(fine[rows], return_counts=True)
        kept = pieces[sizes >= smallest]
        # A cluster without a piece that is large enough stays in one piece.
        parts = [rows[fine[rows] == piece] for piece in kept] if len(kept) else [rows]
        centers += [space.embedding[part].mean(axis=0) for part in parts]
        owners += [cluster] * len(parts)
    points, of = np.asarray(centers, dtype=np.float32), np.asarray(owners)
    groups = _nearest(space.embedding, clusters, points, of)
    occupied, groups = np.unique(groups, return_inverse=True)
    return groups.ravel().astype(np.int64), points[occupied]


def _nearest(
    embedding: NDArray[np.floating],
    clusters: NDArray[np.integer],
    centers: NDArray[np.floating],
    owners: NDArray[np.integer],
) -> NDArray[np.int64]:
    groups = np.empty(len(embedding), dtype=np.int64)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        own = np.flatnonzero(owners == cluster)
        own = own if len(own) else np.arange(len(centers))
        groups[rows] = own[pairwise_distances_argmin(embedding[rows], centers[own])]
    return groups


def grow(space: Space, clusters: NDArray[np.integer]) -> tuple[Hierarchy, NDArray[np.int64]]:
    """Build the tree that passes through a partition, and say in which small group each cell is.

    Small groups are merged within their cluster until each cluster is one group, then clusters among one another, the
    least separable pair first (:class:`~scsiameseclu.partition._tree.MergeTree`, in the embedding).

    Parameters
    ----------
    space
        The cells.
    clusters
        Cluster of each cell, ``(n_obs,)``.

    Returns
    -------
    The tree, and the small group of each cell, int64 ``(n_obs,)``.
    """
    groups, centers = small_groups(space, clusters)
    n_groups = len(centers)
    owners = np.zeros(n_groups, dtype=np.int64)
    owners[groups] = clusters
    tree = MergeTree(space.embedding, groups, space.embedding_graph, SIZE_POWER, space.random_state, within=owners)
    node = np.arange(n_groups)
    children = np.zeros((n_groups - 1, 2), dtype=np.int64)
    for merge, (kept, gone) in enumerate(tree.merges):
        children[merge] = node[kept], node[gone]
        node[kept] = n_groups + merge
    return Hierarchy(centers, owners, np.bincount(groups, minlength=n_groups), children), groups


def describe(
    hierarchy: Hierarchy,
    groups: NDArray[np.integer],
    space: Space,
    expression: NDArray[np.floating] | None = None,
    genes: Sequence[str] = (),
    n_draws: int = N_DRAWS,
) -> list[dict[str, Any]]:
    """Describe every split, the topmost first.

    Parameters
    ----------
    hierarchy
        The tree.
    groups
        Small group of each cell, ``(n_obs,)``.
    space
        The cells.
    expression
        Expression of the genes in each cell, each gene in units of its standard deviation, ``(n_obs, n_genes)``.
    genes
        Names of the genes.
    n_draws
        Draws of one population behind each p value, at most.

    Returns
    -------
    One dictionary of builtins per split: ``node`` and its ``parent`` (None for the root), the nodes ``left`` and
    ``right`` on its two sides, ``n_left`` and ``n_right`` cells, ``n_clusters`` that there are once this split and all
    above are made, ``separability``, relative to one population cut in two, ``p_value``, and ``genes``: up to 10 names
    with the standardised difference, positive if higher on the left.
    """
    parents = {
        int(child): hierarchy.n_groups + merge for merge, pair in enumerate(hierarchy.children) for child in pair
    }
    order = np.random.default_rng(space.random_state).permutation(space.n_obs)
    splits = []
    for merge in range(hierarchy.n_groups - 2, -1, -1):
        node, (left, right) = hierarchy.n_groups + merge, hierarchy.children[merge].tolist()
        sides = [order[np.isin(groups[order], hierarchy.members(child))] for child in (left, right)]
        found, p_value = measure(space, sides[0], sides[1], n_draws)
        splits.append(
            {
                "node": node,
                "parent": parents.get(node),
                "left": left,
                "right": right,
                "n_left": len(sides[0]),
                "n_right": len(sides[1]),
                "n_clusters": hierarchy.n_groups - merge,
                "separability": found,
                "p_value": p_value,
                "genes": {} if expression is None else carriers(expression, sides[0], sides[1], genes),
            }
        )
    return splits


def measure(
    space: Space, first: NDArray[np.integer], second: NDArray[np.integer], n_draws: int = N_DRAWS
) -> tuple[float, float]:
    """Relative separability of two groups of cells, and its p value if both are halves of one population.

    Both are taken in decoded expression and in the embedding; the smaller separability and the larger p value count.
    For the p value, one population is drawn from a normal distribution with the covariance of both groups together, cut
    across its leading axis in the same shares, and its separability is computed in the same way, again and again, times
    1.6, because training gathers the cells of one population into clumps that a normal distribution does not have. The
    p value is the share of draws that are at least as separable as what was found, which counts as a draw itself.
    Drawing ends early once 5 draws are (Besag and Clifford, Biometrika 1991).

    Parameters
    ----------
    space
        The cells.
    first, second
        Rows of the two groups, in random order.
    n_draws
        Draws at most.
    """
    share = len(first) / (len(first) + len(second))
    null = null_separability(share)
    relative, p_values = [], []
    for points in (space.expression, space.embedding):
        points = points.astype(np.float64)
        relative.append(separability(points[first[:_MAX_CELLS]], points[second[:_MAX_CELLS]]) / null)
        sides = points[first[:_MAX_NULL_CELLS]], points[second[:_MAX_NULL_CELLS]]
        p_values.append(p_value_of(*sides, share, n_draws, space.random_state))
    return float(min(relative)), float(max(p_values))


def p_value_of(
    first: NDArray[np.floating], second: NDArray[np.floating], share: float, n_draws: int, random_state: int
) -> float:
    """P value of the separability of two groups (see :func:`measure`); ``share`` is the first group's of both."""
    if min(len(first), len(second)) < 4:
        return 1.0  # too few cells to leave some out
    rng = np.random.default_rng(random_state)
    found = separability(first, second)
    spreads = _spreads(first, second, share)
    n_above = 0
    for draw in range(1, n_draws + 1):
        drawn = separability(*_one_population(spreads, len(first), len(second), share, rng))
        n_above += _CLUMPING * drawn >= found
        if n_above == _ENOUGH_ABOVE:
            return n_above / draw
    return (1 + n_above) / (1 + n_draws)


def _spreads(first: NDArray[np.floating], second: NDArray[np.floating], share: float) -> NDArray[np.float64]:
    """Standard deviations of both groups together along their principal axes, the largest first."""
    between = first.mean(axis=0) - second.mean(axis=0)
    joint = share * np.cov(first.T, ddof=0) + (1.0 - share) * np.cov(second.T, ddof=0)
    joint = np.atleast_2d(joint) + share * (1.0 - share) * np.outer(between, between)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(joint)[::-1], 0.0))


def _one_population(
    spreads: NDArray[np.float64], n_first: int, n_second: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cells of one normal population on the two sides of a cut across its leading axis."""
    # Groups are larger than what is looked at of them: the cut is where the share of the whole groups says.
    below = (1.0 - share) * rng.random(n_second), (1.0 - share) + share * rng.random(n_first)
    sides = ndtri(below[1]), ndtri(below[0])
    cells = [rng.normal(size=(len(side), len(spreads))) for side in sides]
    for side, values in zip(sides, cells, strict=True):
        values[:, 0] = side
    return cells[0] * spreads, cells[1] * spreads


def carriers(
    expression: NDArray[np.floating], first: NDArray[np.integer], second: NDArray[np.integer], genes: Sequence[str]
) -> dict[str, float]:
    """The 10 genes that differ most between two groups of cells, with the difference over the spread within them.

    Parameters
    ----------
    expression
        Expression of the genes, each in units of its standard deviation, ``(n_obs, n_genes)``.
    first, second
        Rows of the two groups.
    genes
        Names of the genes, the first columns of ``expression``.
    """
    columns = len(genes)
    one, other = (expression[np.sort(rows[:_MAX_CELLS]), :columns] for rows in (first, second))
    spread = np.sqrt(0.5 * (one.var(axis=0) + other.var(axis=0))) + _MIN_SPREAD
    difference = (one.mean(axis=0) - other.mean(axis=0)) / spread
    best = np.argsort(-np.abs(difference), kind="stable")[:N_GENES]
    return {str(genes[at]): float(difference[at]) for at in best}


def to_state(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return the tree without its description, as builtins."""
    return {
        "centers": hierarchy.centers.tolist(),
        "clusters": hierarchy.clusters.tolist(),
        "sizes": hierarchy.sizes.tolist(),
        "children": hierarchy.children.tolist(),
    }


def from_state(state: Mapping[str, Any]) -> Hierarchy:
    """Inverse of :func:`to_state`."""
    return Hierarchy(
        np.asarray(state["centers"], dtype=np.float32),
        np.asarray(state["clusters"], dtype=np.int64),
        np.asarray(state["sizes"], dtype=np.int64),
        np.asarray(state["children"], dtype=np.int64).reshape(-1, 2),
    )
