"""Growth of time and peak memory with the number of cells, compared with scVI + Leiden and PCA + Leiden.

    python benchmarks/scale.py --cells 10000 40000 160000 --out scale.jsonl [--methods scsiameseclu scvi pca_leiden]
        [--genes 2000] [--threads 2] [--accelerator cpu] [--max-cells-per-method scvi=50000] [--timeout 7200]
        [--storage backed] [--max-epochs 1]
    python benchmarks/scale.py --out scale.jsonl --table

Simulated counts (``scsiameseclu.datasets.synthetic``: 10 types, library size 3,000). Every run is a separate process
and writes one JSON line. Runs that are already in the file are skipped. Failed runs are skipped as well: delete their
lines to try again. The clock starts when the counts are in memory (with ``--storage backed`` or ``mapped``, when the
file is open). Peak memory is the memory of the whole process with imports, counts and the pages of mapped files.
``own_gb`` is the peak without the pages of mapped files, on Linux only. Every method runs with its default settings;
``--max-epochs`` sets fewer epochs if only memory is of interest. The exponent is the slope of a least-squares line
through log time against log cells (or log memory, without the memory of the imports). An exponent of 1 is linear
growth.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import OwnMemory, PeakMemory, limited
from benchmarks.run import read_results

METHODS = ("scsiameseclu", "scvi", "pca_leiden")
STORAGE = ("memory", "backed", "mapped")


def load(n_obs: int, n_vars: int, seed: int, storage: str, folder: str) -> Any:
    """Simulate counts, in memory or on disk."""
    import anndata

    import scsiameseclu as ssc

    if storage == "memory":
        return ssc.datasets.synthetic(n_obs, n_vars, n_types=10, library_size=3000.0, seed=seed)
    path = Path(folder) / "counts.h5ad"
    if not path.exists():
        # The simulation runs in another process, so that its memory is not part of the peak of this process.
        code = (
            "import sys, scsiameseclu as ssc; n, g, s = map(int, sys.argv[1:4]); "
            "ssc.datasets.synthetic(n, g, n_types=10, library_size=3000.0, seed=s).write_h5ad(sys.argv[4])"
        )
        subprocess.run([sys.executable, "-c", code, str(n_obs), str(n_vars), str(seed), str(path)], check=True)
    if storage == "mapped":
        return ssc.pp.write_mapped(path, Path(folder) / "counts.mapped")
    return anndata.read_h5ad(path, backed="r")


def cluster(method: str, adata: Any, accelerator: str, max_epochs: int | None) -> Any:
    """Cluster the cells; return labels and the seconds of each part."""
    import scanpy as sc
    import scvi

    import scsiameseclu as ssc

    parts: dict[str, float] = {}

    def timed(name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        parts[name] = round(time.perf_counter() - start, 3)
        return result

    quiet = {"accelerator": accelerator, "enable_progress_bar": False, "max_epochs": max_epochs}
    if method == "scsiameseclu":
        timed("setup", ssc.SCSiameseClu.setup_anndata, adata)
        model = timed("init", ssc.SCSiameseClu, adata)
        timed("train", model.train, **quiet)
        return timed("predict", model.predict).to_numpy(), parts
    if method == "scvi":
        timed("setup", scvi.model.SCVI.setup_anndata, adata)
        model = timed("init", scvi.model.SCVI, adata)
        timed("train", model.train, **quiet)
        adata.obsm["X_scVI"] = timed("embed", model.get_latent_representation)
        timed("neighbors", sc.pp.neighbors, adata, use_rep="X_scVI")
    else:
        timed("normalize", lambda: (sc.pp.normalize_total(adata), sc.pp.log1p(adata)))
        timed("pca", sc.pp.pca, adata)
        timed("neighbors", sc.pp.neighbors, adata)
    timed("leiden", sc.tl.leiden, adata, flavor="igraph", n_iterations=2, directed=False)
    return adata.obs["leiden"].to_numpy(), parts


def run_one(args: argparse.Namespace) -> dict[str, Any]:
    """Run one method on one size in this process."""
    import warnings

    warnings.filterwarnings("ignore")
    import scvi
    import torch

    import scsiameseclu as ssc

    torch.set_num_threads(args.threads)
    scvi.settings.seed = args.seed
    imports = PeakMemory().gigabytes()
    with tempfile.TemporaryDirectory() as folder:
        adata = load(args.cells[0], args.genes, args.seed, args.storage, folder)
        counts = PeakMemory().gigabytes()
        own = OwnMemory()
        own.start()
        truth = adata.obs["cell_type"].to_numpy()
        start, cpu = time.perf_counter(), time.process_time()
        labels, parts = cluster(args.methods[0], adata, args.accelerator, args.max_epochs)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "peak_gb": round(PeakMemory().gigabytes(), 4),
        "own_gb": round(own.stop(), 4),
        "imports_gb": round(imports, 4),
        "counts_gb": round(counts, 4),
        "gpu_peak_gb": round(torch.cuda.max_memory_allocated() / 2**30, 4) if torch.cuda.is_available() else 0.0,
        "parts": parts,
        "threads_found": torch.get_num_threads(),
        "ari": round(float(ssc.metrics.clustering_metrics(truth, labels)["ari"]), 4),
        "n_clusters": len(set(labels)),
    }


def exponent(cells: list[int], values: list[float]) -> float:
    """Slope of the least-squares line through ``log(values)`` against ``log(cells)``; NaN with fewer than two sizes."""
    points = [(math.log(n), math.log(value)) for n, value in zip(cells, values, strict=True) if value > 0]
    if len({x for x, _ in points}) < 2:
        return math.nan
    x_mean, y_mean = (statistics.mean(axis) for axis in zip(*points, strict=True))
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)


def table(records: list[dict[str, Any]]) -> str:
    """Markdown table of the runs that succeeded with exponents, and a list of the runs that failed."""
    lines = [
        "| method | cells | seconds | CPU seconds | peak GB | own GB | ARI | clusters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    done = [record for record in records if "seconds" in record]
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(done, key=lambda record: record["cells"]):
        name = f"{record['method']} {record['accelerator']} {record['threads']} threads {record['genes']} genes"
        name += "" if record["storage"] == "memory" else f" {record['storage']}"
        name += "" if record["max_epochs"] is None else f" {record['max_epochs']} epochs"
        groups.setdefault(name, []).append(record)
    for name, runs in sorted(groups.items()):
        for run in runs:
            lines.append(
                f"| {name} | {run['cells']:,} | {run['seconds']:.0f} | {run['cpu_seconds']:.0f} | {run['peak_gb']:.2f} "
                f"| {run.get('own_gb', math.nan):.2f} | {run['ari']:.3f} | {run['n_clusters']} |"
            )
        cells = [run["cells"] for run in runs]
        memory = [run["peak_gb"] - run["imports_gb"] for run in runs]
        slopes = [exponent(cells, [run[name] for run in runs]) for name in ("seconds", "cpu_seconds")]
        slopes.append(exponent(cells, memory))
        lines.append(f"| {name} | exponent | " + " | ".join(f"{slope:.2f}" for slope in slopes) + " | | | |")
    failed = [
        f"- {record['method']}, {record['cells']:,} cells: {record['error']}" for record in records if "error" in record
    ]
    return "\n".join([*lines, *failed])


def run_all(args: argparse.Namespace) -> None:
    """Run everything that is not in the results file yet, small sizes first."""
    limits = {name: int(number) for name, number in (item.split("=") for item in args.max_cells_per_method)}
    keys = ("method", "cells", "genes", "seed", "threads", "accelerator", "storage", "max_epochs")
    for n_obs in sorted(args.cells):
        for method in args.methods:
            if n_obs > limits.get(method, n_obs) or (args.storage != "memory" and method == "pca_leiden"):
                continue
            common = (args.genes, args.seed, args.threads, args.accelerator, args.storage, args.max_epochs)
            record: dict[str, Any] = dict(zip(keys, (method, n_obs, *common), strict=True))
            if any(all(known.get(key) == record[key] for key in keys) for known in read_results(args.out)):
                continue
            options = {"methods": method, **{key: value for key, value in record.items() if key != "method"}}
            flags = [(f"--{k.replace('_', '-')}", str(v)) for k, v in options.items() if v is not None]
            command = [sys.executable, __file__, "--one", *(part for flag in flags for part in flag)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, env=limited(args.threads), timeout=args.timeout
                )
                if done.returncode:
                    message = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    record["error"] = f"exit code {done.returncode}: {message[:200]}"
                else:
                    record.update(json.loads(done.stdout.splitlines()[-1]))
            except subprocess.TimeoutExpired:
                record["error"] = f"not done after {args.timeout} s"
            cut = args.out.exists() and not args.out.read_text().endswith("\n")
            with args.out.open("a") as out:
                out.write("\n" * cut + json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 40_000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--max-cells-per-method", nargs="*", default=[], metavar="METHOD=CELLS")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a run may take")
    parser.add_argument(
        "--storage", choices=STORAGE, default="memory", help="leave the counts on disk (not PCA + Leiden)"
    )
    parser.add_argument("--max-epochs", type=int, help="epochs instead of the default")
    parser.add_argument("--out", type=Path, default=Path("scale.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print the table of the results file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args)))
        return
    if not args.table:
        run_all(args)
    print(table(read_results(args.out)))


if __name__ == "__main__":
    main()
