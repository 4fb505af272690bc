"""The number of clusters, and none."""

import numpy as np
import pytest

from scsiameseclu.partition import NClustersResult, Space, choose_n_clusters
from scsiameseclu.partition._n_clusters import farthest


def space(points):
    points = np.asarray(points, dtype=np.float32)
    return Space(points, points, 0)


def groups_of(n_cells, n_groups=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_cells, 5)) + 12 * np.eye(5)[np.arange(n_cells) % n_groups]


def test_number_of_groups_is_found_and_its_evidence_reported():
    result = choose_n_clusters(space(groups_of(160)))
    assert result.n_clusters == 4
    assert result.values[0.14] == 4
    assert list(result.values.values()) == sorted(result.values.values())
    assert result.separability > 3
    state = result.to_state()
    assert state["resolutions"] == [0.03, 0.07, 0.14, 0.2, 0.3, 0.5, 1.0]
    assert NClustersResult.from_state(state) == result
    del state["separability"]  # of an earlier version
    assert NClustersResult.from_state(state).separability == 0.0


def test_the_number_does_not_grow_with_the_cells():
    points = groups_of(4000)
    assert choose_n_clusters(space(points)).n_clusters == choose_n_clusters(space(points[:400])).n_clusters == 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_cells", [100, 1500])
def test_one_population_is_one_cluster(seed, n_cells):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_cells, 10)) * np.linspace(3, 1, 10)
    assert choose_n_clusters(space(points)).n_clusters == 1


def test_few_or_identical_cells():
    assert choose_n_clusters(space(np.zeros((20, 2)))).n_clusters == 1
    assert 1 <= choose_n_clusters(space(np.eye(3))).n_clusters < 3
    with pytest.raises(ValueError, match="at least 3 cells"):
        choose_n_clusters(space(np.eye(2)))


def test_distance_of_the_farthest_group_is_that_to_its_nearest():
    points = groups_of(300, 3)
    labels = np.arange(300) % 3
    assert farthest(space(points), labels) > 3
    assert farthest(space(points), np.zeros(300, dtype=int)) == 0.0
    halves = (points[:, 4] > 0).astype(int)  # a direction in which nothing differs
    assert farthest(space(points), halves) < 1.5
