"""scAIDE-like: an embedding that preserves imputed distances, then k-means started on a hashed skeleton of the cells.

After Xie et al., NAR Genomics and Bioinformatics 2:lqaa082 (2020), written from the paper. Kept: an autoencoder with
dropout 0.4 on its input imputes log-normalised values; a second encoder learns to keep the Euclidean distances between
imputed cells; the autoencoder is trained alone first, then both together until the error of the distances stops
falling; RPH-k-means merges cells that fall into one bucket of random projections until at most 2,000 points are left,
runs k-means on these points without weights (so that rare types count as much as frequent types) and starts k-means on
all cells from the centres found. The best of 10 such starts by inertia is taken, without labels.

Departures, all for the time on CPUs: layers of 256 and 128 units, a learning rate of 1e-3, 500 steps for the
autoencoder alone and 500 to 2,000 joint steps (published: 1,000 and 4,000 to 20,000); all pairs of a batch of 128 cells
count, instead of random pairs. Further: the error of the distances is relative to their size; no gradient flows from it
into the autoencoder, so the weight between the two losses has no effect; genes are chosen by the preparation that all
peers share.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import nn

BATCH = 128
PRETRAIN_STEPS = 500
MIN_STEPS, MAX_STEPS, CHECK_EVERY, PATIENCE = 500, 2000, 100, 2
DROPOUT = 0.4
HIDDEN, N_LATENT = 256, 128
SKELETON_POINTS = 2000
N_PROJECTIONS = 5
N_STARTS = 10


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def embed(log_values: NDArray[np.float32], seed: int, max_steps: int = MAX_STEPS) -> tuple[NDArray[Any], int]:
    """Embedding of cells with log-normalised values, and the number of joint steps trained."""
    torch.manual_seed(seed)
    values = torch.from_numpy(log_values)
    n_obs, n_genes = values.shape
    batch_size = min(BATCH, n_obs)
    autoencoder = nn.Sequential(nn.Dropout(DROPOUT), _mlp(n_genes, HIDDEN, N_LATENT, HIDDEN, n_genes))
    encoder = _mlp(n_genes, HIDDEN, N_LATENT)
    parameters = [*autoencoder.parameters(), *encoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    upper = torch.triu_indices(batch_size, batch_size, offset=1)

    best, waited, window, steps = float("inf"), 0, [], 0
    for step in range(PRETRAIN_STEPS + max_steps):
        batch = values[torch.randint(n_obs, (batch_size,))]
        imputed = autoencoder(batch)
        loss = (imputed - batch).square().mean()
        if step >= PRETRAIN_STEPS:
            steps += 1
            wanted = torch.cdist(imputed.detach(), imputed.detach())[upper[0], upper[1]]
            # cdist has no gradient at distance 0, which a cell drawn twice would have
            z = encoder(batch)
            found = ((z[upper[0]] - z[upper[1]]).square().sum(1) + 1e-8).sqrt()
            distance_loss = (found - wanted).square().mean() / wanted.square().mean().clamp_min(1e-8)
            loss = loss + distance_loss
            window.append(float(distance_loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if steps and steps % CHECK_EVERY == 0:
            error = float(np.mean(window))
            window = []
            waited = 0 if error < 0.99 * best else waited + 1
            best = min(best, error)
            if steps >= MIN_STEPS and waited >= PATIENCE:
                break
    encoder.eval()
    with torch.no_grad():
        embedding = torch.cat([encoder(part) for part in values.split(4096)])
    return embedding.numpy(), steps


def rph_kmeans(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    """k-means on all cells, started from the centres of k-means on hashed skeletons."""
    rng = np.random.default_rng(seed)
    points = np.ascontiguousarray(embedding, dtype=np.float64)
    best: KMeans | None = None
    for _ in range(N_STARTS):
        small = skeleton(points, rng, max(SKELETON_POINTS, n_types))
        start = KMeans(n_types, n_init=1, random_state=int(rng.integers(2**31))).fit(small).cluster_centers_
        fitted = KMeans(n_types, init=start, n_init=1).fit(points)
        if best is None or fitted.inertia_ < best.inertia_:
            best = fitted
    assert best is not None
    return best.labels_


def skeleton(points: NDArray[Any], rng: np.random.Generator, n_points: int = SKELETON_POINTS) -> NDArray[Any]:
    """Merge the points of each bucket of random projections into their mean, until few enough points are left.

    The first width of a bucket is the typical distance to the nearest neighbour along a random direction. Buckets widen
    when few points are merged. Dense regions are therefore merged first, and sparse regions keep their points.
    """
    weights = np.ones(len(points))
    width = _typical_distance(points, rng) / points.shape[1] ** 0.5
    while len(points) > n_points:
        directions = rng.normal(size=(points.shape[1], N_PROJECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        keys = np.floor(points @ directions / width + rng.random(N_PROJECTIONS)).astype(np.int64)
        bucket = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        mass = np.bincount(bucket, weights)
        merged = np.zeros((len(mass), points.shape[1]))
        np.add.at(merged, bucket, points * weights[:, None])
        if len(mass) > 0.9 * len(points):
            width *= 1.3
        points, weights = merged / mass[:, None], mass
    return points


def _typical_distance(points: NDArray[Any], rng: np.random.Generator) -> float:
    """Median distance from a sampled point to the nearest other point of the sample."""
    from scipy.spatial.distance import cdist

    sample = points[rng.choice(len(points), min(500, len(points)), replace=False)]
    distances = cdist(sample, sample)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(1))) or 1.0
