"""Writers for the children of :mod:`killable`: each function loads its data and returns the function that writes."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import scvi
import torch
from matplotlib import pyplot as plt

from scsiameseclu import cli, pl, tl
from scsiameseclu._atomic import replaced_entries, replaced_file
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import write_mapped
from scsiameseclu.train import ResumeCheckpoint

SIZES = (50, 60)
"""Numbers of cells of the two models and data sets that replace each other."""


def made(n_obs: int) -> SCSiameseClu:
    """Make an untrained model; every call gives the same model."""
    scvi.settings.seed = n_obs
    adata = synthetic(n_obs=n_obs, n_vars=30, n_types=2, seed=n_obs)
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)
    return SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)


def train(model: SCSiameseClu, **kwargs: Any) -> None:
    model.train(accelerator="cpu", enable_progress_bar=False, **kwargs)


def write_state(folder: Path, name: str) -> None:
    """Write two files and a folder whose content names the writer."""
    with replaced_entries(folder) as new:
        (new / "a.txt").write_text(name)
        (new / "b.txt").write_text(name)
        (new / "deep").mkdir()
        (new / "deep" / name).write_text(name)


def write_and_remove(folder: Path, text: str) -> None:
    """Write one file, and remove old files that are not needed any more."""
    with replaced_entries(folder, gone=["only old.txt", "a.txt", "absent"]) as new:
        (new / "a.txt").write_text(text)


def write_file(path: Path, text: str) -> None:
    with replaced_file(path) as partial_path:
        partial_path.write_text(text)


def saved(stored: Path, folder: Path) -> Callable[[], None]:
    """Save a model to a folder that does not exist."""
    torch.set_num_threads(1)
    model = SCSiameseClu.load(stored, accelerator="cpu")
    model.save(folder.with_name("before"), overwrite=True)  # the first save imports the modules that it needs
    return partial(model.save, folder)


def overwritten(stored: dict[int, Path], folder: Path, with_data: bool) -> Callable[[], None]:
    """Save two models to one folder, in turn."""
    torch.set_num_threads(1)
    models = itertools.cycle([SCSiameseClu.load(path, accelerator="cpu") for path in stored.values()])
    return lambda: next(models).save(folder, overwrite=True, save_anndata=with_data)


def mapped(files: dict[int, Path], folder: Path) -> Callable[[], None]:
    """Write two data sets as mapped files to one folder, in turn."""
    paths = itertools.cycle(files.values())
    return lambda: write_mapped(next(paths), folder, overwrite=True)


def fitted(stored: dict[int, Path], files: dict[int, Path], folder: Path) -> Callable[[], None]:
    """Fit two data sets to one folder, in turn, without pictures and training, so that kills happen during writing."""
    torch.set_num_threads(1)
    models = {n_obs: SCSiameseClu.load(path, accelerator="cpu") for n_obs, path in stored.items()}

    def cluster(adata: Any, *, key_added: str, **kwargs: Any) -> SCSiameseClu:
        model = models[adata.n_obs]
        model.write_to_adata(adata, key_added)
        return model

    tl.cluster = cluster
    pl.embedding = lambda *args, **kwargs: plt.figure()
    paths = itertools.cycle(files.values())

    def write() -> None:
        argv = ["fit", str(next(paths)), "--out", str(folder), "--overwrite", "--accelerator", "cpu"]
        if cli.main(argv) != 0:
            raise RuntimeError("The command line answered with an error.")

    return write


class Often(ResumeCheckpoint):
    """Write each checkpoint many times, so that kills happen during writing."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        for _ in range(50):
            super().on_train_epoch_end(trainer, pl_module)


def checkpoints(path: Path, max_epochs: int) -> Callable[[], None]:
    """Train from the start, with a checkpoint after every epoch."""
    torch.set_num_threads(1)
    return lambda: train(made(SIZES[0]), max_epochs=max_epochs, callbacks=[Often(path)])
