"""Random tasks are drawn as documented, hide their labels, resume, and are averaged over data sets."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from benchmarks import methods, n_clusters, tasks
from scipy import sparse

SIZES = {"a": 400, "b": 300, "c": 150, "d": 40, "e": 5, "f": 2}


def _cells(sizes: dict[str, int], depth: float = 40.0) -> AnnData:
    """Counts of 30 genes, two batches."""
    rng = np.random.default_rng(0)
    types = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    obs = pd.DataFrame({"cell_type": types, "batch": rng.choice(["x", "y"], len(types))})
    obs.index = obs.index.astype(str)
    return AnnData(sparse.csr_matrix(rng.poisson(depth, (len(types), 30)).astype(np.float32)), obs=obs)


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return _cells(SIZES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two data sets with labels and one without."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("one", "two"):
        _cells({"a": 50, "b": 40, "c": 30}).write_h5ad(data / f"{name}.h5ad")
    AnnData(np.ones((3, 3), dtype=np.float32)).write_h5ad(data / "unlabelled.h5ad")
    return data


def test_tasks_are_spread_over_data_sets_number_by_number() -> None:
    files = [Path(f"{name}.h5ad") for name in "abc"]
    found = [(task.name, task.number) for task in tasks.draw_tasks(files, 7, 0)]
    assert found == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1), ("a", 2)]


def test_a_draw_depends_on_nothing_but_its_own_names(folder: Path) -> None:
    files = sorted(folder.glob("[ot]*.h5ad"))
    of_both = {(task.name, task.number): task.draw() for task in tasks.draw_tasks(files, 4, 0)}
    alone = {(task.name, task.number): task.draw() for task in tasks.draw_tasks(files[1:], 2, 0)}
    for key, found in alone.items():
        np.testing.assert_array_equal(found.rows, of_both[key].rows)
        np.testing.assert_array_equal(found.adata.X.toarray(), of_both[key].adata.X.toarray())
    # The two files hold the same cells; draws differ by name, by number and by seed.
    draws = [*of_both.values(), tasks.Task(files[0], 0, 1).draw()]
    assert len({tuple(found.rows) for found in draws}) == 5


def test_cells_types_and_depth_of_draws(cells: AnnData) -> None:
    before = cells.X.toarray()
    n_types, shares = set(), []
    for number in range(40):
        found = tasks.draw(cells, "toy", number, 0)
        assert len(np.unique(found.rows)) == len(found.rows) == found.adata.n_obs
        assert list(found.truth) == list(cells.obs["cell_type"].iloc[found.rows])
        names, counts = np.unique(found.truth, return_counts=True)
        assert "f" not in names  # 2 cells are too few
        assert counts.min() >= 3
        assert sum(SIZES[name] for name in names) < 500 or len(found.rows) >= 500
        after = found.adata.X.toarray()
        assert (after <= before[found.rows]).all()
        assert np.median(after.sum(1)) >= 190
        assert after.sum() / before[found.rows].sum() == pytest.approx(found.share, rel=0.02)
        n_types.add(found.n_types)
        shares.append(found.share)
    assert n_types == {3, 4, 5}
    assert min(shares) < 0.4
    assert max(shares) > 0.8


def test_counts_that_are_few_already_are_not_thinned() -> None:
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (100, 30)).astype(np.float32))
    after, share = tasks.thin(counts, np.random.default_rng(0))
    assert share == 1.0
    assert (after != counts).nnz == 0


def test_no_cell_loses_all_its_counts() -> None:
    counts = np.full((200, 10), 100.0, dtype=np.float32)
    counts[:50] = np.eye(10)[0]
    after, share = tasks.thin(counts, np.random.default_rng(2))
    assert share < 0.9
    assert after.sum(axis=1).min() == 1.0


@pytest.mark.parametrize(("n_cells", "sizes"), [(100, [60, 30, 10]), (300, [190, 95, 15]), (20, [11, 6, 3])])
def test_proportions_are_limited_by_the_cells_that_exist(n_cells: int, sizes: list[int]) -> None:
    found = tasks.allot(np.array([0.6, 0.3, 0.1]), np.array([1000, 1000, 15]), n_cells)
    np.testing.assert_array_equal(found, sizes)


def test_few_cells_are_as_many_as_the_proportions_allow() -> None:
    available = np.array([8, 12, 22, 41, 50])
    for seed in range(20):
        sizes = tasks.draw_sizes(available, np.random.default_rng(seed))
        chosen = sizes > 0
        assert (sizes <= available).all()
        assert sizes[chosen].min() >= 3
        assert sizes.sum() >= max(60, available[chosen].sum() // 2)


def test_types_are_added_where_the_chosen_ones_are_too_small() -> None:
    for seed in range(10):
        assert tasks.draw_sizes(np.full(10, 10), np.random.default_rng(seed)).astype(bool).sum() >= 6
    with pytest.raises(ValueError, match="found 1"):
        tasks.draw_sizes(np.array([100, 2]), np.random.default_rng(0))


def test_labels_stay_behind_and_half_of_the_tasks_tell_the_batch(cells: AnnData) -> None:
    told = []
    for number in range(6):
        found = tasks.draw(cells, "toy", number, 0)
        assert list(found.adata.obs) == (["batch"] if found.told else [])
        assert not (found.adata.obsm or found.adata.uns or found.adata.layers or list(found.adata.var))
        assert set(found.batch) == ({0, 1} if found.told else {0})
        told.append(found.told)
    assert sum(told) == 3
    unbatched = cells.copy()
    del unbatched.obs["batch"]
    assert not tasks.draw(unbatched, "toy", 1, 0).told


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the slow parts, and record their arguments."""
    given: list[Any] = []

    def embed_and_decode(adata: AnnData, seed: int, batch_key: str | None = None) -> Any:
        given.append((list(adata.obs), batch_key, seed))
        return np.zeros((adata.n_obs, 32)), np.zeros((adata.n_obs, 30))

    monkeypatch.setattr(n_clusters, "embed_and_decode", embed_and_decode)
    monkeypatch.setattr(tasks, "PEERS", ("pca_kmeans",))
    return given


