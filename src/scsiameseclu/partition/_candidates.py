"""Partitions of the cells into a given number of clusters, found in different ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.neighbors import NearestCentroid

from scsiameseclu.partition._mixture import fit_mixture
from scsiameseclu.partition._tree import MergeTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scsiameseclu.partition._space import Space

N_DIMS = 15
"""Number of principal components of decoded expression that mixtures are fitted on."""
SIZE_POWERS = (0.0, 0.15, 0.3)
_N_STARTS = 10
_MAX_WARD_CELLS = 4_000
_MIXTURE_ITERATIONS = 60
_FINE_RESOLUTION = 3.0
_RESOLUTION_BOUNDS = (5e-4, 8.0)
_MAX_BISECTIONS = 18


def candidates(space: Space, n_clusters: int) -> dict[str, NDArray[np.int64]]:
    """Compute partitions with exactly ``n_clusters`` clusters by several methods.

    * k-means and Ward's tree, on decoded expression, and on decoded expression smoothed over the neighbours in either
      graph;
    * the most likely of three Gaussian mixtures with one common covariance, fitted from k-means, Ward and Leiden;
    * Leiden communities of either graph, at a resolution that gives ``n_clusters`` communities;
    * cuts of the tree of merges by relative separability, in either space, with three powers of the group size.

    A method that does not give ``n_clusters`` clusters is left out.

    Parameters
    ----------
    space
        The cells.
    n_clusters
        Number of clusters, at least 2.

    Returns
    -------
    Cluster of each cell, int64 ``(n_obs,)``, by name of the method.
    """
    seed = space.random_state
    found: dict[str, NDArray[np.int64] | None] = {}
    surfaces = {
        "expression": space.expression,
        "smoothed expression": space.smoothed(space.expression_graph),
        "expression smoothed by embedding": space.smoothed(space.embedding_graph),
    }
    for name, points in surfaces.items():
        found[f"k-means, {name}"] = _kmeans(points, n_clusters, seed)
        found[f"Ward, {name}"] = _ward(points, n_clusters, seed)
    views = {
        "expression": (space.expression, space.expression_graph),
        "embedding": (space.embedding, space.embedding_graph),
    }
    for name, (points, graph) in views.items():
        found[f"Leiden, {name}"] = leiden_at(graph, n_clusters, seed)
        groups = leiden(graph, _FINE_RESOLUTION, seed)
        if groups.max() + 1 >= n_clusters:
            known: dict[tuple[frozenset[int], frozenset[int]], float] = {}
            for power in SIZE_POWERS:
                tree = MergeTree(points, groups, graph, power, seed, known)
                found[f"tree, {name}, size {power}"] = tree.cut(n_clusters)[groups]
    whole = {name: labels for name, labels in found.items() if labels is not None and _n_groups(labels) == n_clusters}
    starts = [labels for name, labels in whole.items() if name in _STARTS]
    if starts:
        fits = [fit_mixture(space.expression[:, :N_DIMS], start, "equal", _MIXTURE_ITERATIONS) for start in starts]
        likeliest = max(fits, key=lambda fit: fit[0])[1]
        if _n_groups(likeliest) == n_clusters:
            whole["mixture"] = likeliest
    return whole


_STARTS = ("k-means, expression", "Ward, expression", "Leiden, expression")


def _n_groups(labels: NDArray[np.integer]) -> int:
    return len(np.unique(labels))


def _kmeans(points: NDArray[np.float32], n_clusters: int, random_state: int) -> NDArray[np.int64]:
    return KMeans(n_clusters, n_init=_N_STARTS, random_state=random_state).fit_predict(points).astype(np.int64)


def _ward(points: NDArray[np.float32], n_clusters: int, random_state: int) -> NDArray[np.int64]:
    """Clusters by Ward's method, ``(n_obs,)``.

    If there are more than 4,000 cells, Ward's method runs on a sample, and all cells go to the nearest mean.
    """
    rows = np.arange(len(points))
    if len(rows) > _MAX_WARD_CELLS:
        rows = np.random.default_rng(random_state).choice(len(rows), _MAX_WARD_CELLS, replace=False)
    labels = AgglomerativeClustering(n_clusters).fit_predict(points[rows])
    if len(rows) == len(points):
        return labels.astype(np.int64)
    return NearestCentroid().fit(points[rows], labels).predict(points).astype(np.int64)


def leiden_at(connectivities: sparse.csr_matrix, n_clusters: int, random_state: int) -> NDArray[np.int64] | None:
    """Leiden partition into exactly ``n_clusters`` communities, ``(n_obs,)``, or None if no resolution gives them."""
    low, high = _RESOLUTION_BOUNDS
    for _ in range(_MAX_BISECTIONS):
        middle = float(np.sqrt(low * high))
        labels = leiden(connectivities, middle, random_state)
        found = int(labels.max()) + 1
        if found == n_clusters:
            return labels
        low, high = (middle, high) if found < n_clusters else (low, middle)
    return None


def leiden(connectivities: sparse.csr_matrix, resolution: float, random_state: int) -> NDArray[np.int64]:
    """Leiden communities by modularity, ``(n_obs,)``, numbered from 0."""
    cells = AnnData(sparse.csr_matrix((connectivities.shape[0], 1), dtype=np.float32))
    sc.tl.leiden(
        cells,
        resolution=resolution,
        adjacency=connectivities,
        random_state=random_state,
        flavor="igraph",
        n_iterations=2,
        directed=False,
    )
    return cells.obs["leiden"].cat.codes.to_numpy().astype(np.int64)
