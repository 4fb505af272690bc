"""Are batches mixed and types kept apart? Embeddings scored with scib-metrics; see README.md.

    python -m benchmarks.integration --data DIR --out integration.jsonl [--methods ...] [--seeds 0 1 2] [--sets ...]
    python -m benchmarks.integration --report integration.jsonl > integration.md

Every ``*.h5ad`` file of DIR with raw counts in ``X``, labels in ``obs["cell_type"]`` and at least two batches in
``obs["batch"]`` is one data set, and so are simulated cells with known batch effects. Labels are used for scoring only.
Every run is a separate process. A run that is already in the results file is skipped.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from benchmarks.measure import limited
from benchmarks.preprocessing import principal_components, select_genes
from benchmarks.run import ROOT, labelled_files, read_results, versions
from benchmarks.table import markdown

METHODS = ("pca", "harmony", "scvi", "siamese")
LABELS, BATCH = "cell_type", "batch"
_COMMON = {"n_obs": 3000, "n_vars": 3000, "n_types": 8, "n_batches": 4, "n_markers": 30, "library_size": 3000.0}
SIMULATED: dict[str, dict[str, Any]] = {
    "sim_batches": _COMMON,
    "sim_batches_strong": {**_COMMON, "batch_effect": 0.8},
}
_TOTALS = ("Bio conservation", "Batch correction", "Total")


def load(name: str, args: argparse.Namespace, seed: int) -> AnnData:
    """Read only the counts, labels and batches of the labelled cells."""
    import anndata as ad

    if name in SIMULATED:
        from scsiameseclu import datasets

        adata = datasets.synthetic(**SIMULATED[name], seed=seed)
    else:
        adata = ad.read_h5ad(args.data / f"{name}.h5ad")
    adata = adata[adata.obs[LABELS].notna().to_numpy()]
    return AnnData(adata.X.copy(), obs=adata.obs[[LABELS, BATCH]].astype(str), var=adata.var[[]])


# -- embeddings, of cells with batches and without labels ------------------------------------------------------------


def pca(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """50 principal components of the z-scores of 2,000 genes, without integration."""
    return principal_components(adata, seed)


def harmony(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """The 50 principal components after Harmony."""
    import harmonypy

    corrected = np.asarray(harmonypy.run_harmony(pca(adata, seed), adata.obs, BATCH, random_state=seed).Z_corr)
    if len(corrected) != adata.n_obs:  # components x cells before harmonypy 2
        raise ImportError(
            f"Expected harmonypy 2 or newer, with cells in rows; found an array of shape {corrected.shape}."
        )
    return corrected.astype(np.float32)


def scvi(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Latent means of scVI with its defaults (also for the epochs), on the same genes."""
    from scvi.model import SCVI

    cells = select_genes(adata)
    cells.obs[BATCH] = adata.obs[BATCH].to_numpy()
    SCVI.setup_anndata(cells, layer="counts", batch_key=BATCH)
    model = SCVI(cells)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


