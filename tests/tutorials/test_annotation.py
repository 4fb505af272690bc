"""The tutorial on annotation runs as it stands, and is stored with its outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "tutorials" / "annotation.ipynb"


def _code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_every_cell_runs_and_finds_what_the_text_says() -> None:
    names: dict = {}
    for cell in _code_cells():
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    adata = names["adata"]
    assert {"B cell", "T cell", "NK cell", "Monocyte", "Dendritic cell"} <= set(adata.obs["siamese_clu_type"])
    assert names["right"].mean() > 0.65
    assert names["right"][names["assigned"]].mean() > names["right"].mean()
    assert names["result"].cluster_stability.between(0, 1).all()
    assert names["cosine"]["between"] < names["cosine"]["within"]


def test_outputs_are_stored_and_none_is_an_error() -> None:
    outputs = [output for cell in _code_cells() for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
