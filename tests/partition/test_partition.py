"""Candidates, judges and the resulting partition."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.partition import Space, partition_cells
from scsiameseclu.partition._candidates import candidates
from scsiameseclu.partition._judges import best, judge
from scsiameseclu.partition._mixture import fit_mixture


def blobs(n_groups=4, n_cells=40, distance=12.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_groups), n_cells)
    points = rng.normal(size=(len(truth), n_groups + 1)) + distance * np.eye(n_groups + 1)[truth]
    return points.astype(np.float32), truth


def space(points, seed=0):
    points = np.asarray(points, dtype=np.float32)
    return Space(points, points, seed)


def test_separated_groups_are_found_by_every_candidate():
    points, truth = blobs()
    found = candidates(space(points), 4)
    assert len(found) == 15
    assert all(len({*zip(labels, truth, strict=True)}) == 4 for labels in found.values())
    labels = partition_cells(space(points), 4)
    assert np.array_equal(labels, partition_cells(space(points), 4))
    assert len({*zip(labels, truth, strict=True)}) == 4


def test_the_seed_hardly_matters():
    """Overlapping groups, on which single k-means runs end in different places."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(8), 50)
    points = rng.normal(size=(400, 4)) + 4 * rng.normal(size=(8, 4))[truth]
    first, second = (partition_cells(space(points, seed), 8) for seed in (0, 1))
    assert adjusted_rand_score(first, second) > 0.95


def test_one_cluster_and_few_or_identical_cells():
    points = np.random.default_rng(0).normal(size=(6, 2))
    assert partition_cells(space(points), 1).tolist() == [0] * 6
    assert len(np.unique(partition_cells(space(points), 5))) == 5
    assert len(np.unique(partition_cells(space(np.zeros((20, 2))), 3))) == 1
    two = np.repeat([[0.0, 0.0], [5.0, 0.0]], 10, axis=0)
    assert partition_cells(space(two), 3).tolist() == [0] * 10 + [1] * 10
    for n_clusters in (0, 7):
        with pytest.raises(ValueError, match="Expected at least"):
            partition_cells(space(points), n_clusters)


def test_long_groups_are_not_cut():
    """k-means cuts two long parallel groups in half; groups of one shared, elongated covariance do not."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 200)
    points = rng.normal(size=(400, 3)) * [12, 1, 1]
    points[:, 1] += 8 * truth
    assert adjusted_rand_score(truth, KMeans(2, n_init=10, random_state=0).fit_predict(points)) < 0.2
    assert adjusted_rand_score(truth, partition_cells(space(points), 2)) > 0.9


def test_a_broad_group_is_not_cut_before_narrow_ones():
    """One group is five times as wide as two other groups, like ductal cells beside beta and delta cells."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [300, 300, 100])
    points = rng.normal(size=(700, 5)) * np.array([5.0, 1.0, 1.0])[truth][:, None]
    points[:, 0] += np.array([40.0, 0.0, 6.0])[truth]
    assert adjusted_rand_score(truth, KMeans(3, n_init=10, random_state=0).fit_predict(points)) < 0.8
    assert adjusted_rand_score(truth, partition_cells(space(points), 3)) > 0.95


def test_large_data_are_partitioned_through_a_sample():
    points, truth = blobs(n_cells=1500)
    assert adjusted_rand_score(truth, partition_cells(space(points), 4)) == 1


def test_judges_prefer_the_truth_and_agreement_counts_twice():
    points, truth = blobs(3, 60, 6.0)
    rng = np.random.default_rng(1)
    wrong = np.where(rng.random(180) < 0.5, truth, rng.integers(0, 3, 180))
    found = {"wrong": wrong, "truth": truth, "renamed": (truth + 1) % 3}
    scores = judge(space(points), found)
    assert scores["truth"] == scores["renamed"] > scores["wrong"]
    assert best(space(points), found) == "truth"
    # Two judges have weight 1 and the agreement has weight 2. The best of three partitions has the sum of ranks 4 * 3.
    # Ties share a rank.
    assert sum(scores.values()) == pytest.approx((1 + 2 + 3) * 4)


def test_mixture_of_equal_widths_is_the_shared_covariance_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    points, truth = blobs(3, 100, 3.0)
    likelihood, labels = fit_mixture(points, truth, "equal", 200)
    means = np.stack([points[truth == k].mean(axis=0) for k in range(3)])
    theirs = GaussianMixture(3, covariance_type="tied", means_init=means, max_iter=500, tol=1e-6, random_state=0)
    theirs.fit(points)
    assert likelihood == pytest.approx(theirs.lower_bound_, abs=5e-3)
    assert (labels == theirs.predict(points)).mean() > 0.98


def test_own_widths_are_likelier_where_widths_differ():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 300)
    points = rng.normal(size=(600, 4)) * np.array([1.0, 5.0])[truth][:, None] + 8 * truth[:, None]
    equal, own = (fit_mixture(points, truth, widths)[0] for widths in ("equal", "own"))
    assert own > equal + 0.5
    same = rng.normal(size=(600, 4)) + 8 * truth[:, None]
    equal, own = (fit_mixture(same, truth, widths)[0] for widths in ("equal", "own"))
    assert own == pytest.approx(equal, abs=0.02)


def test_smoothing_moves_a_cell_half_way_to_its_neighbours():
    points, _ = blobs(2, 30)
    cells = space(points)
    smoothed = cells.smoothed(cells.expression_graph)
    weights = cells.expression_graph.toarray()
    means = weights @ points / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(smoothed, 0.5 * points + 0.5 * means, rtol=1e-4, atol=1e-4)
