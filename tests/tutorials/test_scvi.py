"""The scVI tutorial runs without changes, and is stored with its outputs."""

from collections.abc import Callable

import pytest

NOTEBOOK = "scvi"


@pytest.mark.slow
def test_every_cell_runs_and_the_loaded_model_agrees(code_cells: Callable[[str], list[dict]]) -> None:
    *cells, last = ["".join(cell["source"]) for cell in code_cells(NOTEBOOK)]
    names: dict[str, object] = {}
    for source in cells:
        exec(compile(source, NOTEBOOK, "exec"), names)
    body, result = last.rsplit("\n", 1)  # the last line is the value the notebook shows
    exec(compile(body, NOTEBOOK, "exec"), names)
    assert eval(result, names) > 0.9
    assert (names["scores"].loc["ari"] > 0.35).all()


def test_outputs_are_stored_and_none_is_an_error(code_cells: Callable[[str], list[dict]]) -> None:
    outputs = [output for cell in code_cells(NOTEBOOK) for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
