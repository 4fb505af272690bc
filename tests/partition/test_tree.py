"""The tree of merges by relative separability."""

import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.partition._tree import MergeTree, null_separability, separability


def test_separability_does_not_depend_on_width_or_direction():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(400, 4)), rng.normal(size=(400, 4)) + [6, 0, 0, 0]
    expected = separability(first, second)
    assert expected == pytest.approx(3.0, rel=0.1)  # a distance of 6 over standard deviations of 1 and 1
    assert separability(5 * first, 5 * second) == pytest.approx(expected)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert separability(first @ turned, second @ turned) == pytest.approx(expected)
    wide = rng.normal(size=(400, 4)) * 3
    assert separability(first, wide + [12, 0, 0, 0]) == pytest.approx(3.0, rel=0.1)


def test_chance_differences_do_not_separate():
    rng = np.random.default_rng(0)
    values = [separability(rng.normal(size=(30, 20)), rng.normal(size=(30, 20))) for _ in range(40)]
    assert abs(np.mean(values)) < 0.1


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_null_is_one_normal_population_cut_in_two(share):
    values = np.random.default_rng(0).normal(size=400_000)
    upper = values > np.quantile(values, 1 - share)
    one, two = values[upper], values[~upper]
    found = (one.mean() - two.mean()) / (one.std() + two.std())
    assert null_separability(share) == pytest.approx(found, rel=0.02)
    assert null_separability(1 - share) == pytest.approx(null_separability(share))


def test_groups_merge_in_the_order_of_their_separability():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3], 100)
    points = rng.normal(size=(400, 3)) + np.array([0.0, 3.0, 20.0, 26.0])[groups][:, None]
    tree = MergeTree(points, groups, sparse.csr_matrix(np.ones((400, 400))))
    assert tree.cut(4).tolist() == [0, 1, 2, 3]
    assert tree.cut(3).tolist() == [0, 0, 1, 2]
    assert tree.cut(2).tolist() == [0, 0, 1, 1]
    assert tree.cut(1).tolist() == [0, 0, 0, 0]
    for n_clusters in (0, 5):
        with pytest.raises(ValueError, match="Expected from 1 to 4 clusters"):
            tree.cut(n_clusters)


def test_a_power_of_the_size_merges_small_groups_first():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [300, 300, 12])
    points = rng.normal(size=(612, 3))
    points[:, 0] += np.array([0.0, 5.0, 15.0])[groups]
    graph = sparse.csr_matrix(np.ones((612, 612)))
    assert MergeTree(points, groups, graph, 0.0).cut(2).tolist() == [0, 0, 1]
    assert MergeTree(points, groups, graph, 1.0).cut(2).tolist() == [0, 1, 1]


def test_groups_without_a_common_edge_merge_last():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 50)
    points = rng.normal(size=(150, 2)) + np.array([0.0, 1.0, 3.0])[groups][:, None]
    linked = (groups[:, None] == groups[None]) | ((groups[:, None] > 0) & (groups[None] > 0))
    assert MergeTree(points, groups, sparse.csr_matrix(linked.astype(float))).cut(2).tolist() == [0, 1, 1]
