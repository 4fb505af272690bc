"""The tutorial on annotation runs without changes, and is stored with its outputs."""

from collections.abc import Callable

import pytest

NOTEBOOK = "annotation"


@pytest.mark.slow
def test_every_cell_runs_and_finds_what_the_text_says(code_cells: Callable[[str], list[dict]]) -> None:
    names: dict = {}
    for cell in code_cells(NOTEBOOK):
        exec(compile("".join(cell["source"]), NOTEBOOK, "exec"), names)
    adata = names["adata"]
    assert {"B cell", "T cell", "NK cell", "Monocyte", "Dendritic cell"} <= set(adata.obs["siamese_clu_type"])
    assert names["right"].mean() > 0.65
    assert names["right"][names["assigned"]].mean() > names["right"].mean()
    assert names["result"].cluster_stability.between(0, 1).all()
    assert names["cosine"]["between"] < names["cosine"]["within"]


def test_outputs_are_stored_and_none_is_an_error(code_cells: Callable[[str], list[dict]]) -> None:
    outputs = [output for cell in code_cells(NOTEBOOK) for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
