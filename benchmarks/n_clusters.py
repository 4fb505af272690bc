"""How many clusters? Label-free criteria on real and on simulated cells with known types; see README.md.

    python -m benchmarks.n_clusters --data DIR --out n_clusters.jsonl --points points [--seeds 0] [--sets ...]
    python -m benchmarks.n_clusters --report n_clusters.jsonl > n_clusters.md

Every network is pretrained with the defaults. The principal components of its decoded expression are kept in
``--points`` and reused. Each criterion then finds a number of clusters. A criterion is judged by the number of types,
and by the ARI of the model's first partition into the number of clusters found.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csgraph, identity
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    pairwise_distances,
    silhouette_samples,
    silhouette_score,
)
from sklearn.mixture import GaussianMixture

from benchmarks.run import labelled_files, read_results
from benchmarks.table import markdown
from scsiameseclu.partition import Space, partition_cells
from scsiameseclu.partition._candidates import leiden as leiden_communities

Points = NDArray[np.float32]
Criterion = Callable[[Points, int], int]

RESOLUTIONS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
MAX_CLUSTERS = 50
SAMPLE_CELLS = 2_000
N_DIMS = 15


# -- simulated cells -------------------------------------------------------------------------------------------------


def _shares(n_types: int, ratio: float) -> list[float]:
    """Sizes that fall geometrically, the largest ``ratio`` times the smallest."""
    return [ratio ** (-rank / (n_types - 1)) for rank in range(n_types)]


_COMMON = {"n_obs": 3000, "n_vars": 3000, "n_markers": 30, "library_size": 3000.0}
SIMULATED: dict[str, dict[str, Any]] = {
    **{f"sim_{k}_equal": {"n_types": k} for k in (5, 12, 20, 30, 40)},
    **{f"sim_{k}_imbalanced_20": {"n_types": k, "proportions": _shares(k, 20.0)} for k in (8, 20, 30)},
    **{f"sim_{k}_rare": {"n_types": k, "rare_fraction": 0.005} for k in (5, 12, 20)},
    **{f"sim_{k}_weak": {"n_types": k, "marker_fold": 2.5} for k in (8, 20)},
}


def load(name: str, args: argparse.Namespace, seed: int) -> tuple[Any, NDArray[Any]]:
    """Read the counts without labels, and the labels."""
    import anndata as ad

    from scsiameseclu import datasets

    if name in SIMULATED:
        adata, label = datasets.synthetic(**{**_COMMON, **SIMULATED[name]}, seed=seed), "cell_type"
        del adata.var["marker_of"]
    else:
        adata, label = ad.read_h5ad(args.data / f"{name}.h5ad"), args.label
    known = adata.obs[label].notna().to_numpy()
    adata = adata[known].copy()
    truth = adata.obs[label].astype(str).to_numpy()
    del adata.obs[label]
    return adata, truth


# -- networks --------------------------------------------------------------------------------------------------------


def embed_and_decode(adata: Any, seed: int, batch_key: str | None = None) -> tuple[NDArray[np.float32], Points]:
    """Embedding and components of decoded expression after pretraining, which the model partitions into clusters."""
    import scvi

    import scsiameseclu as ssc
    from scsiameseclu.train import Schedule
    from scsiameseclu.train._inference import decode, principal_components

    scvi.settings.seed = seed
    epochs = Schedule.for_cells(adata.n_obs).n_pretrain
    training = {"max_epochs": epochs, "plan_kwargs": {"n_pretrain_epochs": epochs}, "enable_progress_bar": False}
    model = ssc.tl.cluster(adata, 2, batch_key=batch_key, train_kwargs=training)
    latent, expression = decode(model.module, model._make_data_loader(model.adata, batch_size=1024))
    return latent.cpu().numpy(), principal_components(expression, seed)


def pretrain(adata: Any, seed: int) -> Points:
    """Components of decoded expression after pretraining."""
    return embed_and_decode(adata, seed)[1]


def points_of(name: str, seed: int, args: argparse.Namespace) -> tuple[Points, NDArray[Any]]:
    """Components and labels of a data set, computed now or kept from an earlier run.

    The version of the earlier run is not checked: empty the folder after a change of the package.
    """
    path = args.points / f"{name}.{seed}.npz"
    if not path.exists():
        adata, truth = load(name, args, seed)
        args.points.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, points=pretrain(adata, seed), truth=truth.astype("U"))
    with np.load(path) as kept:
        return kept["points"], kept["truth"]


# -- criteria --------------------------------------------------------------------------------------------------------


def _space(points: Points, seed: int) -> Space:
    """A space with the components in the place of decoded expression and of the embedding."""
    return Space(points, points, seed)


def leiden(resolution: float) -> Criterion:
    """Criterion: number of Leiden communities at one resolution, as in the default rule."""

    def communities(points: Points, seed: int) -> int:
        connectivities = _space(points, seed).expression_graph
        return int(leiden_communities(connectivities, resolution, seed).max()) + 1

    return communities


def _leiden_silhouettes(points: Points, seed: int) -> dict[int, tuple[float, float]]:
    """Silhouette of Leiden's partitions by number of clusters: mean over cells, mean over the clusters' means."""
    connectivities = _space(points, seed).expression_graph
    distances = pairwise_distances(points)
    found = {}
    for resolution in np.geomspace(0.02, 2.0, 21):
        labels = leiden_communities(connectivities, float(resolution), seed)
        if 2 <= len(set(labels)) <= MAX_CLUSTERS:
            widths = silhouette_samples(distances, labels, metric="precomputed")
            means = np.bincount(labels, weights=widths) / np.bincount(labels)
            found[len(means)] = max(found.get(len(means), (-1.0, -1.0)), (float(widths.mean()), float(means.mean())))
    return found


def leiden_by_cells(points: Points, seed: int) -> int:
    """Leiden's partition with the largest silhouette, mean over cells."""
    scores = _leiden_silhouettes(points, seed)
    return max(scores, key=lambda k: scores[k][0], default=2)


