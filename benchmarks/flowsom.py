"""FlowSOM-like partition: a self-organising map, whose nodes are merged by consensus hierarchical clustering.

After Van Gassen et al., Cytometry A 87:636 (2015), written from the paper with the defaults of the paper: a 10 x 10
grid, ten passes, a learning rate from 0.05 to 0.01, a bubble neighbourhood that shrinks from the 67 % quantile of the
grid distances to the winner alone, and consensus clustering (Monti et al. 2003) of the nodes with average linkage, 100
resamplings of 90 % of the nodes. Departures: nodes without cells are left out before merging, because such nodes would
take some of the K clusters, and the input is a cell embedding instead of antibody intensities.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

SIDE = 10
PASSES = 10
RATES = (0.05, 0.01)
RESAMPLINGS = 100
SHARE = 0.9
_CHUNK = 8192


def flowsom(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """Clusters of cells: the merged cluster of the map node that is closest to the cell."""
    rng = np.random.default_rng(seed)
    points = np.ascontiguousarray(embedding, dtype=np.float32)
    codes = train_map(points, rng)
    nodes = nearest_codes(points, codes)
    used, nodes = np.unique(nodes, return_inverse=True)
    return consensus_clusters(codes[used], n_types, rng)[nodes]


def train_map(points: NDArray[Any], rng: np.random.Generator, side: int = SIDE) -> NDArray[Any]:
    """Code vectors of the map, trained one cell at a time."""
    n_codes = side * side
    codes = points[rng.choice(len(points), n_codes, replace=len(points) < n_codes)].copy()
    grid = np.stack(np.divmod(np.arange(n_codes), side), axis=1)
    distances = np.abs(grid[:, None] - grid[None]).max(-1)
    start = float(np.quantile(distances[distances > 0], 0.67))
    n_steps = PASSES * len(points)
    order = rng.integers(0, len(points), n_steps)
    squares = np.einsum("ij,ij->i", codes, codes)
    for step, point in enumerate(points[row] for row in order):
        done = step / n_steps
        winner = int(np.argmin(squares - 2.0 * (codes @ point)))
        # Below one grid step only the winner moves.
        near = np.flatnonzero(distances[winner] <= start * (1.0 - done))
        rate = RATES[0] + done * (RATES[1] - RATES[0])
        moved = codes[near] + rate * (point - codes[near])
        codes[near] = moved
        squares[near] = np.einsum("ij,ij->i", moved, moved)
    return codes


def nearest_codes(points: NDArray[Any], codes: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the code vector closest to each point."""
    squares = np.einsum("ij,ij->i", codes, codes)
    parts = [
        np.argmin(squares - 2.0 * (points[row : row + _CHUNK] @ codes.T), axis=1)
        for row in range(0, len(points), _CHUNK)
    ]
    return np.concatenate(parts)


def consensus_clusters(codes: NDArray[Any], n_clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cluster the code vectors by how often two of them are in one cluster when a random share of them is clustered."""
    n_codes = len(codes)
    if n_codes <= n_clusters:
        return np.arange(n_codes)
    together = np.zeros((n_codes, n_codes))
    drawn = np.zeros((n_codes, n_codes))
    size = max(n_clusters, int(np.ceil(SHARE * n_codes)))
    for _ in range(RESAMPLINGS):
        sample = np.sort(rng.choice(n_codes, size, replace=False))
        labels = fcluster(linkage(codes[sample], "average"), n_clusters, "maxclust")
        drawn[np.ix_(sample, sample)] += 1
        together[np.ix_(sample, sample)] += labels[:, None] == labels[None]
    apart = 1.0 - together / np.maximum(drawn, 1)
    np.fill_diagonal(apart, 0.0)
    return fcluster(linkage(squareform(apart, checks=False), "average"), n_clusters, "maxclust") - 1
