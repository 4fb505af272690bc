"""First partition of the cells, and the number of clusters when none is given. No labels enter here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from scsiameseclu.pp import knn

N_NEIGHBORS = 15
OVERSPLIT = 2
MASS_EXPONENT = 0.75
AUTO_RESOLUTION = 0.1
CURVE_RESOLUTIONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MAX_CLUSTERS = 50
_MAX_SCAN_CELLS = 2_000
_MAX_LEIDEN_RUNS = 20
_RESOLUTIONS = (1e-3, 32.0)


@dataclass(frozen=True)
class NClustersResult:
    """Outcome of the search for the number of clusters.

    Attributes
    ----------
    n_clusters
        The number found.
    criterion
        Name of the rule.
    values
        Number of communities at each of several resolutions, to see how much the choice depends on it.
    """

    n_clusters: int
    criterion: str
    values: dict[float, int]

    def to_state(self) -> dict[str, Any]:
        """Return builtins only, safe to store in a model file or in ``uns``."""
        return {
            "n_clusters": int(self.n_clusters),
            "criterion": self.criterion,
            "resolutions": [float(resolution) for resolution in self.values],
            "n_communities": [int(number) for number in self.values.values()],
        }


def initial_partition(points: NDArray[np.float32], n_clusters: int, random_state: int = 0) -> NDArray[np.int64]:
    """Partition cells into ``n_clusters`` groups: Leiden communities, twice as many as asked for, merged.

    Communities of the kNN graph follow the shape of the data but tend to be of one size, so that large types come out in
    pieces. Pieces are merged by :func:`merge_groups`, which looks at distances instead of edges.

    Parameters
    ----------
    points
        Cells in a space with meaningful distances, ``(n_obs, n_dims)``: principal components of decoded expression.
    n_clusters
        Number of clusters.
    random_state
        Seed of Leiden.

    Returns
    -------
    Cluster of each cell, ``(n_obs,)``.

    Raises
    ------
    ValueError
        If there are fewer cells than clusters.
    """
    n_obs = len(points)
    if n_obs < n_clusters:
        raise ValueError(f"Expected at least {n_clusters} cells for {n_clusters} clusters, found {n_obs}.")
    connectivities = _connectivities(points, random_state)
    groups = _leiden_at(connectivities, min(OVERSPLIT * n_clusters, n_obs), n_clusters, random_state)
    if groups.max() + 1 < n_clusters:
        # No resolution that was tried gives enough communities: duplicated cells, or very few cells.
        return KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(points).astype(np.int64)
    return merge_groups(points, groups, n_clusters)


def merge_groups(
    points: NDArray[np.float32], groups: NDArray[np.int64], n_clusters: int, mass_exponent: float = MASS_EXPONENT
) -> NDArray[np.int64]:
    r"""Merge groups of cells pairwise, the closest pair first, until ``n_clusters`` are left.

    Groups :math:`i, j` with sizes :math:`n` and mean positions :math:`m` are

    .. math:: d_{ij} = \Bigl(\frac{n_i n_j}{n_i + n_j}\Bigr)^{\gamma} \lVert m_i - m_j \rVert^2

    apart. :math:`\gamma = 1` is Ward's criterion, which prefers to keep the halves of a large cluster over a small cluster
    far away; :math:`\gamma = 0` is centroid linkage, which keeps every outlier.

    Parameters
    ----------
    points
        Cells, ``(n_obs, n_dims)``.
    groups
        Group of each cell, ``0 .. n_groups - 1``, ``(n_obs,)``.
    n_clusters
        Number of clusters, at most the number of groups.
    mass_exponent
        :math:`\gamma`.

    Returns
    -------
    Cluster of each cell, ``(n_obs,)``.
    """
    sizes = np.bincount(groups).astype(np.float64)
    totals = [np.bincount(groups, weights=axis) for axis in np.asarray(points, np.float64).T]
    means = np.stack(totals, axis=1) / sizes[:, None]
    cluster = np.arange(len(sizes))
    alive = np.ones(len(sizes), dtype=bool)

    def apart(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
        mass = sizes[first][:, None] * sizes[second] / (sizes[first][:, None] + sizes[second])
        return mass**mass_exponent * cdist(means[first], means[second], "sqeuclidean")

    everyone = np.arange(len(sizes))
    distance = apart(everyone, everyone)
    np.fill_diagonal(distance, np.inf)
    for _ in range(len(sizes) - n_clusters):
        kept, gone = sorted(np.unravel_index(distance.argmin(), distance.shape))
        share = sizes[gone] / (sizes[kept] + sizes[gone])
        means[kept] += share * (means[gone] - means[kept])
        sizes[kept] += sizes[gone]
        alive[gone] = False
        cluster[cluster == gone] = kept
        row = apart(np.array([kept]), everyone)[0]
        row[~alive] = np.inf
        row[kept] = np.inf
        distance[kept], distance[:, kept] = row, row
        distance[gone], distance[:, gone] = np.inf, np.inf
    return np.unique(cluster, return_inverse=True)[1][groups].astype(np.int64)


def choose_n_clusters(points: NDArray[np.float32], random_state: int = 0) -> NClustersResult:
    """Choose the number of clusters: the communities Leiden finds at resolution 0.1, between 2 and 50.

    On at most 2,000 sampled cells, because the number of communities of a graph with a fixed number of neighbours grows
    with the number of cells. The resolution is low because decoded expression is free of most noise: its graph has few edges
    between types.

    Parameters
    ----------
    points
        As for :func:`initial_partition`, at least 3 cells.
    random_state
        Seed of the sample and of Leiden.

    Raises
    ------
    ValueError
        If there are fewer than 3 cells.
    """
    n_obs = len(points)
    if n_obs < 3:
        raise ValueError(f"Expected at least 3 cells to choose the number of clusters, found {n_obs}.")
    if n_obs > _MAX_SCAN_CELLS:
        points = points[np.random.default_rng(random_state).choice(n_obs, _MAX_SCAN_CELLS, replace=False)]
    connectivities = _connectivities(points, random_state)
    curve = {each: int(_leiden(connectivities, each, random_state).max()) + 1 for each in CURVE_RESOLUTIONS}
    n_clusters = min(max(curve[AUTO_RESOLUTION], 2), MAX_CLUSTERS, len(points) - 1)
    return NClustersResult(n_clusters, f"Leiden communities at resolution {AUTO_RESOLUTION}", curve)


def _connectivities(points: NDArray[np.float32], random_state: int) -> sparse.csr_matrix:
    return knn(points, min(N_NEIGHBORS, max(len(points) - 1, 1)), random_state).connectivities()


def _leiden(connectivities: sparse.csr_matrix, resolution: float, random_state: int) -> NDArray[np.int64]:
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


def _leiden_at(connectivities: sparse.csr_matrix, n_groups: int, at_least: int, random_state: int) -> NDArray[np.int64]:
    """Leiden communities at the resolution, found by bisection, that comes closest to ``n_groups``.

    Of the resolutions tried, one with ``at_least`` communities is preferred to a closer one with fewer.
    """

    def badness(groups: NDArray[np.int64]) -> tuple[bool, int]:
        n_found = int(groups.max()) + 1
        return n_found < at_least, abs(n_found - n_groups)

    low, high = _RESOLUTIONS
    best: NDArray[np.int64] | None = None
    for _ in range(_MAX_LEIDEN_RUNS):
        resolution = float(np.sqrt(low * high))
        groups = _leiden(connectivities, resolution, random_state)
        n_found = int(groups.max()) + 1
        if best is None or badness(groups) < badness(best):
            best = groups
        if n_found == n_groups:
            break
        low, high = (resolution, high) if n_found < n_groups else (low, resolution)
    return np.zeros(connectivities.shape[0], dtype=np.int64) if best is None else best
