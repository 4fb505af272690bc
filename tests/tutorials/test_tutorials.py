"""The tutorials run without changes, give the results that their text describes, and have small outputs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 250_000  # bytes


def _pbmc3k(names: dict[str, Any]) -> None:
    adata = names["adata"]
    expected = {"CD4 T cell", "CD8 T cell", "NK cell", "B cell", "CD14 monocyte", "CD16 monocyte", "Platelet"}
    assert expected <= set(adata.obs["siamese_clu_type"])
    monocytes = adata.obs["siamese_clu_type"] == "CD16 monocyte"
    assert (adata.obs["cell_type"][monocytes] == "FCGR3A+ Mono").mean() > 0.8
    assert (names["again"].astype(str) == adata.obs["siamese_clu"].astype(str)).all()


def _granularity(names: dict[str, Any]) -> None:
    table = names["pd"].crosstab(names["adata"].obs["cell_type"], names["adata"].obs["siamese_clu"])
    assert names["found"] == 6 and (table > 0).to_numpy().sum() == 6
    assert [(size > 0).sum() for size in names["sizes"].values()] == [3, 6, 8]
    assert "large ones" in set(names["model"].predict())


def _query(names: dict[str, Any]) -> None:
    score, new, limit = names["score"], names["new"], names["limit"]
    assert (score[new] > limit).mean() > 0.7 > 0.05 > (score[~new] > limit).mean()
    table = names["pd"].crosstab(names["labels"], names["query"].obs["cell_type"]).drop(columns="type_5")
    assert (table.max(axis=0) > 0.9 * table.sum(axis=0)).all()


def _batches(names: dict[str, Any]) -> None:
    score = names["ssc"].metrics.clustering_metrics
    obs = names["adata"].obs
    assert score(obs["cell_type"], obs["told"])["ari"] > 0.9 > 0.5 > score(obs["cell_type"], obs["not_told"])["ari"]


def _cite_seq(names: dict[str, Any]) -> None:
    assert names["scores"].loc["ari", "RNA and proteins"] > 0.9 > 0.6 > names["scores"].loc["ari", "RNA"]


def _large(names: dict[str, Any]) -> None:
    score = names["ssc"].metrics.clustering_metrics(names["truth"].loc[names["labels"].index], names["labels"])
    assert score["ari"] > 0.9 and names["size"] < 10
    assert not names["root"].exists()


def _ablations(names: dict[str, Any]) -> None:
    assert list(names["table"].index) == list(names["variants"]) and names["table"]["ari"].min() > 0.3


FACTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "pbmc3k": _pbmc3k,
    "granularity": _granularity,
    "query": _query,
    "batches": _batches,
    "cite_seq": _cite_seq,
    "large": _large,
    "ablations": _ablations,
}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", FACTS)
def test_every_cell_runs_and_finds_what_the_text_says(notebook: str, code_cells: Callable[[str], list[dict]]) -> None:
    names: dict[str, Any] = {}
    for cell in code_cells(notebook):
        exec(compile("".join(cell["source"]), notebook, "exec"), names)
    FACTS[notebook](names)


@pytest.mark.parametrize("notebook", FACTS)
def test_outputs_are_stored_small_and_none_is_an_error(notebook: str, code_cells: Callable[[str], list[dict]]) -> None:
    cells = code_cells(notebook)
    assert all(cell["execution_count"] is not None for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (ROOT / "tutorials" / f"{notebook}.ipynb").stat().st_size < LARGEST


def test_every_tutorial_has_its_place_in_the_documentation() -> None:
    page = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    stored = {path.stem for path in (ROOT / "tutorials").glob("*.ipynb")}
    assert set(re.findall(r"\(tutorials/(\w+)\.ipynb\)", page)) == stored
    assert set(re.findall(r"^tutorials/(\w+)$", page, flags=re.MULTILINE)) == stored
