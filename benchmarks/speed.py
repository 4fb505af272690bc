"""Time and peak memory from counts to labels with default settings, compared with PCA + Leiden in the same run.

    python -m benchmarks.speed [--cells 5000] [--genes 2000] [--repeats 3] [--threads 2]

Simulated counts (``scsiameseclu.datasets.synthetic``: 10 types, library size 3,000). Every run is a separate process.
The clock starts when the counts are in memory. Peak memory is the memory of the whole process, imports included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from benchmarks.measure import PeakMemory, limited

METHODS = ("scsiameseclu", "pca_leiden")


def run_one(method: str, n_obs: int, n_vars: int, threads: int, seed: int) -> dict[str, float]:
    """Run one method in this process."""
    import warnings

    warnings.filterwarnings("ignore")
    import scanpy as sc
    import scvi
    import torch

    import scsiameseclu as ssc

    torch.set_num_threads(threads)
    scvi.settings.seed = seed
    adata = ssc.datasets.synthetic(n_obs, n_vars, n_types=10, library_size=3000.0, seed=seed)
    truth = adata.obs["cell_type"].to_numpy()
    start = time.perf_counter()
    if method == "scsiameseclu":
        ssc.tl.cluster(adata, train_kwargs={"enable_progress_bar": False})
        labels = adata.obs["siamese_clu"].to_numpy()
    else:
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        sc.pp.pca(adata)
        sc.pp.neighbors(adata)
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
        labels = adata.obs["leiden"].to_numpy()
    seconds = time.perf_counter() - start
    peak = PeakMemory().gigabytes()
    ari = ssc.metrics.clustering_metrics(truth, labels)["ari"]
    return {"seconds": seconds, "peak_gb": peak, "ari": ari, "threads": torch.get_num_threads()}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.one[0], args.cells, args.genes, args.threads, int(args.one[1]))))
        return
    print(f"{args.cells} cells x {args.genes} genes, {args.threads} threads asked for, {args.repeats} repeats")
    print("| method | seconds: median (min to max) | peak GB | ARI to the simulated types | threads found |")
    print("|---|---|---|---|---|")
    size = ["--cells", str(args.cells), "--genes", str(args.genes), "--threads", str(args.threads)]
    for method in METHODS:
        runs = []
        for seed in range(args.repeats):
            command = [sys.executable, __file__, *size, "--one", method, str(seed)]
            result = subprocess.run(command, capture_output=True, text=True, check=True, env=limited(args.threads))
            runs.append(json.loads(result.stdout.splitlines()[-1]))
        seconds = [run["seconds"] for run in runs]
        print(
            f"| {method} | {statistics.median(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f}) "
            f"| {max(run['peak_gb'] for run in runs):.2f} | {statistics.mean(run['ari'] for run in runs):.3f} "
            f"| {max(run['threads'] for run in runs)} |"
        )


if __name__ == "__main__":
    main()
