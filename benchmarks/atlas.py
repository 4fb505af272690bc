"""Cells per second and peak memory of mapping a large store to a trained model, killed once and resumed.

    python -m benchmarks.atlas --cells 200000 [--genes 2000] [--reference 5000] [--threads 1] [--out atlas.jsonl]

Simulated counts (``scsiameseclu.datasets.synthetic``: 10 types, library size 3,000), written part by part to a zarr
group. The mapping runs in two separate processes. The first process is killed when a third of the chunks are complete,
and the second process maps the rest. Cells per second are measured in the second process, without its start and
imports. Every run writes one JSON line.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import OwnMemory, PeakMemory, limited

PART = 50_000
_PROGRESS = "progress.jsonl"


def write_cells(folder: Path, n_obs: int, n_vars: int, n_reference: int) -> None:
    """Write a trained model, and the cells to map, which have the same types."""
    import anndata
    import scvi
    import zarr

    import scsiameseclu as ssc

    scvi.settings.seed = 0
    options: dict[str, Any] = {"n_types": 10, "library_size": 3000.0, "seed": 0}
    cells = ssc.datasets.synthetic(n_reference + min(n_obs, PART), n_vars, **options)
    reference, part = cells[:n_reference].copy(), cells[n_reference:].copy()
    ssc.SCSiameseClu.setup_anndata(reference)
    model = ssc.SCSiameseClu(reference, n_clusters=10)
    model.train(accelerator="cpu", enable_progress_bar=False)
    model.save(folder / "model")
    store = zarr.open_group(folder / "cells.zarr", mode="w")
    for number, start in enumerate(range(0, n_obs, PART)):  # the same cells under other names
        rows = part[: min(PART, n_obs - start)].copy()
        rows.obs_names = [f"{number}-{name}" for name in rows.obs_names]
        anndata.io.write_elem(store, f"part_{number}", rows)


def map_cells(folder: Path) -> dict[str, Any]:
    """Map the remaining cells in this process."""
    import torch

    import scsiameseclu as ssc

    model = ssc.SCSiameseClu.load(folder / "model", adata=False, accelerator="cpu")
    imports = PeakMemory().gigabytes()
    own = OwnMemory()
    own.start()
    start, cpu = time.perf_counter(), time.process_time()
    ssc.tl.map_atlas(folder / "cells.zarr", model, folder / "out.zarr", accelerator="cpu", progress_bar=False)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "threads_found": torch.get_num_threads(),
        "imports_gb": round(imports, 3),
        "peak_gb": round(PeakMemory().gigabytes(), 3),
        "own_gb": round(own.stop(), 3),
    }


def chunks_done(folder: Path) -> int:
    """Number of complete chunks of an interrupted run."""
    progress = folder / "out.zarr.partial" / _PROGRESS
    return max(len(progress.read_text().splitlines()) - 1, 0) if progress.exists() else 0


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write cells, map a third of them, kill the process, and map the rest."""
    import anndata

    write_cells(folder, args.cells, args.genes, args.reference)
    command = [sys.executable, "-m", "benchmarks.atlas", "--map", str(folder)]
    options: dict[str, Any] = {"env": limited(args.threads), "stderr": subprocess.DEVNULL, "text": True}
    n_chunks = -(-args.cells // 16_384)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as first:
        while first.poll() is None and chunks_done(folder) < max(n_chunks // 3, 1):
            time.sleep(0.2)
        first.send_signal(signal.SIGKILL)
    n_before = chunks_done(folder)
    second = subprocess.run(command, stdout=subprocess.PIPE, check=True, **options)
    record = json.loads(second.stdout.splitlines()[-1])
    n_mapped = args.cells - n_before * 16_384
    found = anndata.read_zarr(folder / "out.zarr")
    return {
        "cells": args.cells,
        "genes": args.genes,
        "reference": args.reference,
        "threads": args.threads,
        "killed_after_chunks": n_before,
        "chunks": n_chunks,
        **record,
        "cells_per_second": round(n_mapped / record["seconds"]),
        "cells_per_cpu_second": round(n_mapped / record["cpu_seconds"]),
        "cells_found": int(found.obs["siamese_clu_confidence"].gt(0).sum()),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("atlas.jsonl"))
    parser.add_argument("--map", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.map:
        print(json.dumps(map_cells(args.map)))
        return
    with tempfile.TemporaryDirectory() as folder:
        record = run(args, Path(folder))
    with args.out.open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
