"""Rules for the number of types: their features, and that no learned rule is fitted to its own data set."""

import numpy as np
import pytest
from benchmarks import number


def test_communities_are_counted_in_three_ways() -> None:
    labels = np.repeat([0, 1, 2], [100, 99, 1])
    shares = np.array([100, 99, 1]) / 200
    found = number.counts(labels)
    assert (found["all"], found["not small"]) == (3, 2)
    assert found["by entropy"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def _row(name: str, n_types: int, communities: float) -> dict:
    seen = {f"{view} {each} all": communities for view in ("embedding", "expression") for each in number.RESOLUTIONS}
    return {"set": name, "number": "0", "n_types": n_types, "pca_leiden_1": 2 * n_types, "seen": seen}


def test_learned_rules_see_other_data_sets_only() -> None:
    """If one data set has a tenth of the usual types per community, the learned rules predict ten times too many."""
    rows = [_row(f"s{each}", each, each) for each in range(4, 14)] + [_row("odd", 1, 10)]
    told = number.learned(rows)
    assert all(found[-1] >= 7 for found in told.values())


def test_table_has_bias_error_and_share_within_a_fifth() -> None:
    rows = [_row(name, n_types, n_types) for name, n_types in (("a", 4), ("b", 8), ("c", 10))]
    lines = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in number.report(rows).splitlines() if "|" in line
    }
    assert [cell.strip() for cell in lines["embedding, resolution 0.14"]] == ["+0.000", "0.000", "1.00"]
    peer = [cell.strip() for cell in lines["PCA + Leiden, resolution 1"]]
    assert peer == [f"{np.log(2):+.3f}", "0.000", "0.00"]


def test_embeddings_are_read(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        truth = np.repeat(np.arange(3), 40)
        latent = (8.0 * np.eye(3)[truth] + rng.normal(size=(120, 3))).astype(np.float32)
        kept = {"truth": truth, "latent": latent, "points": latent, "pca_leiden_1": truth}
        np.savez(tmp_path / f"{name}.0.npz", counts_total=np.full(120, 500.0), **kept)
    assert number.main([str(tmp_path), "--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = number.read_results(tmp_path / "rows.jsonl")
    assert [row["set"] for row in rows] == ["one", "two"]
    assert all(row["n_types"] == 3 and row["seen"]["embedding 0.14 all"] == 3 for row in rows)
    printed = capsys.readouterr().out
    number.main(["--report", str(tmp_path / "rows.jsonl")])
    assert capsys.readouterr().out == printed
