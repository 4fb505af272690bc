"""Checkpoints from which a training can be resumed, with the state of the random generators."""

import os
import random
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scsiameseclu._atomic import replaced_file
from scsiameseclu._torch_file import read_torch_file


class ResumeCheckpoint(pl.Callback):
    """Write a checkpoint from which ``model.train(..., ckpt_path=path)`` resumes the training.

    The callback writes one file, and replaces the file at the end of every ``every_n_epochs``-th epoch. The replacement
    is atomic: if the process is killed, the file is still complete. The file holds only tensors and plain values, and
    reading the file never runs code.

    Parameters
    ----------
    path
        File to write. The folder is created if necessary.
    every_n_epochs
        Number of epochs between two checkpoints.

    Raises
    ------
    ValueError
        If ``every_n_epochs`` is below 1.

    Examples
    --------
    >>> checkpoint = ResumeCheckpoint("run.ckpt")
    >>> model.train(callbacks=[checkpoint])  # the process is killed during this call
    >>> model.train(callbacks=[checkpoint], ckpt_path="run.ckpt")  # in a new process, with the same data and arguments
    """

    def __init__(self, path: str | os.PathLike[str], every_n_epochs: int = 1) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"Expected every_n_epochs of at least 1, found {every_n_epochs}.")
        self.path, self.every_n_epochs = Path(path), every_n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint at the end of every ``every_n_epochs``-th epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        usual = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = SafeCheckpointIO()
        try:
            trainer.save_checkpoint(self.path)
        finally:
            trainer.strategy.checkpoint_io = usual


class SafeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, and read checkpoints without running code.

    Lightning's default leaves temporary files behind if the process is killed, and runs code in checkpoints that are
    read from the web.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a temporary file in the same folder, and rename the file."""
        with replaced_file(path) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values from a local file. ``weights_only`` has no effect.

        Raises
        ------
        OSError
            If the file is missing.
        ValueError
            If the file is damaged, holds other objects, or is not a checkpoint of Lightning.
        """
        checkpoint = read_torch_file(path)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise ValueError(
                f"Expected a checkpoint of SCSiameseClu.train in {str(path)!r}, found another file; see "
                "ResumeCheckpoint."
            )
        return checkpoint


def rng_state() -> dict[str, Any]:
    """State of the random generators of Python, numpy and torch, as tensors and plain values."""
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (name, torch.as_tensor(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state from :func:`rng_state`. GPU generators are restored only if the number of GPUs is the same."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


def history_state(history: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Epochs and values of each logged quantity as lists, by name of the quantity."""
    return {name: [list(map(int, f.index)), list(map(float, f.iloc[:, 0]))] for name, f in history.items()}


def fill_history(history: dict[str, pd.DataFrame], state: dict[str, Any]) -> None:
    """Fill a history from the result of :func:`history_state`."""
    for name, (epochs, values) in state.items():
        index = pd.Index(epochs, name="epoch")
        history[name] = pd.DataFrame({name: pd.Series(values, index=index, dtype=object)})
