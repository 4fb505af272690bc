"""Measurements on a GPU, in parts of less than three minutes each; one JSON line per part.

    python -m benchmarks.gpu --out gpu.jsonl [--parts correctness step training million] [--cells 1000000]

The counts of 2,000 genes are simulated. A part that is already in the file is skipped. Without a CUDA device the
command prints a message and runs nothing. ``benchmarks/README.md`` describes what every part measures.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

N_GENES, N_TYPES = 2000, 10


def simulated(n_obs: int, seed: int = 0) -> Any:
    """Counts of ten types."""
    import scsiameseclu as ssc

    return ssc.datasets.synthetic(n_obs, N_GENES, n_types=N_TYPES, library_size=3000.0, seed=seed)


def correctness(args: argparse.Namespace) -> dict[str, float]:
    """Largest differences between GPU and CPU: likelihood, neighbours, embedding of one model."""
    import scvi

    from scsiameseclu import SCSiameseClu, losses
    from scsiameseclu.pp import _knn

    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(3 * torch.rand(256, N_GENES, generator=generator))
    rate, dispersion = torch.randn(256, N_GENES, generator=generator), torch.randn(N_GENES, generator=generator)
    expected = losses.negative_binomial_nll(counts.double(), rate.double(), dispersion.double()).sum()
    found = losses.negative_binomial_nll(*(value.to(args.device) for value in (counts, rate, dispersion))).sum()
    points = np.random.default_rng(0).normal(size=(20_000, 50)).astype(np.float32)
    nearest = [
        np.sort(search(points, points[:2000], 16)[:, :16], axis=1)
        for search in (lambda *a: in_order(_knn.search_exact, *a), lambda *a: in_order(on(args.device), *a))
    ]
    scvi.settings.seed = 0
    adata = simulated(3000)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=N_TYPES)
    model.train(max_epochs=8, accelerator=args.accelerator, enable_progress_bar=False)
    on_device = model.get_latent_representation()
    model.to_device("cpu")
    return {
        "likelihood, relative": abs(found.item() - expected.item()) / abs(expected.item()),
        "neighbours, share that differ": float((nearest[0] != nearest[1]).mean()),
        "embedding, absolute": float(np.abs(model.get_latent_representation() - on_device).max()),
    }


def on(device: str) -> Callable[..., Any]:
    """Search for neighbours on a device."""
    from scsiameseclu.pp import _knn

    return lambda points, queries, width: _knn.search_on_device(points, queries, width, device)


def in_order(search: Callable[..., Any], points: Any, queries: Any, width: int) -> Any:
    """Neighbours sorted by distance; the search itself returns a few more neighbours, in any order."""
    from scsiameseclu.pp import _knn

    indices = search(points, queries, width)
    return _knn.sort_rows(indices, _knn.exact_distances(points, queries, indices), width)[0]


def step(args: argparse.Namespace) -> dict[str, float]:
    """Kernel launches and milliseconds of a step of 4,096 cells, and its lower bound (``benchmarks.profiling``)."""
    from benchmarks.epochs import epoch_clock
    from benchmarks.launches import launches
    from benchmarks.profiling import floor, keep_last_batch
    from scsiameseclu import SCSiameseClu

    adata = simulated(args.step_cells)
    SCSiameseClu.setup_anndata(adata)
    model, clock, n_epochs = SCSiameseClu(adata, n_clusters=N_TYPES), epoch_clock(), 6
    batch = keep_last_batch(model.module)
    size = min(4096, args.step_cells // 4)
    options = {"accelerator": args.accelerator, "enable_progress_bar": False, "train_size": 1.0, "batch_size": size}
    model.train(max_epochs=n_epochs, plan_kwargs={"n_pretrain_epochs": 3}, callbacks=[clock], **options)
    steps = -(-adata.n_obs // size)
    model.module.to(args.device)
    least = sum(seconds for _, seconds in floor(model.module, batch, waiting(args.device)).values())
    found = launches(simulated(1600), args.accelerator)
    return {
        "ms per step before the first partition": 1e3 * statistics.median(clock.seconds[1:3]) / steps,
        "ms per step after it": 1e3 * statistics.median(clock.seconds[4:]) / steps,
        "ms, floor": 1e3 * least,
        **{f"launches {phase}": sum(names.values()) for phase, names in found.items()},
    }


def training(args: argparse.Namespace) -> dict[str, float]:
    """Cells per second of an epoch, ours and scVI's, with 128 (scVI's default), 1,024 and 8,192 cells per step."""
    import scvi

    from benchmarks.epochs import ours, peer
    from scsiameseclu import SCSiameseClu

    adata = simulated(args.training_cells)
    scvi.model.SCVI.setup_anndata(adata)
    SCSiameseClu.setup_anndata(adata, accelerator=args.accelerator)
    options: Any = SimpleNamespace(accelerator=args.accelerator, epochs=2, compile=False)
    rates: dict[str, float] = {}
    for size in (128, 8192):
        rates[f"scVI, {size} per step"] = adata.n_obs / peer(adata, size, "32-true", options)
    for size in (1024, 8192):
        before, after = ours(adata, size, "32-true", options)
        rates[f"ours, {size} per step, before the first partition"] = adata.n_obs / before
        rates[f"ours, {size} per step, after it"] = adata.n_obs / after
    return rates


def million(args: argparse.Namespace) -> dict[str, float]:
    """A million cells from counts to labels: seconds of every stage, peak memory of GPU and process, ARI."""
    from benchmarks.measure import PeakMemory
    from scsiameseclu import SCSiameseClu, metrics

    adata = simulated(args.cells)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        waiting(args.device)()
        start = time.perf_counter()
        result = function()
        waiting(args.device)()
        seconds[f"s, {name}"] = time.perf_counter() - start
        return result

    timed("set-up", lambda: SCSiameseClu.setup_anndata(adata, accelerator=args.accelerator))
    model = timed("construction", lambda: SCSiameseClu(adata, n_clusters=N_TYPES))
    timed("training", lambda: model.train(accelerator=args.accelerator, enable_progress_bar=False))
    labels = timed("prediction", model.predict)
    return {
        **seconds,
        "s, all": sum(seconds.values()),
        "GB, GPU": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        "GB, process": PeakMemory().gigabytes(),
        "ARI to the simulated types": metrics.clustering_metrics(adata.obs["cell_type"], labels)["ari"],
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "correctness": correctness,
    "step": step,
    "training": training,
    "million": million,
}


def waiting(device: str) -> Callable[[], None]:
    """Function that waits until a device has finished its work."""
    return torch.cuda.synchronize if device == "cuda" else (lambda: None)


def main(argv: list[str] | None = None) -> int:
    """Run the missing parts; return 0 also without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cells", type=int, default=1_000_000, help="of the part 'million'")
    parser.add_argument("--training-cells", type=int, default=100_000)
    parser.add_argument("--step-cells", type=int, default=40_000)
    parser.add_argument("--accelerator", default="gpu", help="'cpu' tries the script itself")
    args = parser.parse_args(argv)
    args.device = "cpu" if args.accelerator == "cpu" else "cuda"
    if args.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device: nothing was run.", file=sys.stderr)
        return 0
    done = {json.loads(line)["part"] for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    for part in args.parts:
        if part in done:
            continue
        start = time.perf_counter()
        found = {key: float(f"{value:.4g}") for key, value in PARTS[part](args).items()}
        record = {"part": part, "device": name, "torch": torch.__version__, "cells": args.cells, **found}
        with args.out.open("a") as file:
            file.write(json.dumps({**record, "s, whole part": round(time.perf_counter() - start, 1)}) + "\n")
        print(f"{part}: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
