"""Fixture that reads the tutorials."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"


@pytest.fixture
def code_cells() -> Callable[[str], list[dict]]:
    """Function that returns the code cells of a tutorial, with their stored outputs."""

    def read(name: str) -> list[dict]:
        cells = json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code"]

    return read
