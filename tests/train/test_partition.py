import numpy as np
import pytest

from scsiameseclu.train import choose_n_clusters, initial_partition


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 40)
    return (rng.normal(size=(160, 5)) + 12 * np.eye(5)[truth]).astype(np.float32), truth


def test_separated_groups_are_found(blobs):
    z, truth = blobs
    labels = initial_partition(z, 4)
    assert len({*zip(labels, truth, strict=True)}) == 4
    assert np.array_equal(labels, initial_partition(z, 4))


def test_number_of_groups_is_found_and_its_curve_reported(blobs):
    result = choose_n_clusters(blobs[0])
    assert result.n_clusters == 4
    assert result.values[4] == max(result.values.values())
    assert result.to_state()["candidates"] == list(range(2, 26))


def test_large_data_are_sampled(blobs):
    z = np.tile(blobs[0], (20, 1)) + np.random.default_rng(1).normal(size=(3200, 5), scale=0.1)
    assert choose_n_clusters(z).n_clusters == 4


def test_few_or_identical_cells():
    assert choose_n_clusters(np.eye(3)).n_clusters == 2
    assert choose_n_clusters(np.zeros((20, 2))).n_clusters == 2
    with pytest.raises(ValueError, match="at least 3 cells"):
        choose_n_clusters(np.eye(2))
    with pytest.raises(ValueError, match="at least 5 cells"):
        initial_partition(np.eye(3), 5)
