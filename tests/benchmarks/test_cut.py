"""The comparison of rules for the cut: kept results, skipped work, candidates of rules, and choice of rules."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import cut

SETS = ("one", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of two small data sets as ``benchmarks.tasks embed`` keeps them: three clear types."""
    path = tmp_path_factory.mktemp("embeddings")
    rng = np.random.default_rng(0)
    for name in SETS:
        truth = np.repeat(np.arange(3), (50, 40, 30))
        latent = 8.0 * np.eye(3)[truth] + rng.normal(size=(120, 3))
        points = latent * (3.0, 2.0, 1.0)
        np.savez(
            path / f"{name}.0.npz",
            truth=np.array(["a", "b", "c"])[truth],
            latent=latent.astype(np.float32),
            points=points.astype(np.float32),
            pca_kmeans=truth,
            pca_leiden_1=np.arange(120) % 6,
            seed=0,
        )
    (path / ".one.1.9.npz").write_bytes(b"unfinished")
    return path


@pytest.fixture(scope="module")
def kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder of candidates, and the rows of results."""
    path = tmp_path_factory.mktemp("candidates")
    assert cut.main([str(folder), "--keep-candidates", str(path), "--out", str(path / "rows.jsonl")]) == 0
    return path, [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]


def _row(name: str, number: str = "0", **scores: float) -> dict[str, Any]:
    """A task with these candidates, whose scores are all the same; the judges rank the candidates in reverse order."""
    ranks = list(range(len(scores), 0, -1))
    return {
        "set": name,
        "number": number,
        "n_types": 3,
        "candidates": list(scores),
        "ranks": dict.fromkeys(cut.JUDGES, ranks),
        "scores": [[score] * 3 for score in scores.values()],
        "default": next(iter(scores)),
        "peers": {"pca_kmeans": {"ari": 0.5, "nmi": 0.5, "f1_macro": 0.5, "n_clusters": 3}},
    }


def test_candidates_judges_and_scores_are_kept(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    path, rows = kept
    assert sorted(file.name for file in path.iterdir()) == [
        "one.0.n_clusters.json",
        "one.0.npz",
        "rows.jsonl",
        "two.0.n_clusters.json",
        "two.0.npz",
    ]
    assert [(row["set"], row["number"], row["n_obs"], row["n_types"]) for row in rows] == [
        (name, "0", 120, 3) for name in SETS
    ]
    for row in rows:
        with np.load(path / f"{row['set']}.0.npz") as arrays:
            assert list(arrays["names"]) == row["candidates"]
            assert arrays["labels"].shape == (len(row["candidates"]), 120)
            assert {len(arrays[judge]) for judge in cut.JUDGES} == {len(row["candidates"])}
        assert cut.FALLBACK in row["candidates"]
        assert row["peers"]["pca_kmeans"] == {"ari": 1.0, "nmi": 1.0, "f1_macro": 1.0, "n_clusters": 3}
        assert row["n_clusters"] == 3
        assert row["auto"]["ari"] > 0.95
        assert set(row["communities"]) == {"embedding", "expression"}


def test_the_default_is_the_rule_of_the_model(kept: tuple[Path, list[dict[str, Any]]], folder: Path) -> None:
    from scsiameseclu.partition import partition_cells
    from scsiameseclu.partition._judges import AGREEMENT_WEIGHT

    path, rows = kept
    rule = f"judges: equal + own + {AGREEMENT_WEIGHT:g} agreement"
    for row in rows:
        name = f"{row['set']}.0.npz"
        with np.load(path / name) as arrays, np.load(folder / name) as embedding:
            labels = arrays["labels"][row["candidates"].index(row["default"])]
            np.testing.assert_array_equal(labels, partition_cells(cut.space_of(embedding), 3))
        assert cut.pick(row, cut.DEFAULT) == cut.pick(row, rule)


def test_what_is_kept_is_not_made_again(
    kept: tuple[Path, list[dict[str, Any]]], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(cut, "candidates", fail)
    monkeypatch.setattr(cut, "choose_n_clusters", fail)
    assert cut.main([str(folder), "--keep-candidates", str(kept[0])]) == 0
    # A failure is counted, leaves nothing behind, and is tried again.
    assert cut.main([str(folder), "--keep-candidates", str(tmp_path / "new"), "--sets", "two"]) == 1
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.undo()
    assert cut.main([str(folder), "--keep-candidates", str(tmp_path / "new"), "--sets", "two", "--parts", "cut"]) == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["two.0.npz"]


def test_nothing_to_run(folder: Path, tmp_path: Path) -> None:
    for choice in (["--sets", "three"], ["--numbers", "1"]):
        assert cut.main([str(folder), "--keep-candidates", str(tmp_path), *choice]) == 2
    with pytest.raises(SystemExit):
        cut.main([str(folder)])


def test_rules_take_candidates_by_name_rank_or_label() -> None:
    row = _row("one", **{cut.FALLBACK: 0.2, "tree": 0.9, "mixture": 0.4})
    row["ranks"] = {"equal": [3, 2, 1], "own": [1, 3, 2], "agreement": [1, 2, 3]}
    assert cut.pick(row, "tree") == "tree"
    assert cut.pick(row, "Leiden, expression") == cut.FALLBACK
    assert cut.pick(row, cut.ORACLE) == "tree"
    assert cut.pick(row, "judge: equal widths, expression") == cut.FALLBACK
    assert cut.pick(row, "judge: own widths, embedding") == "tree"
    assert cut.pick(row, "judges: equal + own + 3 agreement") == "mixture"  # 7, 11, 12


def test_the_set_left_out_does_not_choose() -> None:
    rows = [
        _row("one", **{cut.FALLBACK: 0.1, "tree": 0.6}),
        _row("two", **{cut.FALLBACK: 0.2, "tree": 0.7}),
        _row("three", **{cut.FALLBACK: 1.0, "tree": 0.3}),
        _row("three", "1", **{cut.FALLBACK: 1.0, "tree": 0.5}),
    ]
    taken, chosen = cut.leave_set_out(cut.as_frame(rows))
    # k-means is far better on "three" and wins wherever "three" takes part in the choice. For "three" itself, the other
    # data sets make the choice.
    assert chosen == {"one": cut.FALLBACK, "three": "tree", "two": cut.FALLBACK}
    assert taken.groupby("set")["ari"].mean().to_dict() == pytest.approx({"one": 0.1, "two": 0.2, "three": 0.4})
    # Neither the peers nor the best by label can be chosen, however good they are.
    for row in rows:
        row["peers"]["pca_kmeans"].update(ari=1.0, f1_macro=1.0)
    assert cut.leave_set_out(cut.as_frame(rows))[1] == chosen


def test_tables_average_over_sets_and_pair_by_task() -> None:
    rows = [
        _row("one", **{cut.FALLBACK: 0.2, "tree": 0.6}),
        _row("two", "0", **{cut.FALLBACK: 0.6, "tree": 0.7}),
        _row("two", "1", **{cut.FALLBACK: 0.8}),
    ]
    text = cut.report(rows)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 3 of 3 | 0.450 |" in lines[cut.FALLBACK]
    # If the tree did not reach the number of clusters, k-means takes its place.
    assert "| 2 of 3 | 0.675 |" in lines["tree"]
    assert "| 0.450 |" in lines[cut.DEFAULT]
    assert "-0.050 [-0.300, +0.200]" in lines["default - pca_kmeans"]
    assert lines["default - pca_kmeans"].endswith("| 2 |")
    assert "number of clusters" not in lines


def test_numbers_of_clusters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [_row("one", **{cut.FALLBACK: 0.2}), _row("two", **{cut.FALLBACK: 0.4})]
    for row, number in zip(rows, (3, 1), strict=True):
        row.update(
            n_clusters=number, communities={"embedding": {"0.14": number + 3}}, auto=dict.fromkeys(cut.SCORES, 0.3)
        )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cut.main(["--report", str(tmp_path / "rows.jsonl")]) == 0
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert lines[cut.AUTO] == f"| {cut.AUTO} | 2 | {-np.log(3) / 2:.3f} | 0.500 | 0.300 | 0.300 | 0.300 | 1 |"
    assert lines["Leiden, embedding, 0.14"].endswith("| - | - | - | 0 |")
    assert "0.300" in lines["default, number given"]
