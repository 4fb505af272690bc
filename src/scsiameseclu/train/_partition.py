"""First partition of the cells, and the number of clusters when none is given. No labels enter here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

MAX_CLUSTERS = 25
_MAX_SCAN_CELLS = 1_500


@dataclass(frozen=True)
class NClustersResult:
    """Outcome of the search for the number of clusters.

    Attributes
    ----------
    n_clusters
        The number with the best value.
    criterion
        Name of the criterion, larger is better.
    values
        Value of the criterion for every number tried.
    """

    n_clusters: int
    criterion: str
    values: dict[int, float]

    def to_state(self) -> dict[str, Any]:
        """Return builtins only, safe to store in a model file or in ``uns``."""
        return {
            "n_clusters": int(self.n_clusters),
            "criterion": self.criterion,
            "candidates": [int(k) for k in self.values],
            "values": [float(value) for value in self.values.values()],
        }


def initial_partition(z: NDArray[np.float32], n_clusters: int, random_state: int = 0) -> NDArray[np.int64]:
    """Partition embeddings into ``n_clusters`` groups (k-means, 10 starts).

    Parameters
    ----------
    z
        Embeddings, ``(n_obs, n_latent)``.
    n_clusters
        Number of clusters.
    random_state
        Seed.

    Returns
    -------
    Cluster of each cell, ``(n_obs,)``.

    Raises
    ------
    ValueError
        If there are fewer cells than clusters.
    """
    if z.shape[0] < n_clusters:
        raise ValueError(f"Expected at least {n_clusters} cells for {n_clusters} clusters, found {z.shape[0]}.")
    labels = KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(z)
    return labels.astype(np.int64)


def choose_n_clusters(z: NDArray[np.float32], random_state: int = 0) -> NClustersResult:
    """Choose the number of clusters by the silhouette of k-means partitions.

    Tries 2 to 25 clusters on at most 1,500 sampled cells and takes the number with the highest mean silhouette
    (Rousseeuw, 1987), Euclidean.

    Parameters
    ----------
    z
        Embeddings, ``(n_obs, n_latent)``, at least 3 cells.
    random_state
        Seed of the sample and of k-means.

    Raises
    ------
    ValueError
        If there are fewer than 3 cells.
    """
    n_obs = z.shape[0]
    if n_obs < 3:
        raise ValueError(f"Expected at least 3 cells to choose the number of clusters, found {n_obs}.")
    if n_obs > _MAX_SCAN_CELLS:
        z = z[np.random.default_rng(random_state).choice(n_obs, _MAX_SCAN_CELLS, replace=False)]
    # No more clusters than different cells, and a silhouette needs at least one cell more than clusters.
    largest = max(2, min(MAX_CLUSTERS, len(np.unique(z, axis=0)), z.shape[0] - 1))
    values = {k: _silhouette(z, k, random_state) for k in range(2, largest + 1)}
    return NClustersResult(max(values, key=values.__getitem__), "silhouette", values)


def _silhouette(z: NDArray[np.float32], n_clusters: int, random_state: int) -> float:
    """Mean silhouette of a k-means partition; the worst value where identical cells leave a single cluster."""
    labels = KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(z)
    n_found = len(np.unique(labels))
    return float(silhouette_score(z, labels)) if 1 < n_found < len(z) else -1.0
