"""The studies beside the main benchmark compute the scores that they describe."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from benchmarks import calibration, missing_genes, n_clusters, oversmoothing, schedule, stability, unknown


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 40)
    return (rng.normal(size=(160, 12)) + 12 * np.eye(12)[truth]).astype(np.float32), truth


@pytest.mark.parametrize(
    "criterion", ["silhouette (Ward)", "Calinski-Harabasz (Ward)", "eigengap", "Leiden, resolution 0.1"]
)
def test_criteria_find_four_separate_groups(criterion, blobs):
    assert n_clusters.CRITERIA[criterion](blobs[0], 0) == 4


def test_criteria_are_judged_by_the_number_of_types():
    rows = [
        {"set": name, "criterion": "eigengap", "n_types": 10, "n_clusters": k, "ari": 0.5, "ari_known": 0.75}
        for name, k in (("a", 10), ("b", 12), ("c", 20), ("sim_x", 5))
    ]
    line = n_clusters.report(pd.DataFrame(rows)).splitlines()[-2]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["2 / 3", "0.42", "+0.42", "0.500 (-0.250)", "0 / 1", "1.00", "-1.00", "0.500 (-0.250)"]


def test_simulated_sets_have_the_types_they_promise():
    shares = n_clusters._shares(5, 20.0)
    assert shares[0] / shares[-1] == pytest.approx(20.0)
    assert all(settings["n_types"] == int(name.split("_")[1]) for name, settings in n_clusters.SIMULATED.items())


def test_agreement_of_runs_and_their_consensus(tmp_path):
    truth = np.repeat(["a", "b"], 20)
    good, bad = np.repeat([1, 0], 20), np.tile([0, 1], 20)
    for seed, clusters in enumerate([good, good, 1 - good, bad]):
        np.savez(tmp_path / f"toy.siamese_k.{seed}.npz", clusters=clusters, labels=truth, labelled=np.ones(40, bool))
    runs = stability.read_runs(tmp_path, "siamese_k")
    found = stability.agreement(runs["toy"])
    assert found["n_runs"] == 4
    assert found["lowest"] < 0.1
    assert found["mean"] == pytest.approx(0.5, abs=0.05)
    assert found["consensus"] == 1.0 > found["single"]
    assert stability.report(runs).count("toy") == 1


def test_curves_are_pooled_by_cells():
    bins = [
        {"confidence": [0.2, 0.8], "accuracy": [0.0, 1.0], "n_cells": [0, 30]},
        {"confidence": [0.4, 0.9], "accuracy": [0.5, 0.6], "n_cells": [10, 10]},
    ]
    curve = calibration.pooled(pd.DataFrame({"bins": bins}))
    assert curve["n_cells"].tolist() == [10, 40]
    assert curve["accuracy"].tolist() == pytest.approx([0.5, 0.9])


@pytest.mark.slow
def test_a_deep_graph_autoencoder_makes_cells_alike(blobs):
    points, truth = blobs
    shallow, deep = (oversmoothing.graph_autoencoder(points, depth, 0) for depth in (1, 16))
    assert shallow.shape == (160, oversmoothing.N_LATENT)
    scores = [oversmoothing.scores(latent, truth, 0) for latent in (shallow, deep)]
    assert scores[0]["effective_rank"] > scores[1]["effective_rank"]


def test_enlarged_data_are_thinned_cells_of_the_same_types():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": ["a"] * 30 + ["b"] * 10 + [None] * 5}, index=[str(i) for i in range(45)])
    cells = AnnData(rng.poisson(20.0, (45, 50)).astype(np.float32), obs=obs)
    large = schedule.enlarged(cells, 400, seed=0)
    assert large.shape == (400, 50) and large.obs_names.is_unique
    assert 0.6 < (large.obs["cell_type"] == "a").mean() < 0.9 and set(large.obs["cell_type"]) == {"a", "b"}
    shares = np.asarray(large.X.sum(axis=1)).ravel() / cells.X[:40].sum(axis=1).mean()
    assert 0.65 < shares.mean() < 0.75 and (large.X.data == np.round(large.X.data)).all() and shares.std() > 0.05
    assert (schedule.enlarged(cells, 400, seed=0).X != large.X).nnz == 0


def test_schedules_are_compared_within_data_sets():
    rows = [
        {"set": name, "schedule": epochs, "ari": ari, "nmi": 0.5, "f1_macro": 0.5, "cpu_seconds": seconds}
        for name, base in (("x", 0.4), ("y", 0.8))
        for epochs, ari, seconds in (("10+6", base, 100), ("5+2", base + 0.01, 50))
    ]
    table = schedule.report(rows).splitlines()
    assert table[2] == "| 10+6 | 2 | 0.600 | 0.500 | 0.500 | 100 |"
    assert table[-1] == "| 5+2 - 10+6 | +0.010 [+0.010, +0.010] | +0.000 [+0.000, +0.000] | +0.000 [+0.000, +0.000] |"


def test_withheld_types_are_neither_rare_nor_most_cells():
    types = pd.Series(["much"] * 50 + ["some"] * 30 + ["few"] * 19 + ["rare"])
    assert set(unknown.withheld_types(types, "set", 5)) == {"some", "few"}
    assert unknown.withheld_types(types, "set", 1) == unknown.withheld_types(types, "set", 1)
    assert unknown.withheld_types(types[types != "rare"].replace("few", "much"), "set", 5) == []


def test_unassigned_cells_are_counted_by_limit():
    shares = {str(limit): 1 - limit for limit in unknown.LIMITS}
    rows = [
        {"set": name, "auc": 0.9, "new_above": dict.fromkeys(shares, 0.5), "ordinary_above": shares}
        for name in ("x", "x", "y")
    ]
    table = unknown.report(rows).splitlines()
    assert table[0] == "3 withheld types of 2 sets; area under the curve 0.900."
    assert table[-1] == "| 0.99 | 0.500 [0.500, 0.500] | 0.010 [0.010, 0.010] |"


def test_cells_that_keep_their_cluster_are_counted_by_share_of_genes():
    rows = [
        {"set": name, "share": share, "agreement": share, "confidence": 0.9, "above": 0.1}
        for name in ("x", "y")
        for share in missing_genes.SHARES
    ]
    table = missing_genes.report(rows).splitlines()
    assert table[0] == "2 data sets."
    assert table[4] == "| 90% | 0.900 [0.900, 0.900] | 0.900 [0.900, 0.900] | 0.100 [0.100, 0.100] |"
