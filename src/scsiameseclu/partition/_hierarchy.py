"""The binary tree over small groups of cells, in which every cluster is a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from scsiameseclu.partition._candidates import leiden
from scsiameseclu.partition._tree import MergeTree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scsiameseclu.partition._space import Space

FINE_RESOLUTION = 3.0
MIN_GROUP = 10
_MAX_GROUPS = 200
"""A small group has at least ``MIN_GROUP`` cells, and at least a share of 1 / ``_MAX_GROUPS`` of all cells."""
SIZE_POWER = 0.15


@dataclass(frozen=True)
class Hierarchy:
    """A binary tree over small groups of cells, in which every cluster of a partition is a node.

    The leaves are the small groups. Nodes are numbered as in :func:`scipy.cluster.hierarchy.linkage`: first the small
    groups, from 0, then one node per merge, in the order of merging. The last node is the root.

    Attributes
    ----------
    centers
        Centre of every small group in the embedding, ``(n_groups, n_latent)``.
    clusters
        Number of the cluster of every small group, ``(n_groups,)``.
    sizes
        Number of cells in every small group, ``(n_groups,)``.
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
        """Assign each cell to the small group with the nearest centre among the groups of the cell's cluster.

        Parameters
        ----------
        embedding
            Embedded cells, ``(n, n_latent)``.
        clusters
            Number of the cluster of each cell, ``(n,)``. If the cluster of a cell has no small group, the cell goes to
            the nearest centre of all groups.

        Returns
        -------
        Number of the small group of each cell, int64 ``(n,)``.
        """
        return _nearest(embedding, clusters, self.centers, self.clusters)

    def members(self, node: int) -> NDArray[np.int64]:
        """Numbers of the small groups below a node, ascending."""
        found, open_nodes = [], [int(node)]
        while open_nodes:
            at = open_nodes.pop()
            if at < self.n_groups:
                found.append(at)
            else:
                open_nodes.extend(self.children[at - self.n_groups].tolist())
        return np.sort(np.asarray(found, dtype=np.int64))

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Cluster of every small group if the tree is cut into ``n_clusters`` clusters, from 0, ``(n_groups,)``.

        Raises
        ------
        ValueError
            If there are fewer small groups than clusters, or ``n_clusters`` is below 1.
        """
        if not 1 <= n_clusters <= self.n_groups:
            raise ValueError(f"Expected n_clusters from 1 to {self.n_groups} (small groups), found {n_clusters}.")
        return self._merged(range(self.n_groups - n_clusters))

    def cut_at(self, p_values: Sequence[float], significance: float) -> NDArray[np.int64]:
        """Cluster of every small group if splits that are not significant are undone, from 0, ``(n_groups,)``.

        The method starts at the bottom of the tree. Two nodes are joined if the p value of their split is above
        ``significance`` and neither node is split itself. A split that is not significant is therefore kept if there is
        a significant split below it.

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
        """Cluster of every small group after the given merges."""
        cluster = np.arange(self.n_groups)
        for merge in merges:
            groups = self.members(self.n_groups + merge)
            cluster[groups] = groups[0]
        return np.unique(cluster, return_inverse=True)[1].ravel()

    def topmost_split(self, groups: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The two sides of the topmost split that divides the given small groups, or None for a single group."""
        for merge in range(self.n_groups - 2, -1, -1):
            first, second = (np.intersect1d(groups, self.members(node)) for node in self.children[merge])
            if len(first) and len(second):
                return first, second
        return None


def small_groups(space: Space, clusters: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Divide every cluster into small groups by Leiden communities of the embedding at resolution 3.

    Groups with fewer than 10 cells, or with less than 1/200 of all cells, are dropped. Then every cell goes to the
    nearest remaining centre of its cluster. New cells are assigned to small groups by the same rule.

    Parameters
    ----------
    space
        The cells.
    clusters
        Number of the cluster of each cell, ``(n_obs,)``.

    Returns
    -------
    Number of the small group of each cell, int64 ``(n_obs,)``, from 0 without gaps, and centres of the groups in the
    embedding, ``(n_groups, n_latent)``.
    """
    fine = leiden(space.embedding_graph, FINE_RESOLUTION, space.random_state)
    smallest = max(MIN_GROUP, space.n_obs // _MAX_GROUPS)
    centers, owners = [], []
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        pieces, sizes = np.unique(fine[rows], return_counts=True)
        kept = pieces[sizes >= smallest]
        # A cluster in which no group is large enough becomes one group.
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
    """Build the tree over the clusters of a partition.

    First, small groups of the same cluster are merged until each cluster is one group. Then the clusters are merged.
    The least separable pair is always merged first (:class:`~scsiameseclu.partition._tree.MergeTree`, in the
    embedding).

    Parameters
    ----------
    space
        The cells.
    clusters
        Number of the cluster of each cell, ``(n_obs,)``.

    Returns
    -------
    The tree, and the number of the small group of each cell, int64 ``(n_obs,)``.
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


def to_state(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return the tree as built-in Python types, without the descriptions of the splits."""
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
