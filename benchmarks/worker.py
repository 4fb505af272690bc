"""One family on one data set with one seed, in a separate process that ``benchmarks.run`` starts.

Reads a job as JSON from the command line and writes one line ``ROW {...}`` per method when all are done.
"""

import importlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import PeakMemory
from benchmarks.methods import FAMILIES, METHODS, Options

MARK = "ROW "


def run_family(job: dict[str, Any]) -> Any:
    """Yield one row per method. The labels are deleted from the data before any method reads the data."""
    import anndata as ad

    family = FAMILIES[job["family"]]
    for name in family.imports:
        importlib.import_module(name)
    _limit_torch(job["threads"])
    if any("leiden" in method for method in job["methods"]):
        from benchmarks.partitions import warm_up

        warm_up()

    adata = ad.read_h5ad(job["path"])
    labels = adata.obs[job["label"]]
    labelled = labels.notna().to_numpy()
    truth = labels[labelled].astype(str).to_numpy()
    del adata.obs[job["label"]], labels
    n_types = len(set(truth))
    about = {"n_obs": adata.n_obs, "n_vars": adata.n_vars, "n_types": n_types}
    options = Options(job["seed"], n_types, job["scvi_epochs"], job["settings"])

    memory = PeakMemory()
    memory.restart()
    start = time.perf_counter()
    embedding = family.embed(adata, options)
    shared_seconds, shared_peak = time.perf_counter() - start, memory.gigabytes()
    del adata
    results = []
    for method in job["methods"]:
        memory.restart()
        start = time.perf_counter()
        partition = METHODS[method].partition
        found = embedding.labels if partition is None else partition(embedding.values, n_types, job["seed"])
        seconds = shared_seconds + time.perf_counter() - start
        results.append((method, found, seconds, max(shared_peak, memory.gigabytes())))

    # Scores are computed after all measurements, because their imports would count as memory of later methods.
    from benchmarks.scoring import score_labels

    if job["keep"]:
        for method, found, _, _ in results:
            _keep(job, method, found, embedding.values, labels=truth.astype("U"), labelled=labelled)
    of_embedding = _score_embedding(embedding.values[labelled], truth, job["scib"])
    for method, found, seconds, peak in results:
        yield {
            "method": method,
            "family": job["family"],
            "k_given": METHODS[method].knows_k,
            **about,
            **score_labels(truth, found[labelled]),
            **of_embedding,
            "seconds": round(seconds, 2),
            "peak_gb": round(peak, 3),
            **embedding.info,
        }


def _keep(job: dict[str, Any], method: str, found: Any, values: Any, **known: Any) -> None:
    """Write the clusters and the embedding of a run, in the order of the cells in the file, to compare runs later."""
    import numpy as np

    folder = Path(job["keep"])
    folder.mkdir(parents=True, exist_ok=True)
    clusters = np.unique(found, return_inverse=True)[1].astype(np.int16)
    name = f"{job['set']}.{method}{job['tag']}.{job['seed']}.npz".replace(":", "-")
    np.savez_compressed(folder / name, clusters=clusters, embedding=np.asarray(values, dtype=np.float32), **known)


def _score_embedding(values: Any, truth: Any, scib: bool) -> dict[str, Any]:
    from benchmarks import scoring

    scores: dict[str, Any] = {"silhouette": scoring.silhouette(values, truth)}
    return {**scores, **scoring.bio_conservation(values, truth)} if scib else scores


def _limit_torch(threads: int) -> None:
    """Limit the threads of torch, which the environment does not limit, if the family has imported torch."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _plain(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value


def main() -> None:
    """Run the job given on the command line."""
    import warnings

    warnings.filterwarnings("ignore")
    for row in run_family(json.loads(sys.argv[1])):
        print(MARK + json.dumps({name: _plain(value) for name, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
