"""The scVI tutorial runs as it stands, and is stored with its outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "tutorials" / "scvi.ipynb"


def _code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_every_cell_runs_and_the_loaded_model_agrees() -> None:
    *cells, last = ["".join(cell["source"]) for cell in _code_cells()]
    names: dict[str, object] = {}
    for source in cells:
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    body, result = last.rsplit("\n", 1)  # the last line is the value the notebook shows
    exec(compile(body, str(NOTEBOOK), "exec"), names)
    assert eval(result, names) > 0.9
    assert (names["scores"].loc["ari"] > 0.35).all()


def test_outputs_are_stored_and_none_is_an_error() -> None:
    outputs = [output for cell in _code_cells() for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