def leiden_by_clusters(points: Points, seed: int) -> int:
    """Leiden's partition with the largest silhouette, averaged over clusters with equal weights."""
    scores = _leiden_silhouettes(points, seed)
    return max(scores, key=lambda k: scores[k][1], default=2)


def _cuts(points: Points) -> dict[int, NDArray[np.int64]]:
    """Ward's tree cut into 2 to 50 groups."""
    tree = linkage(points, "ward")
    return {k: fcluster(tree, k, "maxclust").astype(np.int64) - 1 for k in range(2, MAX_CLUSTERS + 1)}


def best_silhouette(points: Points, seed: int) -> int:
    """Cut of Ward's tree with the largest silhouette width."""
    return max((silhouette_score(points, labels), k) for k, labels in _cuts(points).items())[1]


def best_calinski(points: Points, seed: int) -> int:
    """Cut of Ward's tree with the largest Calinski-Harabasz score."""
    return max((calinski_harabasz_score(points, labels), k) for k, labels in _cuts(points).items())[1]


def best_bic(points: Points, seed: int) -> int:
    """Mixture of Gaussians of one shared covariance with the smallest BIC."""
    mixed = points[:, :N_DIMS].astype(np.float64)
    scores = {k: _mixture(mixed, labels).bic(mixed) for k, labels in _cuts(points).items()}
    return min(scores, key=lambda k: scores[k])


def _mixture(points: NDArray[np.float64], labels: NDArray[np.int64]) -> GaussianMixture:
    means = np.stack([points[labels == k].mean(axis=0) for k in range(int(labels.max()) + 1)])
    return GaussianMixture(len(means), covariance_type="tied", means_init=means, max_iter=30, reg_covar=1e-3).fit(
        points
    )


def eigengap(points: Points, seed: int) -> int:
    """Largest gap between successive eigenvalues of the graph's normalised Laplacian, from 2 clusters on."""
    graph = _space(points, seed).expression_graph
    laplacian = csgraph.laplacian(graph, normed=True)
    # The smallest eigenvalues of L are the largest of 2 - L, which Lanczos finds faster.
    flipped = 2.0 * identity(graph.shape[0], format="csr") - laplacian
    start = np.random.default_rng(seed).normal(size=graph.shape[0])
    values = np.sort(2.0 - eigsh(flipped, k=MAX_CLUSTERS + 1, v0=start, return_eigenvectors=False))
    return int(np.diff(values)[1:].argmax()) + 2


