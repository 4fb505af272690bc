"""The studies beside the main benchmark judge what they say they judge."""

import numpy as np
import pandas as pd
import pytest
from benchmarks import calibration, n_clusters, oversmoothing, stability


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


def test_a_deep_graph_autoencoder_makes_cells_alike(blobs):
    points, truth = blobs
    shallow, deep = (oversmoothing.graph_autoencoder(points, depth, 0) for depth in (1, 16))
    assert shallow.shape == (160, oversmoothing.N_LATENT)
    scores = [oversmoothing.scores(latent, truth, 0) for latent in (shallow, deep)]
    assert scores[0]["effective_rank"] > scores[1]["effective_rank"]
