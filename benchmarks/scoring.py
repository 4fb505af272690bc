"""Scores of labels and embeddings. Known labels are read only here, and for the number of types."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

SILHOUETTE_CELLS = 5000
RARE_BELOW = 0.02


def score_labels(truth: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
    """ACC, NMI, ARI, macro-F1, number of clusters, and the recall of rare types."""
    from scsiameseclu.metrics import clustering_metrics

    _, counts = np.unique(truth, return_counts=True)
    rare = int((counts < RARE_BELOW * len(truth)).sum())
    return {**clustering_metrics(truth, labels), "rare_recall": rare_recall(truth, labels), "n_rare_types": rare}


def rare_recall(truth: NDArray[Any], labels: NDArray[Any], below: float = RARE_BELOW) -> float:
    """Share of the cells of a rare type that are in the cluster matched to it, averaged over the rare types.

    A type is rare if it has less than ``below`` of all cells. Clusters are matched to types one to one, as for the
    accuracy: the matching has as many matched cells as possible, and of equal matchings the highest F1. A rare type
    without a cluster counts as 0. The result is NaN if no type is rare.
    """
    true, types = pd.factorize(np.asarray(truth))
    pred, clusters = pd.factorize(np.asarray(labels))
    counts = np.zeros((len(types), len(clusters)))
    np.add.at(counts, (true, pred), 1)
    sizes = counts.sum(1)
    f1 = 2.0 * counts / (sizes[:, None] + counts.sum(0))
    rows, columns = linear_sum_assignment(counts + f1 / (min(counts.shape) + 1), maximize=True)
    matched = np.zeros(len(types))
    matched[rows] = counts[rows, columns]
    rare = sizes < below * len(true)
    return float((matched[rare] / sizes[rare]).mean()) if rare.any() else math.nan


def silhouette(embedding: NDArray[Any], truth: NDArray[Any]) -> float:
    """Silhouette width of the known types on the embedding, on at most 5,000 cells (the same cells for all methods)."""
    from sklearn.metrics import silhouette_score

    rows = np.arange(len(truth))
    if len(rows) > SILHOUETTE_CELLS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), SILHOUETTE_CELLS, replace=False))
    n_types = len(np.unique(truth[rows]))
    return float(silhouette_score(embedding[rows], truth[rows])) if 1 < n_types < len(rows) else math.nan


def bio_conservation(embedding: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """The default bio-conservation scores of scib-metrics, all cells as one batch, and their mean as ``scib``."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    values = np.ascontiguousarray(embedding, dtype=np.float32)
    one_batch = np.zeros(len(truth), dtype=int)
    kmeans = scib_metrics.nmi_ari_cluster_labels_kmeans(values, truth)
    neighbors = pynndescent(values, n_neighbors=min(90, len(truth) - 1), random_state=0, n_jobs=1)
    parts = {
        "scib_isolated": scib_metrics.isolated_labels(values, truth, one_batch),
        "scib_nmi": kmeans["nmi"],
        "scib_ari": kmeans["ari"],
        "scib_silhouette": scib_metrics.silhouette_label(values, truth),
        "scib_clisi": scib_metrics.clisi_knn(neighbors, truth),
    }
    parts = {name: float(value) for name, value in parts.items()}
    return {"scib": float(np.mean(list(parts.values()))), **parts}
