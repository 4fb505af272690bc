"""Number of operations that a training step starts; on a GPU, every operation is a kernel launch.

    python -m benchmarks.launches [--cells 1600] [--genes 2000] [--accelerator cpu]

The counts are simulated, with 256 cells per step. The script counts the operations that PyTorch dispatches in the
forward pass, the backward pass and the optimiser. One step before and one step after the first partition are counted.
Views of a tensor are left out, because they compute nothing. The count needs no GPU. The output is one JSON line.
"""

import argparse
import json
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NOTHING_COMPUTED = ("empty", "detach", "_unsafe_view", "record_function")
STEP = 3


class Operations(TorchDispatchMode):
    """Counts operations by name while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and carry it out."""
        name = operation.name()
        if not operation.is_view and not any(part in name for part in NOTHING_COMPUTED):
            self.names[name.removeprefix("aten::")] += 1
        return operation(*args, **(kwargs or {}))


def launches(adata: Any, accelerator: str = "cpu", n_epochs: int = 4) -> dict[str, Counter[str]]:
    """Count operations by name, in one step of each phase, of a model that is trained on these cells."""
    import lightning.pytorch as pl

    from scsiameseclu import SCSiameseClu

    class Watch(pl.Callback):
        """Counts from the start of one step to the start of the next."""

        def __init__(self) -> None:
            self.found: dict[str, Counter[str]] = {}
            self.active: Operations | None = None

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, step: int) -> None:
            if self.active is not None:
                self.active.__exit__(None, None, None)
                phase = "before the first partition" if trainer.current_epoch < n_epochs // 2 else "after it"
                self.found[phase], self.active = self.active.names, None
            if step == STEP and trainer.current_epoch in (1, n_epochs - 1):
                self.active = Operations()
                self.active.__enter__()

    SCSiameseClu.setup_anndata(adata)
    watch = Watch()
    SCSiameseClu(adata, n_clusters=10).train(
        max_epochs=n_epochs,
        accelerator=accelerator,
        train_size=1.0,
        batch_size=256,
        plan_kwargs={"n_pretrain_epochs": n_epochs // 2},
        enable_progress_bar=False,
        callbacks=[watch],
    )
    return watch.found


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1600)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--accelerator", default="cpu")
    args = parser.parse_args()
    import scvi

    import scsiameseclu as ssc

    scvi.settings.seed = 0
    adata = ssc.datasets.synthetic(args.cells, args.genes, n_types=10, library_size=3000.0, seed=0)
    found = launches(adata, args.accelerator)
    print(json.dumps({"torch": torch.__version__, **{phase: sum(names.values()) for phase, names in found.items()}}))


if __name__ == "__main__":
    main()
