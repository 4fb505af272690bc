"""Time of each part of a training step, compared with the lower bound of the machine.

    python -m benchmarks.profiling [--cells 5000] [--genes 2000] [--epochs 3] [--threads 1]
        [--accelerator cpu] [--batch-size 256] [--data FILE.h5ad]

The counts are simulated unless ``--data`` is given. The first epoch is a warm-up and is not counted. The time of a part
does not include the time of other parts that it calls. On a GPU, the script waits for the device at the start and end
of every part, so the sum of the parts is longer than a normal run.

The lower bound ("floor") of a step has four parts that this architecture cannot avoid. The matrix products (operations
counted by PyTorch, forward and backward) are timed at the speed of a large product on the same device. The likelihood
and its gradient need two log-gamma and two digamma functions per count of an embedding gene, timed on a tensor of this
size. The other passes over cells x genes are timed in the same way. The rows read, the parameters, gradients and
moments are timed at the speed of a copy in memory.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

PASSES = 6
"""Element-wise passes over cells x genes besides the likelihood.

These are scaling and corruption of two views, softmax and its gradient.
"""


class Stopwatch:
    """Seconds and calls of named parts; time spent in an inner part is not charged to the outer one."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._wait = wait
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        self._wait()
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._wait()
            elapsed = time.perf_counter() - start
            self.seconds[name] += elapsed - self._inner.pop()
            self.calls[name] += 1
            self._inner[-1] += elapsed

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method of an object or class."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def reset(self) -> None:
        """Set all times and calls to zero."""
        self.seconds.clear()
        self.calls.clear()


def seconds_of(function: Callable[[], Any], wait: Callable[[], None], repeats: int = 20) -> float:
    """Shortest time of a call over several repeats."""
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def instrument(watch: Stopwatch, model: Any) -> None:
    """Time the parts of a training step of this model."""
    from scsiameseclu.data._device import DeviceData
    from scsiameseclu.data._loader import NeighborDataset
    from scsiameseclu.data._partners import PartnerSampler
    from scsiameseclu.train import SiameseTrainingPlan

    module = model.module
    watch.wrap(NeighborDataset, "__getitem__", "loader: rows")
    watch.wrap(DeviceData, "batch", "loader: rows, on the device")
    watch.wrap(NeighborDataset, "_neighbor_rep", "loader: neighbour block")
    watch.wrap(PartnerSampler, "__call__", "partners")
    watch.wrap(module, "inference", "fusion and rest of the views")
    watch.wrap(module.expression_scaler, "forward", "scaling and corruption")
    watch.wrap(module.augmentation, "forward", "scaling and corruption")
    watch.wrap(module.expression_encoder, "forward", "expression encoder")
    watch.wrap(module.graph_encoder, "mix", "graph encoder")
    watch.wrap(module.graph_encoder, "embed", "graph encoder")
    watch.wrap(module, "generative", "decoder and likelihood")
    watch.wrap(module, "_correlations", "cross-correlations")
    watch.wrap(module, "_clustering", "clustering loss")
    watch.wrap(SiameseTrainingPlan, "backward", "backward")
    watch.wrap(SiameseTrainingPlan, "optimizer_step", "optimiser and loop")
    watch.wrap(SiameseTrainingPlan, "training_step", "rest of the step")
    watch.wrap(SiameseTrainingPlan, "compute_and_log_metrics", "logging")
    watch.wrap(SiameseTrainingPlan, "_place_centers", "first partition")
    watch.wrap(SiameseTrainingPlan, "_refresh_targets", "Sinkhorn targets")


