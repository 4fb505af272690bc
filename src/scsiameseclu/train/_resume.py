"""Checkpoints to resume training from, and the state of the random generators in them."""

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
    """Write a checkpoint that ``model.train(..., ckpt_path=path)`` resumes from.

    One file, replaced at the end of every ``every_n_epochs``-th epoch in one step, so that a process killed at any time
    leaves a whole file. It holds tensors and plain values only, and no code in it is run when it is read.

    Parameters
    ----------
    path
        File to write; its folder is created.
    every_n_epochs
        Epochs between two checkpoints.

    Raises
    ------
    ValueError
        If ``every_n_epochs`` is below 1.

    Examples
    --------
    >>> checkpoint = ResumeCheckpoint("run.ckpt")
    >>> model.train(callbacks=[checkpoint])  # killed
    >>> model.train(callbacks=[checkpoint], ckpt_path="run.ckpt")  # in a new process, same data and arguments
    """

    def __init__(self, path: str | os.PathLike[str], every_n_epochs: int = 1) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"Expected every_n_epochs of at least 1, found {every_n_epochs}.")
        self.path, self.every_n_epochs = Path(path), every_n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint if it is due."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        usual = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = SafeCheckpointIO()
        try:
            trainer.save_checkpoint(self.path)
        finally:
            trainer.strategy.checkpoint_io = usual


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are there as a whole, and are read without running code in them.

    Lightning's own way leaves files in the temporary folder when it is killed, and runs what a checkpoint from an
    address on the web names.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write next to the place of the checkpoint and rename."""
        with replaced_file(path) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values from a local file, whatever ``weights_only`` says.

        Raises
        ------
        OSError
            If the file is missing.
        ValueError
            If the file is damaged, holds anything else, or is none of Lightning.
        """
        checkpoint = read_torch_file(path)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise ValueError(
                f"Expected a checkpoint of SCSiameseClu.train in {str(path)!r}, found another file; see "
                "ResumeCheckpoint."
            )
        return checkpoint


def rng_state() -> dict[str, Any]:
    """State of the random generators of Python, numpy and torch, made of tensors and plain values."""
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (name, torch.as_tensor(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Go back to a state from :func:`rng_state`; that of GPUs only if as many are there."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


def history_state(history: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Epochs and values of each logged quantity, as lists."""
    return {name: [list(map(int, f.index)), list(map(float, f.iloc[:, 0]))] for name, f in history.items()}


def fill_history(history: dict[str, pd.DataFrame], state: dict[str, Any]) -> None:
    """Put back what :func:`history_state` returned."""
    for name, (epochs, values) in state.items():
        index = pd.Index(epochs, name="epoch")
        history[name] = pd.DataFrame({name: pd.Series(values, index=index, dtype=object)})