def test_embeddings_are_kept_and_not_made_twice(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    keep = tmp_path / "kept"
    command = ["embed", "--data", str(folder), "--keep", str(keep), "--per-set", "2"]
    assert tasks.main([*command, "--part", "1/2"]) == 0
    assert sorted(path.name for path in keep.iterdir()) == ["one.0.npz", "one.1.npz"]
    assert tasks.main(command) == 0
    assert sorted(path.name for path in keep.iterdir()) == [f"{n}.{k}.npz" for n in ("one", "two") for k in (0, 1)]
    assert seen == [([], None, 0), (["batch"], "batch", 1)] * 2
    assert tasks.main(command) == 0
    assert len(seen) == 4
    with np.load(keep / "one.1.npz") as kept:
        n_obs = len(kept["truth"])
        assert kept["told"]
        assert kept["latent"].shape == (n_obs, 32)
        assert kept["pca"].dtype == np.float32
        assert len(set(kept["pca_kmeans"])) == 3
        assert {"batch", "counts_total", "points", "seconds_pca", "seconds_latent", "seconds_pca_kmeans"} <= set(kept)
    assert tasks.main([*command, "--seed", "1"]) == 2
    assert len(seen) == 4


def test_a_failure_is_counted_and_leaves_no_file(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no luck")

    monkeypatch.setattr(n_clusters, "embed_and_decode", fail)
    command = ["embed", "--data", str(folder), "--keep", str(tmp_path / "kept"), "--per-set", "1"]
    assert tasks.main(command) == 1
    assert not list((tmp_path / "kept").iterdir())
    errors = capsys.readouterr().err
    assert "no luck" in errors
    assert "2 of 2 failed" in errors


def test_whole_methods_resume_and_see_no_labels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def ours(adata: AnnData, options: methods.Options) -> methods.Embedding:
        given.append((list(adata.obs), options.settings))
        return methods.Embedding(np.zeros((adata.n_obs, 2)), labels=np.arange(adata.n_obs) % options.n_types)

    monkeypatch.setitem(methods.FAMILIES, "siamese_k", methods.Family(ours, (), option="settings"))
    out = tmp_path / "tasks.jsonl"
    command = ["full", "--data", str(folder), "--out", str(out), "--per-set", "2", "--methods"]
    assert tasks.main([*command, "siamese_k"]) == 0
    assert given == [([], {})] * 2 + [(["batch"], {"batch_key": "batch"})] * 2
    assert tasks.main([*command, "siamese_k", "pca_kmeans"]) == 0
    assert len(given) == 4
    rows = tasks.read_results(out)
    assert len(rows) == 8
    assert {"ari", "nmi", "acc", "f1_macro", "n_clusters", "n_types", "n_obs", "rare_recall", "seconds"} <= set(rows[0])
    assert all(row["rare_recall"] is None for row in rows)


def test_report_averages_tasks_within_sets_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # Differences are 0.1 on nine tasks of one data set, and 0.3 and 0.5 on the single tasks of two other data sets.
    differences = {"a": [0.1] * 9, "b": [0.3], "c": [0.5]}
    rows = []
    for name, values in differences.items():
        for number, value in enumerate(values):
            about = {"set": name, "number": number, "seed": 0, "n_types": 10, "acc": 0.5, "rare_recall": None}
            about["seconds"] = 1.0
            for method, score, k in (("siamese_auto", 0.4 + value, 12), ("pca_leiden_k", 0.4, 10)):
                scores = dict.fromkeys(tasks.SCORES, score)
                rows.append({**about, "method": method, "k_given": method != "siamese_auto", "n_clusters": k, **scores})
    # A task that only one of the two methods has run does not count.
    rows.append({**rows[0], "number": 99, "ari": 0.0, "n_clusters": 20})
    frame = pd.DataFrame(rows)
    difference = tasks.paired(frame, "siamese_auto", "pca_leiden_k", "ari")
    assert difference.to_dict() == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.5})
    # Of three values, each extreme is drawn three times with probability 1 / 27, more than the 2.5 % of a tail.
    assert tasks.bootstrap_interval(difference.to_numpy()) == pytest.approx((0.1, 0.5))
    frame.to_json(tmp_path / "tasks.jsonl", orient="records", lines=True)
    assert tasks.main(["report", str(tmp_path / "tasks.jsonl")]) == 0
    table = capsys.readouterr().out
    assert "| siamese_auto - pca_leiden_k | +0.300 [+0.100, +0.500] |" in table
    log = (9 * np.log(1.2) + np.log(2.0)) / 10
    assert f"| siamese_auto | 12 | {(log + 2 * np.log(1.2)) / 3:.3f} | {(0.9 + 1 + 1) / 3:.3f} |" in table