def prediction_strength(points: Points, seed: int) -> int:
    """Largest number of clusters for which k-means on one half of the cells predicts k-means on the other half.

    The weakest cluster must reach 0.8 (Tibshirani & Walther 2005).
    """
    half = np.random.default_rng(seed).permutation(len(points))
    first, second = points[half[: len(half) // 2]], points[half[len(half) // 2 :]]
    found = 2
    for k in (*range(2, 21), 25, 30, 40, MAX_CLUSTERS):
        predicted = KMeans(k, n_init=5, random_state=seed).fit(first).predict(second)
        own = KMeans(k, n_init=5, random_state=seed).fit_predict(second)
        if _weakest(own, predicted) >= 0.8:
            found = k
    return found


def _weakest(own: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Smallest share, over the clusters, of pairs of cells that stay together."""
    counts = pd.crosstab(own, predicted).to_numpy().astype(float)
    sizes = counts.sum(axis=1)
    pairs = np.maximum(sizes * (sizes - 1), 1.0)
    return float(((counts * (counts - 1)).sum(axis=1) / pairs).min())


CRITERIA: dict[str, Criterion] = {
    **{f"Leiden, resolution {resolution:g}": leiden(resolution) for resolution in RESOLUTIONS},
    "Leiden, silhouette over cells": leiden_by_cells,
    "Leiden, silhouette over clusters": leiden_by_clusters,
    "silhouette (Ward)": best_silhouette,
    "Calinski-Harabasz (Ward)": best_calinski,
    "BIC, tied mixture": best_bic,
    "eigengap": eigengap,
    "prediction strength 0.8": prediction_strength,
}


# -- running and reporting -------------------------------------------------------------------------------------------


def judge(name: str, seed: int, args: argparse.Namespace, done: set[tuple[str, int, str]]) -> None:
    """Append one row for every criterion that is not in the results yet."""
    left = [criterion for criterion in CRITERIA if (name, seed, criterion) not in done]
    if not left:
        return
    points, truth = points_of(name, seed, args)
    rows = np.arange(len(points))
    if len(rows) > SAMPLE_CELLS:
        rows = np.random.default_rng(seed).choice(len(points), SAMPLE_CELLS, replace=False)
    n_types, known = len(set(truth)), {}

    def ari(k: int) -> float:
        if k not in known:
            known[k] = adjusted_rand_score(truth, partition_cells(_space(points, seed), k))
        return known[k]

    for criterion in left:
        k = min(max(CRITERIA[criterion](points[rows], seed), 2), MAX_CLUSTERS)
        row = {"set": name, "seed": seed, "criterion": criterion, "n_types": n_types, "n_clusters": k}
        with args.out.open("a") as file:
            file.write(json.dumps({**row, "ari": ari(k), "ari_known": ari(n_types)}) + "\n")


def report(frame: pd.DataFrame) -> str:
    """Markdown table of the errors of all criteria, separately for real and simulated data sets."""
    frame = frame.assign(
        simulated=frame["set"].str.startswith("sim_"),
        log2=np.log2(frame["n_clusters"] / frame["n_types"]),
        near=(frame["n_clusters"] - frame["n_types"]).abs() <= 0.2 * frame["n_types"] + 1e-9,
    )
    lines = []
    for criterion in CRITERIA:
        line = [criterion]
        for simulated in (False, True):
            part = frame[(frame["criterion"] == criterion) & (frame["simulated"] == simulated)]
            if part.empty:
                line += ["-"] * 4
                continue
            error, bias = part["log2"].abs().mean(), part["log2"].mean()
            line += [f"{part['near'].sum()} / {len(part)}", f"{error:.2f}", f"{bias:+.2f}"]
            line += [f"{part['ari'].mean():.3f} ({(part['ari'] - part['ari_known']).mean():+.3f})"]
        lines.append(line)
    about = ["within 20 %", "error, log2", "bias, log2", "ARI (to known K)"]
    return markdown(
        ["criterion", *[f"real: {each}" for each in about], *[f"simulated: {each}" for each in about]], lines
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the missing criteria, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="results file")
    parser.add_argument("--data", type=Path, help="folder of .h5ad files; simulated sets only without it")
    parser.add_argument("--out", type=Path, help="results, JSON lines; appended to")
    parser.add_argument("--points", type=Path, help="folder for the networks' components")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", help="only sets whose name contains one of these")
    parser.add_argument("--label", default="cell_type", help="column of obs with the known types")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if args.report:
        print(report(pd.DataFrame(read_results(args.report))))
        return 0
    if not (args.out and args.points):
        parser.error("give --out and --points, or --report")
    files = labelled_files(args.data, args.label, args.sets) if args.data else []
    simulated = [name for name in SIMULATED if not args.sets or any(part in name for part in args.sets)]
    names = [*simulated, *(path.stem for path in files)]
    for seed in args.seeds:
        for name in names:
            done = {(row["set"], row["seed"], row["criterion"]) for row in read_results(args.out)}
            judge(name, seed, args, done)
            print(f"{name} seed {seed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