def keep_last_batch(module: Any) -> dict[str, Any]:
    """Return a mapping that always holds the tensors (both views) of the latest complete mini-batch."""
    last: dict[str, Any] = {}
    original = module.forward

    def forward(tensors: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not last or len(tensors["X"]) >= len(last["X"]):
            last.update(tensors)
        return original(tensors, *args, **kwargs)

    module.forward = forward
    return last


def floor(module: Any, tensors: dict[str, Any], wait: Callable[[], None]) -> dict[str, tuple[str, float]]:
    """Amount and seconds of each unavoidable part of a step on this mini-batch."""
    from torch.utils.flop_counter import FlopCounterMode

    from scsiameseclu._keys import SIAMESE_KEYS

    device = next(module.parameters()).device
    module.train()
    with FlopCounterMode(display=False) as counter:
        module(tensors)[2].loss.backward()
    operations = counter.get_total_flops()
    module.zero_grad()
    square = torch.randn(1024, 1024, device=device)
    products = operations / (2 * 1024**3) * seconds_of(lambda: square @ square, wait)

    n_cells, n_genes = len(tensors["X"]), module.embedding_genes.numel()
    block = torch.rand(n_cells, n_genes, device=device) + 0.5
    likelihood = 2 * seconds_of(block.lgamma, wait) + 2 * seconds_of(block.digamma, wait)
    passes = PASSES * seconds_of(block.exp, wait)

    views = [*tensors.values(), *tensors.get(SIAMESE_KEYS.PARTNER, {}).values()]
    read = sum(value.nbytes for value in views if isinstance(value, torch.Tensor))
    weights = sum(parameter.nbytes for parameter in module.parameters())
    n_bytes = read + 7 * weights  # weight, gradient and two moments read; weight and moments written
    buffer = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    memory = n_bytes / (2 * buffer.nbytes) * seconds_of(buffer.clone, wait)
    return {
        "matrix products": (f"{operations / 1e9:.2f} Gflop", products),
        "likelihood": (f"{4 * block.numel() / 1e6:.1f} M special functions", likelihood),
        "other passes": (f"{PASSES * block.numel() / 1e6:.1f} M elements", passes),
        "memory": (f"{n_bytes / 1e6:.0f} MB", memory),
    }


def profile(adata: Any, epochs: int, accelerator: str, batch_size: int) -> str:
    """Train a model and return Markdown tables of the parts of a step and of the lower bound."""
    import lightning.pytorch as pl
    import scvi

    from scsiameseclu import SCSiameseClu

    wait = torch.cuda.synchronize if accelerator in ("gpu", "cuda") else (lambda: None)
    watch = Stopwatch(wait)
    scvi.settings.seed = 0
    started = time.perf_counter()
    SCSiameseClu.setup_anndata(adata)
    setup = time.perf_counter() - started
    model = SCSiameseClu(adata, n_clusters=10)
    instrument(watch, model)
    batch = keep_last_batch(model.module)

    class Clock(pl.Callback):
        start = 0.0

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 0:
                watch.reset()
                self.start = time.perf_counter()

    clock = Clock()
    options = {"accelerator": accelerator, "enable_progress_bar": False, "train_size": 1.0, "batch_size": batch_size}
    model.train(max_epochs=epochs + 1, plan_kwargs={"n_pretrain_epochs": 1}, callbacks=[clock], **options)
    total = time.perf_counter() - clock.start
    steps = watch.calls["rest of the step"]
    once = ("first partition", "Sinkhorn targets")
    seconds = dict(watch.seconds)
    seconds["Lightning and rest"] = total - sum(seconds.values())
    lines = ["| part | ms per step | share |", "| --- | --- | --- |"]
    per_step = sum(value for name, value in seconds.items() if name not in once)
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        if name not in once:
            lines.append(f"| {name} | {1e3 * value / steps:.2f} | {value / per_step:.1%} |")
    lines.append(f"| all | {1e3 * per_step / steps:.1f} | |")
    device = batch["X"].device
    model.module.to(device)
    parts = floor(model.module, batch, wait)
    lines += ["", "| floor of a step | amount | ms |", "| --- | --- | --- |"]
    lines += [f"| {name} | {amount} | {1e3 * value:.2f} |" for name, (amount, value) in parts.items()]
    least = sum(value for _, value in parts.values())
    lines.append(f"| all | | {1e3 * least:.1f} |")
    lines += [
        "",
        f"{adata.n_obs} cells x {adata.n_vars} genes, {steps} steps of {batch_size} cells, {torch.get_num_threads()} "
        f"thread(s), {device}. Step: {per_step / steps / least:.1f} times the floor. Once per run: set-up {setup:.1f} "
        f"s, first partition {watch.seconds['first partition']:.1f} s. Per refresh: Sinkhorn targets "
        f"{watch.seconds['Sinkhorn targets'] / max(watch.calls['Sinkhorn targets'], 1):.2f} s.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3, help="epochs counted, all of them with the clustering loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--data", help=".h5ad file of raw counts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.data:
        import anndata

        adata = anndata.read_h5ad(args.data)
    else:
        import scsiameseclu as ssc

        adata = ssc.datasets.synthetic(args.cells, args.genes, n_types=10, library_size=3000.0, seed=0)
    print(profile(adata, args.epochs, args.accelerator, args.batch_size))


if __name__ == "__main__":
    main()
