import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.train import _partition, choose_n_clusters, initial_partition
from scsiameseclu.train._partition import merge_groups


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


def test_a_large_type_is_not_split_in_favour_of_small_ones():
    """The case for which communities are merged by distance: sizes 600, 30 and 15."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [600, 30, 15])
    points = (rng.normal(size=(645, 6)) + 15 * np.eye(6)[truth]).astype(np.float32)
    labels = initial_partition(points, 3)
    assert sorted(np.bincount(labels)) == [15, 30, 600]


def test_merging_follows_the_formula():
    points = np.array([[0.0], [0.2], [3.0], [3.1], [10.0]], dtype=np.float32)
    groups = np.arange(5)
    assert merge_groups(points, groups, 3).tolist() == [0, 0, 1, 1, 2]
    assert merge_groups(points, groups, 2).tolist() == [0, 0, 0, 0, 1]
    assert merge_groups(points, groups, 5).tolist() == [0, 1, 2, 3, 4]


def test_mass_exponent_trades_outliers_against_halves_of_large_groups():
    points = np.concatenate([np.full(100, -1.0), np.full(100, 1.0), [4.0]]).astype(np.float32)[:, None]
    groups = np.repeat([0, 1, 2], [100, 100, 1])
    by_distance = merge_groups(points, groups, 2, mass_exponent=0.0)
    by_variance = merge_groups(points, groups, 2, mass_exponent=1.0)
    assert by_distance[0] == by_distance[100] != by_distance[200]
    assert by_variance[0] != by_variance[100] == by_variance[200]


def test_number_of_groups_is_found_and_its_curve_reported(blobs):
    result = choose_n_clusters(blobs[0])
    assert result.n_clusters == 4
    assert result.values[0.1] == 4
    assert list(result.values.values()) == sorted(result.values.values())
    assert result.to_state()["resolutions"] == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert result.to_state()["n_communities"][2] == 4


def test_the_number_does_not_grow_with_the_cells():
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(4000, 5)) + 12 * np.eye(5)[np.arange(4000) % 4]).astype(np.float32)
    assert choose_n_clusters(points).n_clusters == choose_n_clusters(points[:400]).n_clusters == 4


def test_enough_communities_are_preferred_to_a_closer_number(monkeypatch):
    """Counts of communities jump from 3 to 9: with 5 asked for and 4 needed, 9 serves and 3, though closer, does not."""
    monkeypatch.setattr(
        _partition, "_leiden", lambda graph, resolution, seed: np.arange(20) % (3 if resolution < 0.5 else 9)
    )
    graph = sparse.csr_matrix((20, 20))
    assert _partition._leiden_at(graph, 5, 4, 0).max() + 1 == 9
    assert _partition._leiden_at(graph, 5, 3, 0).max() + 1 == 3


def test_few_or_identical_cells():
    assert choose_n_clusters(np.eye(3)).n_clusters == 2
    assert 2 <= choose_n_clusters(np.zeros((20, 2))).n_clusters < 20
    assert len(np.unique(initial_partition(np.random.default_rng(0).normal(size=(6, 2)), 5))) == 5
    assert initial_partition(np.zeros((20, 2)), 3).shape == (20,)
    with pytest.raises(ValueError, match="at least 3 cells"):
        choose_n_clusters(np.eye(2))
    with pytest.raises(ValueError, match="at least 5 cells"):
        initial_partition(np.eye(3), 5)
