"""First partition of the cells, and the number of clusters when none is given. No labels enter here."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import OneHotEncoder

from scsiameseclu.pp import knn

N_NEIGHBORS = 15
N_STARTS = 30
AUTO_RESOLUTION = 0.07
CURVE_RESOLUTIONS = (0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0)
MAX_CLUSTERS = 50
_MAX_SCAN_CELLS = 2_000
_MAX_WARD_CELLS = 5_000
_MIXTURE_DIMS = 15
_RIDGE = 1e-3
_MAX_ITERATIONS = 60
_RESOLUTION_BOUNDS = (5e-4, 4.0)
_MAX_BISECTIONS = 18


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
    """Partition cells into ``n_clusters`` groups: the likeliest of several.

    k-means, Ward and Leiden each start a mixture of Gaussians that share one covariance, and the mixture of highest
    likelihood gives the groups. The likelihood compares them without labels, and the shared covariance allows
    groups that are not round.

    Parameters
    ----------
    points
        Cells in a space with meaningful distances, ``(n_obs, n_dims)``: principal components of decoded expression. The
        mixtures use the first 15.
    n_clusters
        Number of clusters.
    random_state
        Seed of the starts.

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
    starts = _starts(points, n_clusters, random_state)
    likeliest = _likeliest(points[:, :_MIXTURE_DIMS], starts, n_clusters)
    return starts["k-means"] if likeliest is None else likeliest


def _starts(points: NDArray[np.float32], n_clusters: int, random_state: int) -> dict[str, NDArray[np.int64]]:
    """Partitions by name, ``(n_obs,)`` each: k-means, and Ward and Leiden where they have as many clusters as wanted."""
    compact = KMeans(n_clusters, n_init=N_STARTS, random_state=random_state).fit_predict(points).astype(np.int64)
    if len(np.unique(compact)) < n_clusters:
        return {"k-means": compact}  # Fewer distinct cells than clusters: nothing to choose between.
    starts = {"k-means": compact, "Ward": _ward(points, n_clusters, random_state)}
    communities = _leiden_at(points, n_clusters, random_state)
    if communities is not None:
        starts["Leiden"] = communities
    return {name: start for name, start in starts.items() if len(np.unique(start)) == n_clusters}


def _likeliest(
    points: NDArray[np.floating], starts: dict[str, NDArray[np.int64]], n_clusters: int
) -> NDArray[np.int64] | None:
    """Groups of the likeliest mixture, ``(n_obs,)``; None if no mixture keeps all clusters."""
    mixed = np.asarray(points, dtype=np.float64)
    fits = [_fit_mixture(mixed, start) for start in starts.values() if len(np.unique(start)) == n_clusters]
    fits = [fit for fit in fits if len(np.unique(fit[1])) == n_clusters]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def _ward(points: NDArray[np.float32], n_clusters: int, random_state: int) -> NDArray[np.int64]:
    """Ward's groups of (a sample of) the cells, the other cells in the group of the nearest mean; ``(n_obs,)``."""
    rows = np.arange(len(points))
    if len(rows) > _MAX_WARD_CELLS:
        rows = np.random.default_rng(random_state).choice(len(rows), _MAX_WARD_CELLS, replace=False)
    labels = AgglomerativeClustering(n_clusters).fit_predict(points[rows])
    if len(rows) == len(points):
        return labels.astype(np.int64)
    return NearestCentroid().fit(points[rows], labels).predict(points).astype(np.int64)


def _leiden_at(points: NDArray[np.float32], n_clusters: int, random_state: int) -> NDArray[np.int64] | None:
    """Leiden's partition into exactly ``n_clusters`` communities, ``(n_obs,)``, or None if no resolution gives it."""
    connectivities = _connectivities(points, random_state)
    low, high = _RESOLUTION_BOUNDS
    for _ in range(_MAX_BISECTIONS):
        middle = float(np.sqrt(low * high))
        labels = _leiden(connectivities, middle, random_state)
        found = int(labels.max()) + 1
        if found == n_clusters:
            return labels
        low, high = (middle, high) if found < n_clusters else (low, middle)
    return None


def _fit_mixture(points: NDArray[np.float64], start: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
    """Fit Gaussians of one shared covariance from a partition; the mean log-likelihood and the likeliest groups."""
    groups = OneHotEncoder(sparse_output=False).fit_transform(start[:, None])
    weights = groups.mean(axis=0)
    means = groups.T @ points / groups.sum(axis=0)[:, None]
    ridge = _RIDGE * max(float(points.var(axis=0).mean()), np.finfo(np.float64).tiny)
    residuals = points - means[start]
    covariance = residuals.T @ residuals / len(points) + ridge * np.eye(points.shape[1])
    mixture = GaussianMixture(
        len(weights),
        covariance_type="tied",
        reg_covar=ridge,
        max_iter=_MAX_ITERATIONS,
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariance),
    )
    with warnings.catch_warnings():
        # Started from a partition, a fit that still creeps after this many iterations is good enough to compare.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points)
    return float(mixture.lower_bound_), mixture.predict(points).astype(np.int64)


def choose_n_clusters(points: NDArray[np.float32], random_state: int = 0) -> NClustersResult:
    """Choose the number of clusters: the communities Leiden finds at resolution 0.07, between 2 and 50.

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
