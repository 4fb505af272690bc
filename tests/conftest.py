"""Fixtures of all tests: reproducible randomness, quiet plots, and the optional development data."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: tensors in tests are tiny, so a second thread only costs time, most of all on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Start every test from the same state of all random generators, whatever the order of the tests."""
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
    """Folder of the labelled development data; tests that need this folder are skipped if it is absent."""
    folder = Path(os.environ.get("SCSIAMESECLU_DATA", REPOSITORY.parent / "shared" / "data"))
    if not any(folder.glob("*.h5ad")):
        pytest.skip(f"no development data in {folder}; set SCSIAMESECLU_DATA to the folder that holds it")
    return folder


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run Python code in a separate process, in the folder of the test, for at most two minutes."""

    def run(code: str, *args: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        script, output = tmp_path / "script.py", tmp_path / "output.txt"
        script.write_text(code)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        # The output goes to a file, because reading a pipe would wait for grandchildren that keep the pipe open.
        with output.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, str(script), *args],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code_returned = process.wait(timeout)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return subprocess.CompletedProcess(process.args, code_returned, output.read_text())

    return run
