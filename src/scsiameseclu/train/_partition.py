"""First partition of the cells, and the number of clusters when none is given. No labels enter here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans

from scsiameseclu.pp import knn

N_NEIGHBORS = 15
N_STARTS = 30
AUTO_RESOLUTION = 0.1
CURVE_RESOLUTIONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MAX_CLUSTERS = 50
_MAX_SCAN_CELLS = 2_000


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
    """Partition cells into ``n_clusters`` groups: the best of many k-means runs.

    Parameters
    ----------
    points
        Cells in a space with meaningful distances, ``(n_obs, n_dims)``: principal components of decoded expression.
    n_clusters
        Number of clusters.
    random_state
        Seed of the starts. With this many of them the result hardly depends on it.

    Returns
    -------
    Cluster of each cell, ``(n_obs,)``.

    Raises
    ------
    ValueError
        If there are fewer cells than clusters.
    """
    if len(points) < n_clusters:
        raise ValueError(f"Expected at least {n_clusters} cells for {n_clusters} clusters, found {len(points)}.")
    search = KMeans(n_clusters, n_init=N_STARTS, random_state=random_state)
    return search.fit_predict(points).astype(np.int64)


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
