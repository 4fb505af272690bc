"""Cells per second of a training epoch, compared with scVI.

    python -m benchmarks.epochs [--cells 100000] [--genes 2000] [--accelerator gpu] [--batches 256 1024 8192]
        [--scvi-batches 128 8192] [--precision 32-true bf16-mixed] [--epochs 3] [--compile]

The counts are simulated. Every line is one training. Pretraining and clustering are measured separately, each by the
median time of an epoch. The first epoch of each phase is left out, because it includes one-time work: the first calls,
and in the clustering phase the first partition. scVI has its default settings except for the batch size. The data of
scVI stay on the device where scVI keeps them by default.
"""

import argparse
import time
import warnings
from statistics import median
from typing import Any

N_TYPES = 10


def epoch_clock() -> Any:
    """Callback that stores the seconds of each epoch in its attribute ``seconds``."""
    import lightning.pytorch as pl
    import torch

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._start = 0.0

        def _now(self) -> float:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return time.perf_counter()

        def on_train_epoch_start(self, *_: Any) -> None:
            self._start = self._now()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(self._now() - self._start)

    return Clock()


def ours(adata: Any, batch_size: int, precision: str, args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of an epoch of pretraining, and of an epoch of clustering."""
    from scsiameseclu import SCSiameseClu

    clock, n = epoch_clock(), args.epochs
    model = SCSiameseClu(adata, n_clusters=N_TYPES)
    model.train(
        max_epochs=2 * (n + 1),
        batch_size=batch_size,
        accelerator=args.accelerator,
        enable_progress_bar=False,
        callbacks=[clock],
        plan_kwargs={"n_pretrain_epochs": n + 1, **({"compile": True} if args.compile else {})},
        precision=precision,
    )
    return median(clock.seconds[1 : n + 1]), median(clock.seconds[n + 2 :])


def peer(adata: Any, batch_size: int, precision: str, args: argparse.Namespace) -> float:
    """Median seconds of an epoch of scVI."""
    import scvi

    clock = epoch_clock()
    model = scvi.model.SCVI(adata)
    model.train(
        max_epochs=args.epochs + 1,
        batch_size=batch_size,
        accelerator=args.accelerator,
        enable_progress_bar=False,
        train_size=1.0,
        callbacks=[clock],
        precision=precision,
    )
    return median(clock.seconds[1:])


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3, help="epochs counted, of each phase")
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 1024, 8192])
    parser.add_argument("--scvi-batches", type=int, nargs="*", default=[128, 8192])
    parser.add_argument("--precision", nargs="+", default=["32-true"])
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile")
    parser.add_argument("--accelerator", default="gpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    import scvi
    import torch

    import scsiameseclu as ssc

    scvi.settings.seed = 0
    device = torch.cuda.get_device_name() if args.accelerator in ("gpu", "cuda") else "CPU"
    print(f"{args.cells:,} cells x {args.genes:,} genes, {args.epochs} epochs each, {device}\n")
    adata = ssc.datasets.synthetic(args.cells, args.genes, n_types=N_TYPES, library_size=3000.0, seed=0)
    scvi.model.SCVI.setup_anndata(adata)
    print("| model | precision | cells per step | s per epoch | cells/s | clustering: s per epoch | cells/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for batch_size in args.scvi_batches:
        seconds = peer(adata, batch_size, "32-true", args)
        print(f"| scVI | 32-true | {batch_size:,} | {seconds:.2f} | {args.cells / seconds:,.0f} | | |", flush=True)
    ssc.SCSiameseClu.setup_anndata(adata)
    for precision in args.precision:
        for batch_size in args.batches:
            pair = ours(adata, batch_size, precision, args)
            columns = " | ".join(f"{seconds:.2f} | {args.cells / seconds:,.0f}" for seconds in pair)
            print(f"| scsiameseclu | {precision} | {batch_size:,} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
