"""The benchmark of classifiers hides the labels that it should hide, and scores the cells that it should score."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from benchmarks import classification as bench
from scipy import sparse

TRUTH = pd.Series(np.repeat(["a", "b", "c"], [200, 90, 10]), index=[f"cell{i}" for i in range(300)])


def test_every_type_keeps_its_share_of_labels_and_at_least_one():
    for task, labels in bench.tasks(TRUTH, seed=0):
        known = labels[labels != bench.UNKNOWN]
        assert (known == TRUTH[known.index]).all()
        expected = {name: max(1, round(task["share"] * size)) for name, size in TRUTH.value_counts().items()}
        expected.pop(task["withheld"], None)
        assert known.value_counts().to_dict() == expected


def test_one_task_withholds_a_type_that_is_not_rare():
    *others, (task, labels) = bench.tasks(TRUTH, seed=3)
    assert [each["share"] for each, _ in others] == list(bench.SHARES)
    assert not any(each["withheld"] for each, _ in others)
    assert task["withheld"] in {"a", "b"} and task["withheld"] not in set(labels)


def test_scores_are_those_of_hidden_cells_of_known_types():
    truth = pd.Series(["a", "a", "a", "b", "b", "c"])
    labels = pd.Series(["a", bench.UNKNOWN, bench.UNKNOWN, "b", bench.UNKNOWN, bench.UNKNOWN])
    probabilities = pd.DataFrame({"a": [0.0, 0.9, 0.2, 1.0, 0.3, 0.55], "b": [1.0, 0.1, 0.8, 0.0, 0.7, 0.45]})
    found = bench.scores(truth, labels, probabilities, withheld="c")
    assert (found["n_judged"], found["n_labelled"]) == (3, 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx(2 / 3)
    assert found["auroc_withheld"] == 1.0
    assert "auroc_withheld" not in bench.scores(truth, labels, probabilities, withheld="")


@pytest.mark.slow
def test_a_run_is_resumed_and_its_table_has_all_tasks(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    means = 1 + 9 * np.repeat(np.eye(3), 20, axis=1)
    counts = rng.poisson(means[np.unique(TRUTH, return_inverse=True)[1]]).astype(np.float32)
    AnnData(sparse.csr_matrix(counts), obs=TRUTH.to_frame("cell_type")).write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "out.jsonl"
    command = ["classification", "--data", str(tmp_path), "--out", str(out), "--methods", "pca_logistic", "--seeds"]
    monkeypatch.setattr(sys, "argv", [*command, "0"])
    bench.main()
    first = out.read_text()
    monkeypatch.setattr(sys, "argv", [*command, "0", "1"])
    bench.main()
    assert out.read_text().startswith(first)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["seed"], row["share"]) for row in rows[5:]] == [(1, 0.01), (1, 0.05), (1, 0.2), (1, 0.8), (1, 0.2)]
    assert min(row["accuracy"] for row in rows if row["share"] == 0.8) > 0.95
    table = capsys.readouterr().out
    assert table.count("| pca_logistic |") == 10
