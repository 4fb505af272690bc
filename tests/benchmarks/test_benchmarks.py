"""The peers can cluster, interrupted benchmarks resume, and tables show the measured results."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from benchmarks import flowsom, methods, partitions, preprocessing, run, scaide, scmae, scoring, table
from numpy.typing import NDArray
from sklearn.neighbors import kneighbors_graph

from scsiameseclu.metrics import clustering_metrics

TYPES = np.repeat(["a", "b", "c"], [60, 50, 40])


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """150 cells of 3 types that differ in 10 of 60 genes each."""
    rng = np.random.default_rng(0)
    means = np.full((3, 60), 2.0)
    for kind in range(3):
        means[kind, 10 * kind : 10 * kind + 10] = 12.0
    counts = rng.poisson(means[np.unique(TYPES, return_inverse=True)[1]]).astype(np.float32)
    adata = AnnData(counts)
    adata.obs["cell_type"] = TYPES
    return adata


@pytest.fixture(scope="module")
def components(cells: AnnData) -> NDArray[np.float32]:
    return preprocessing.principal_components(cells, 0)


def _ari(labels: NDArray) -> float:
    return clustering_metrics(TYPES, labels)["ari"]


@pytest.mark.parametrize("name", ["pca_kmeans", "pca_ward", "pca_flowsom", "scvi_rph_kmeans"])
def test_partitions_recover_the_simulated_types(components: NDArray[np.float32], name: str) -> None:
    partition = methods.METHODS[name].partition
    assert partition is not None
    labels = partition(components, 3, 0)
    assert _ari(labels) > 0.95
    np.testing.assert_array_equal(labels, partition(components, 3, 0))


def _plain_graph(embedding: NDArray[np.float32], seed: int) -> AnnData:
    """A graph without the weights of UMAP, whose compilation would take most of the time of these tests."""
    adata = AnnData(embedding)
    graph = kneighbors_graph(embedding, 15)
    adata.obsp["connectivities"] = graph.maximum(graph.T).tocsr()
    adata.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {"method": "umap"}}
    return adata


@pytest.mark.parametrize("n_types", [2, 3, 6])
def test_leiden_at_k_searches_the_resolution(
    components: NDArray[np.float32], n_types: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_graph", _plain_graph)
    labels = partitions.leiden_k(components, n_types, 0)
    assert labels.shape == (150,)
    assert abs(len(np.unique(labels)) - n_types) <= 1
    if n_types == 3:
        assert len(np.unique(labels)) == 3
        assert _ari(labels) > 0.9


@pytest.mark.slow
def test_leiden_at_k_on_the_graph_of_scanpy(components: NDArray[np.float32]) -> None:
    labels = partitions.leiden_k(components, 3, 0)
    assert labels.shape == (150,)
    assert len(np.unique(labels)) == 3
    assert _ari(labels) > 0.9


def test_ward_of_a_sample_labels_all_cells(components: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "WARD_CELLS", 80)
    assert _ari(partitions.ward(components, 3, 0)) > 0.95


def test_masked_autoencoder_recovers_the_simulated_types(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scmae, "BATCH", 50)
    latent, epochs = scmae.embed(preprocessing.scaled_values(cells), seed=0, epochs=30)
    assert latent.shape == (150, scmae.N_LATENT)
    assert epochs == 30
    assert _ari(partitions.kmeans(latent, 3, 0)) > 0.9


def test_distance_preserving_embedding_recovers_the_simulated_types(
    cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaide, "PRETRAIN_STEPS", 60)
    embedding, steps = scaide.embed(np.asarray(preprocessing.select_genes(cells).X), seed=0, max_steps=80)
    assert steps == 80
    assert _ari(scaide.rph_kmeans(embedding, 3, 0)) > 0.9


def test_skeleton_keeps_rare_groups_and_saves_them_from_kmeans() -> None:
    """The example of the authors: one group of 5,000 points, and four groups of 100 points."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [5, 5], [-5, -5], [5, -5], [-5, 5]], dtype=float)
    truth = np.repeat(np.arange(5), [5000, 100, 100, 100, 100])
    points = centres[truth] + rng.normal(size=(len(truth), 2))
    small = scaide.skeleton(points, rng, 1000)
    assert 100 < len(small) <= 1000
    nearest = np.argmin(((small[:, None] - centres) ** 2).sum(-1), axis=1)
    assert (np.bincount(nearest, minlength=5)[1:] / len(small) > 2 * 100 / 5400).all()
    assert clustering_metrics(truth, scaide.rph_kmeans(points, 5, 0))["ari"] > 0.9


def test_map_nodes_follow_the_cells(components: NDArray[np.float32]) -> None:
    codes = flowsom.train_map(components, np.random.default_rng(0))
    nearest = flowsom.nearest_codes(components, codes)
    error = ((components - codes[nearest]) ** 2).sum() / ((components - components.mean(0)) ** 2).sum()
    assert error < 0.8


def test_peers_see_counts_and_nothing_else(cells: AnnData) -> None:
    adata = cells.copy()
    adata.obsm["X_pca"] = np.zeros((150, 2))
    adata.uns["colours"] = [1]
    found = preprocessing.select_genes(adata)
    assert not len(found.obs.columns.difference(["n_counts"]))
    assert not found.obsm and "colours" not in found.uns
    np.testing.assert_array_equal(adata.X, cells.X)


