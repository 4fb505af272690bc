import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.train import choose_n_clusters, initial_partition


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 40)
    return (rng.normal(size=(160, 5)) + 12 * np.eye(5)[truth]).astype(np.float32), truth


def test_separated_groups_are_found(blobs):
    points, truth = blobs
    labels = initial_partition(points, 4)
    assert len({*zip(labels, truth, strict=True)}) == 4
    assert np.array_equal(labels, initial_partition(points, 4))


def test_the_seed_hardly_matters():
    """Overlapping groups, on which single k-means runs end in different places."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(8), 50)
    points = (rng.normal(size=(400, 4)) + 4 * rng.normal(size=(8, 4))[truth]).astype(np.float32)
    first, second = (initial_partition(points, 8, seed) for seed in (0, 1))
    assert adjusted_rand_score(first, second) > 0.99


def test_number_of_groups_is_found_and_its_curve_reported(blobs):
    result = choose_n_clusters(blobs[0])
    assert result.n_clusters == 4
    assert result.values[0.07] == 4
    assert list(result.values.values()) == sorted(result.values.values())
    assert result.to_state()["resolutions"] == [0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0]
    assert result.to_state()["n_communities"][2] == 4


def test_the_number_does_not_grow_with_the_cells():
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(4000, 5)) + 12 * np.eye(5)[np.arange(4000) % 4]).astype(np.float32)
    assert choose_n_clusters(points).n_clusters == choose_n_clusters(points[:400]).n_clusters == 4


def test_few_or_identical_cells():
    assert choose_n_clusters(np.eye(3)).n_clusters == 2
    assert 2 <= choose_n_clusters(np.zeros((20, 2))).n_clusters < 20
    assert len(np.unique(initial_partition(np.random.default_rng(0).normal(size=(6, 2)), 5))) == 5
    assert initial_partition(np.zeros((20, 2)), 3).shape == (20,)
    with pytest.raises(ValueError, match="at least 3 cells"):
        choose_n_clusters(np.eye(2))
    with pytest.raises(ValueError, match="at least 5 cells"):
        initial_partition(np.eye(3), 5)


def test_long_groups_are_not_cut():
    """k-means halves two long parallel groups across; groups of one shared, elongated covariance follow them."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 200)
    points = rng.normal(size=(400, 3)) * [12, 1, 1]
    points[:, 1] += 8 * truth
    points = points.astype(np.float32)
    assert adjusted_rand_score(truth, KMeans(2, n_init=10, random_state=0).fit_predict(points)) < 0.2
    assert adjusted_rand_score(truth, initial_partition(points, 2)) > 0.95


def test_large_data_are_partitioned_through_a_sample():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 1500)
    points = (rng.normal(size=(6000, 5)) + 12 * np.eye(5)[truth]).astype(np.float32)
    assert adjusted_rand_score(truth, initial_partition(points, 4)) == 1
