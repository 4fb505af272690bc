"""Partitions of an embedding: the last step of every peer.

All partitions have the signature ``(embedding, n_types, seed) -> labels``. Partitions that find the number of clusters
ignore ``n_types``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

N_NEIGHBORS = 15
WARD_CELLS = 20_000
"""Largest number of cells for Ward's tree, whose memory grows with its square; of more cells, a sample is taken."""


def kmeans(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """k-means with 10 starts."""
    from sklearn.cluster import KMeans

    return KMeans(n_types, n_init=10, random_state=seed).fit_predict(embedding)


def ward(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """Ward's hierarchical clustering, cut at K; see :data:`WARD_CELLS` for large sets."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.neighbors import NearestCentroid

    tree = AgglomerativeClustering(n_types, linkage="ward")
    if len(embedding) <= WARD_CELLS:
        return tree.fit_predict(embedding)
    sample = np.random.default_rng(seed).choice(len(embedding), WARD_CELLS, replace=False)
    centroids = NearestCentroid().fit(embedding[sample], tree.fit_predict(embedding[sample]))
    return centroids.predict(embedding)


def leiden_1(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """Leiden at resolution 1 on scanpy's graph of 15 neighbours."""
    return _leiden(_graph(embedding, seed), 1.0, seed)


def leiden_k(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """Leiden at the resolution (bisection, at most 20 runs) that comes closest to K communities."""
    graph = _graph(embedding, seed)
    low, high = 1e-3, 8.0
    best: NDArray[Any] | None = None
    for _ in range(20):
        resolution = (low * high) ** 0.5
        labels = _leiden(graph, resolution, seed)
        found = len(np.unique(labels))
        if best is None or abs(found - n_types) < abs(len(np.unique(best)) - n_types):
            best = labels
        if found == n_types:
            break
        low, high = (resolution, high) if found < n_types else (low, resolution)
    assert best is not None
    return best


def _graph(embedding: NDArray[Any], seed: int) -> Any:
    """AnnData with the neighbour graph of an embedding."""
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(np.asarray(embedding, dtype=np.float32))
    sc.pp.neighbors(cells, n_neighbors=min(N_NEIGHBORS, cells.n_obs - 1), use_rep="X", random_state=seed)
    return cells


def _leiden(graph: Any, resolution: float, seed: int) -> NDArray[Any]:
    import scanpy as sc

    sc.tl.leiden(graph, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
    return graph.obs["leiden"].to_numpy().astype(int)


def warm_up() -> None:
    """Compile ``scanpy.pp.neighbors``, which happens once per process and takes longer than a small graph."""
    leiden_1(np.random.default_rng(0).normal(size=(100, 5)), 2, 0)