def siamese(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Embedding of our model with its defaults (also for the number of clusters)."""
    import scsiameseclu as ssc

    model = ssc.tl.cluster(adata, batch_key=BATCH, train_kwargs={"accelerator": "cpu", "enable_progress_bar": False})
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


EMBED = {"pca": pca, "harmony": harmony, "scvi": scvi, "siamese": siamese}


# -- running and reporting -------------------------------------------------------------------------------------------


def score(adata: AnnData, embedding: NDArray[np.float32]) -> dict[str, float]:
    """Default scores of scib-metrics' ``Benchmarker``, compared with principal components before integration."""
    from scib_metrics.benchmark import Benchmarker

    cells = select_genes(adata)
    cells.obs = adata.obs[[LABELS, BATCH]].astype("category")
    cells.obsm["embedding"] = embedding
    judge = Benchmarker(cells, BATCH, LABELS, ["embedding"], n_jobs=1, progress_bar=False)
    judge.benchmark()
    return {str(name): float(value) for name, value in judge.get_results().loc["embedding"].items()}


def run_one(name: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Embed and score in this process."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = seed
    adata = load(name, args, seed)
    blind = adata.copy()
    del blind.obs[LABELS]
    start = time.perf_counter()
    embedding = EMBED[method](blind, seed)
    seconds = time.perf_counter() - start
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(args.keep / f"{name}.{method}.{seed}.npz", embedding=embedding)
    return {"seconds": round(seconds, 1), "n_obs": adata.n_obs, **score(adata, embedding)}


def has_batches(path: Path) -> bool:
    """Whether a file has at least two batches."""
    import anndata as ad

    obs = ad.read_h5ad(path, backed="r").obs
    return BATCH in obs and obs[BATCH].nunique() > 1


def run_all(args: argparse.Namespace) -> int:
    """Run everything that is not in the results file yet; return the number of runs that failed."""
    paths = labelled_files(args.data, LABELS, args.sets) if args.data else []
    names = [name for name in SIMULATED if not args.sets or any(part in name for part in args.sets)]
    names += [path.stem for path in paths if has_batches(path)]
    environment = limited(args.threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    failed = 0
    for key in [(name, method, seed) for seed in args.seeds for name in names for method in args.methods]:
        if key in {(row["set"], row["method"], row["seed"]) for row in read_results(args.out)}:
            continue
        command = [sys.executable, "-m", "benchmarks.integration", *args.given, "--one", json.dumps(key)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            print(f"{key} failed:\n{result.stderr[-3000:]}", file=sys.stderr)
            failed += 1
            continue
        row = {"set": key[0], "method": key[1], "seed": key[2], **json.loads(result.stdout.splitlines()[-1])}
        with args.out.open("a") as file:
            file.write(json.dumps({**row, "threads": args.threads, "versions": versions()}) + "\n")
        print(f"{key}: {row['Total']:.3f}", flush=True)
    return failed


def report(frame: pd.DataFrame) -> str:
    """Markdown tables: totals per data set, and every score averaged over data sets, both after averaging seeds."""
    scores = [column for column in frame.columns[frame.columns.get_loc("n_obs") + 1 :] if column not in _TOTALS]
    scores = [name for name in scores if name not in ("threads", "versions")]
    means = frame.groupby(["method", "set"])[[*_TOTALS, *scores]].mean()
    methods = [method for method in METHODS if method in means.index]
    sets = list(dict.fromkeys(frame["set"]))
    total = means["Total"].unstack("method")
    per_set = [[name, *[f"{total.loc[name, method]:.3f}" for method in methods]] for name in sets]
    per_set.append(["mean", *[f"{total[method].mean():.3f}" for method in methods]])
    averages = [
        [name, *[f"{means[name].unstack('method')[method].mean():.3f}" for method in methods]]
        for name in (*_TOTALS, *scores)
    ]
    return "\n\n".join([markdown(["total", *methods], per_set), markdown(["mean over sets", *methods], averages)])


def main(arguments: list[str] | None = None) -> int:
    """Run the missing runs, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="results file")
    parser.add_argument("--data", type=Path, help="folder of .h5ad files; simulated sets only without it")
    parser.add_argument("--out", type=Path, help="results, JSON lines; appended to")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="only sets whose name contains one of these")
    parser.add_argument("--keep", type=Path, help="folder for the embeddings, SET.METHOD.SEED.npz")
    parser.add_argument("--threads", type=int, default=1, help="threads each run may use")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.given = sys.argv[1:] if arguments is None else list(arguments)
    warnings.filterwarnings("ignore")
    if args.report:
        print(report(pd.DataFrame(read_results(args.report))))
        return 0
    if args.one:
        print(json.dumps(run_one(*json.loads(args.one), args)))
        return 0
    if not args.out:
        parser.error("give --out, or --report")
    return int(run_all(args) > 0)


if __name__ == "__main__":
    sys.exit(main())
