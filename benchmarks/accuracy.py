"""Clustering accuracy with default settings, next to PCA + k-means and PCA + Leiden at K.

    python benchmarks/accuracy.py --data DIR --out results.jsonl [--seeds 0 1 2] [--methods ...] [--sets ...]
    python benchmarks/accuracy.py --out results.jsonl --table

Every ``*.h5ad`` file of DIR with raw counts in ``X`` and labels in ``obs["cell_type"]`` is one data set. Labels are used
for two things only: scoring, and the number of types handed to the "known K" methods. Every run is a process of its
own, so that its time and its peak memory are its own; a run already in the results file is skipped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METHODS = ("siamese_k", "siamese_auto", "pca_kmeans", "pca_leiden_k")
METRICS = ("acc", "nmi", "ari", "f1_macro")
LABELS = "cell_type"


def pca_of_log_counts(adata: Any, seed: int) -> Any:
    """Scanpy's usual preparation: HVGs of log-normalised counts, z-scores, 50 components."""
    import scanpy as sc

    sc.pp.filter_genes(adata, min_cells=1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=min(50, adata.n_vars - 1, adata.n_obs - 1), random_state=seed)
    return adata


def pca_kmeans(adata: Any, n_clusters: int, seed: int) -> Any:
    """k-means with 10 starts on 50 principal components."""
    from sklearn.cluster import KMeans

    scores = pca_of_log_counts(adata, seed).obsm["X_pca"]
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(scores)


def pca_leiden_k(adata: Any, n_clusters: int, seed: int) -> Any:
    """Leiden on scanpy's graph, at the resolution (bisection, at most 20 runs) that comes closest to K communities."""
    import scanpy as sc

    adata = pca_of_log_counts(adata, seed)
    sc.pp.neighbors(adata, n_neighbors=15, random_state=seed)
    low, high, best = 1e-3, 8.0, None
    for _ in range(20):
        resolution = (low * high) ** 0.5
        sc.tl.leiden(adata, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        labels = adata.obs["leiden"].to_numpy()
        found = adata.obs["leiden"].nunique()
        if best is None or abs(found - n_clusters) < best[0]:
            best = (abs(found - n_clusters), labels)
        if found == n_clusters:
            break
        low, high = (resolution, high) if found < n_clusters else (low, resolution)
    return best[1] if best is not None else None


def siamese(adata: Any, n_clusters: int | str, seed: int, settings: dict[str, Any]) -> Any:
    """Run scsiameseclu with its defaults; ``settings`` are for ablations."""
    import scvi

    import scsiameseclu as ssc

    scvi.settings.seed = seed
    del adata.obs[LABELS]
    ssc.tl.cluster(adata, n_clusters=n_clusters, train_kwargs={"enable_progress_bar": False}, **settings)
    return adata.obs["siamese_clu"].to_numpy()


def run_one(path: Path, method: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one method on one data set in this process."""
    import resource
    import warnings

    warnings.filterwarnings("ignore")
    import anndata as ad

    from scsiameseclu.metrics import clustering_metrics

    adata = ad.read_h5ad(path)
    truth = adata.obs[LABELS].astype(str).to_numpy()
    n_types = len(set(truth))
    start = time.perf_counter()
    if method == "pca_kmeans":
        labels = pca_kmeans(adata, n_types, seed)
    elif method == "pca_leiden_k":
        labels = pca_leiden_k(adata, n_types, seed)
    else:
        labels = siamese(adata, "auto" if method == "siamese_auto" else n_types, seed, settings)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
    scores = clustering_metrics(truth, labels)
    return {"n_types": n_types, **scores, "seconds": round(seconds, 1), "peak_gb": round(peak, 2)}


def has_labels(path: Path) -> bool:
    """Whether a file has published labels."""
    import h5py

    with h5py.File(path) as file:
        return LABELS in file["obs"]


def read_results(out: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def run_all(args: argparse.Namespace) -> None:
    """Run whatever is not in the results file yet."""
    done = {(row["set"], row["method"], row["seed"]) for row in read_results(args.out)}
    paths = [path for path in sorted(args.data.glob("*.h5ad")) if has_labels(path)]
    if args.sets:
        paths = [path for path in paths if any(name in path.stem for name in args.sets)]
    for seed in args.seeds:
        for path in paths:
            for method in args.methods:
                name = f"{method}{args.tag}"
                if (path.stem, name, seed) in done:
                    continue
                command = [sys.executable, __file__, "--one", str(path), method, str(seed), "--settings", args.settings]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    sys.exit(f"{path.stem} {method} seed {seed} failed:\n{result.stderr[-3000:]}")
                row = {"set": path.stem, "method": name, "seed": seed, **json.loads(result.stdout.splitlines()[-1])}
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds per set and method, then the mean over sets, in Markdown."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    columns = [*METRICS, "n_clusters", "seconds", "peak_gb"]
    methods = list(dict.fromkeys(frame["method"]))
    lines = [
        "| data set (types) | method | ACC | NMI | ARI | F1 | K | s | GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of_set in frame.groupby("set"):
        for method in methods:
            runs = of_set[of_set["method"] == method]
            if len(runs):
                lines.append(_line(f"{name} ({runs['n_types'].iloc[0]})", method, runs[columns]))
    per_seed = frame.groupby(["method", "seed"])[columns].mean()
    for method in methods:
        lines.append(_line("**mean over sets**", method, per_seed.loc[method]))
    return "\n".join(lines)


def _line(name: str, method: str, runs: Any) -> str:
    """One row; the spread is over seeds."""
    spread = runs.std().fillna(0.0)
    cells = [f"{runs[metric].mean():.3f} ± {spread[metric]:.3f}" for metric in METRICS]
    rest = [f"{runs['n_clusters'].mean():.1f}", f"{runs['seconds'].median():.0f}", f"{runs['peak_gb'].max():.2f}"]
    return f"| {name} | {method} | " + " | ".join(cells + rest) + " |"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--settings", default="{}", help="JSON of further tl.cluster arguments (ablations)")
    parser.add_argument("--tag", default="", help="suffix of the method's name in the results (ablations)")
    parser.add_argument("--table", action="store_true", help="print the table of the results file and stop")
    parser.add_argument("--one", nargs=3, metavar=("FILE", "METHOD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        path, method, seed = args.one
        print(json.dumps(run_one(Path(path), method, int(seed), json.loads(args.settings))))
        return
    if args.out is None or (args.data is None and not args.table):
        parser.error("--out is needed, and --data to run")
    if not args.table:
        run_all(args)
    print(table(read_results(args.out)))


if __name__ == "__main__":
    main()
