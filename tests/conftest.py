"""Fixtures of all tests: reproducible randomness, quiet plots, and the optional development data."""

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors in tests are tiny: a second thread only costs, and very much so on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same state of every random generator, in whatever order tests run."""
    import scvi

    before = scvi.settings.seed
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = before


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Draw off screen, and leave no figure open for the next test."""
    matplotlib.use("agg")
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the labelled development data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SCSIAMESECLU_DATA", REPOSITORY.parent / "shared" / "data"))
    if not any(folder.glob("*.h5ad")):
        pytest.skip(f"no development data in {folder}; set SCSIAMESECLU_DATA to the folder that holds it")
    return folder