def test_rare_recall_by_hand() -> None:
    # 100 cells: of the 4 cells of type "r", 3 are in a separate cluster; all 4 cells of type "s" are in the cluster of
    # the large type.
    truth = np.array(["l"] * 92 + ["r"] * 4 + ["s"] * 4)
    labels = np.array([0] * 92 + [1, 1, 1, 0] + [0] * 4)
    assert scoring.rare_recall(truth, labels, below=0.05) == pytest.approx((3 / 4 + 0) / 2)
    assert math.isnan(scoring.rare_recall(truth, labels, below=0.04))
    assert scoring.score_labels(truth, labels)["acc"] == pytest.approx(0.95)


def test_silhouette_tells_types_that_are_apart(components: NDArray[np.float32]) -> None:
    shuffled = np.random.default_rng(0).permutation(TYPES)
    assert scoring.silhouette(components[:, :2], TYPES) > 0.5 > 0.1 > scoring.silhouette(components[:, :2], shuffled)


def test_patterns_select_methods() -> None:
    assert methods.select(["pca_k*", "siamese_k"]) == ["siamese_k", "pca_kmeans"]
    with pytest.raises(ValueError, match="Expected methods among"):
        methods.select(["pcaa*"])


def _row(name: str, method: str, seed: int, score: float, **more: object) -> dict[str, object]:
    scores = dict.fromkeys(("acc", "nmi", "ari", "f1_macro"), score)
    size = {"n_obs": 150, "n_vars": 60, "n_types": 3, "n_clusters": 3, "seconds": 1.0, "peak_gb": 0.5}
    given = methods.METHODS[table.base_name(method)].knows_k
    return {
        "set": name,
        "method": method,
        "seed": seed,
        "k_given": given,
        **scores,
        "rare_recall": None,
        **size,
        **more,
    }


@pytest.fixture
def folder(cells: AnnData, tmp_path: Path) -> Path:
    cells.write_h5ad(tmp_path / "three.h5ad")
    unlabelled = cells.copy()
    del unlabelled.obs["cell_type"]
    unlabelled.write_h5ad(tmp_path / "unlabelled.h5ad")
    return tmp_path


def test_done_runs_are_skipped_and_siblings_share_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "results.jsonl"
    out.write_text(json.dumps(_row("three", "pca_kmeans", 0, 0.5)) + '\n{"set": "thr')  # stopped while writing
    jobs = []
    monkeypatch.setattr(run, "run_job", lambda job, args: jobs.append(job) or 0)
    asked = [
        "--data",
        str(folder),
        "--out",
        str(out),
        "--methods",
        "pca_kmeans",
        "pca_ward",
        "scmae*",
        "--seeds",
        "0",
        "1",
    ]
    assert run.main(asked) == 0
    assert [(job["family"], job["methods"], job["seed"]) for job in jobs] == [
        ("pca", ["pca_ward"], 0),
        ("scmae", ["scmae_kmeans", "scmae_leiden_k"], 0),
        ("pca", ["pca_kmeans", "pca_ward"], 1),
        ("scmae", ["scmae_kmeans", "scmae_leiden_k"], 1),
    ]
    assert {job["set"] for job in jobs} == {"three"}


def test_other_settings_under_one_name_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "results.jsonl"
    out.write_text(json.dumps(_row("three", "siamese_k", 0, 0.5, settings={})) + "\n")
    asked = ["--data", str(folder), "--out", str(out), "--methods", "siamese_k", "--seeds", "0"]
    assert run.main([*asked, "--settings", '{"n_neighbors": 5}']) == 2
    assert "--tag" in capsys.readouterr().err
    assert run.main(asked) == 0


@pytest.mark.slow
def test_a_run_writes_rows_with_scores_time_and_memory(folder: Path) -> None:
    out = folder / "results.jsonl"
    asked = ["--data", str(folder), "--out", str(out), "--methods", "pca_kmeans", "pca_ward", "--seeds", "0"]
    assert run.main(asked) == 0
    assert run.main(asked) == 0
    rows = run.read_results(out)
    assert [row["method"] for row in rows] == ["pca_kmeans", "pca_ward"]
    for row in rows:
        assert row["ari"] > 0.95
        assert row["n_types"] == 3
        assert row["seconds"] > 0
        assert 0.05 < row["peak_gb"] < 4
        assert row["rare_recall"] is None
        assert row["versions"]["scanpy"]


def test_table_shows_means_spreads_ranks_and_gaps() -> None:
    rows = []
    for name, shift in (("one", 0.0), ("two", 0.1)):
        for seed in (0, 1):
            rows += [
                _row(name, "siamese_k", seed, 0.60 + 0.1 * seed + shift),
                _row(name, "pca_kmeans", seed, 0.70 - 3 * shift),
                _row(name, "pca_ward", seed, 0.50),
                _row(name, "siamese_auto", seed, 0.55),
                _row(name, "pca_leiden_1", seed, 0.50),
            ]
    text = table.render(rows)
    lines = {
        line.split(" | ")[0].lstrip("| ") + "|" + line.split(" | ")[1]: line
        for line in text.splitlines()
        if " | " in line
    }
    assert "0.650 ± 0.071" in lines["one (150, 3)|siamese_k"]
    assert "0.700 ± 0.071" in lines["siamese_k|2 of 2"]
    assert "siamese_k | 1.50 | 1.50" in text  # rank 2 on one data set, rank 1 on two data sets
    assert "pca_kmeans | 2.00" in text
    assert "-0.050 (pca_kmeans)" in lines["one|-0.050 (pca_kmeans)"]
    assert "**-0.050**" in text
    assert "+0.050 (pca_leiden_1)" in text
    assert "rare" not in text  # no run has this score


def test_table_of_one_run_has_no_spread() -> None:
    text = table.render([_row("one", "siamese_k:no_cross", 0, 0.6)])
    assert "siamese_k:no_cross" in text
    assert "±" not in text
    assert "nan" not in text