def test_interval_is_that_of_the_mean_over_sets() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.1, 50)
    low, high = tasks.bootstrap_interval(values)
    wanted = 1.96 * values.std() / np.sqrt(50)
    assert high - values.mean() == pytest.approx(wanted, rel=0.15)
    assert values.mean() - low == pytest.approx(wanted, rel=0.15)


def test_parts_are_read_strictly() -> None:
    assert tasks.part("2/3") == (2, 3)
    for text in ("0/2", "3/2", "1"):
        with pytest.raises(ValueError, match=r"part|literal"):
            tasks.part(text)


def test_real_files_are_read_as_written(folder: Path) -> None:
    found = tasks.Task(folder / "one.h5ad", 0, 0).draw()
    assert found.adata.n_vars == ad.read_h5ad(folder / "one.h5ad").n_vars


def test_whole_data_sets_are_reported_as_the_only_task_of_their_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scores = {"nmi": 0.5, "f1_macro": 0.5, "acc": 0.5, "rare_recall": None, "seconds": 1.0}
    about = {"n_types": 3, "n_clusters": 3, "k_given": True, **scores}
    rows = [
        {"set": name, "seed": seed, "method": method, "ari": ari + 0.1 * seed, **about}
        for name, gain in (("a", 0.1), ("b", 0.3))
        for seed in (0, 1)
        for method, ari in (("siamese_k", 0.4 + gain), ("pca_ward", 0.4))
    ]
    pd.DataFrame(rows).to_json(tmp_path / "whole.jsonl", orient="records", lines=True)
    assert tasks.main(["report", str(tmp_path / "whole.jsonl")]) == 0
    assert "| siamese_k - pca_ward | +0.200 [+0.100, +0.300] |" in capsys.readouterr().out
