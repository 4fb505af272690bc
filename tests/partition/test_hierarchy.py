"""The tree over the clusters and below them."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.partition import Space
from scsiameseclu.partition._hierarchy import (
    Hierarchy,
    carriers,
    describe,
    from_state,
    grow,
    measure,
    p_value_of,
    to_state,
)
from scsiameseclu.partition._tree import MergeTree


def blobs(centers, n_each=150, seed=0, n_dims=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(centers)), n_each)
    points = rng.normal(size=(len(labels), n_dims))
    points[:, :2] += np.asarray(centers, dtype=float)[labels]
    points = points.astype(np.float32)
    return Space(points, points, 0), labels


@pytest.fixture(scope="module")
def grown():
    """Two clusters, each of two groups far apart from one another, and clusters that are closer than that."""
    space, labels = blobs([(0, 0), (16, 0), (0, 8), (16, 8)])
    hierarchy, groups = grow(space, labels // 2)
    return space, labels, hierarchy, groups


def test_merges_stay_within_clusters_until_these_stand():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 100)
    points = rng.normal(size=(400, 3)) + np.array([0.0, 3.0, 6.0, 40.0])[groups][:, None]
    graph = sparse.csr_matrix(np.ones((400, 400)))
    assert MergeTree(points, groups, graph).cut(2).tolist() == [0, 0, 0, 1]
    tree = MergeTree(points, groups, graph, within=np.array([0, 1, 0, 1]))
    assert tree.cut(2).tolist() == [0, 1, 0, 1]
    # Also where no edge joins the groups of a cluster.
    linked = groups[:, None] == groups[None]
    assert MergeTree(points, groups, sparse.csr_matrix(linked * 1.0), within=[0, 1, 0, 1]).cut(2).tolist() == [
        0,
        1,
        0,
        1,
    ]


def test_the_tree_passes_through_the_partition(grown):
    _, labels, hierarchy, groups = grown
    assert hierarchy.n_groups > 4
    assert adjusted_rand_score(labels // 2, hierarchy.cut(2)[groups]) == 1.0
    assert adjusted_rand_score(labels, hierarchy.cut(4)[groups]) > 0.95
    assert hierarchy.cut(1).max() == 0


def test_cuts_are_nested(grown):
    hierarchy = grown[2]
    for n_clusters in range(1, hierarchy.n_groups):
        coarse, fine = hierarchy.cut(n_clusters), hierarchy.cut(n_clusters + 1)
        assert coarse.max() + 1 == n_clusters
        assert all(len(np.unique(coarse[fine == cluster])) == 1 for cluster in np.unique(fine))
    with pytest.raises(ValueError, match="found 0"):
        hierarchy.cut(0)
    with pytest.raises(ValueError, match=f"from 1 to {hierarchy.n_groups}"):
        hierarchy.cut(hierarchy.n_groups + 1)


def test_cells_are_assigned_as_in_the_tree(grown):
    space, labels, hierarchy, groups = grown
    assert (hierarchy.assign(space.embedding, labels // 2) == groups).all()
    assert (np.bincount(groups) == hierarchy.sizes).all()


def test_real_splits_are_significant_and_others_are_not(grown):
    space, labels, hierarchy, groups = grown
    splits = describe(hierarchy, groups, space)
    assert [split["n_clusters"] for split in splits] == list(range(2, hierarchy.n_groups + 1))
    assert all(split["p_value"] <= 0.05 for split in splits[:3])
    assert all(split["p_value"] > 0.2 for split in splits[3:])
    assert splits[0]["parent"] is None and splits[0]["n_left"] + splits[0]["n_right"] == space.n_obs
    cut = hierarchy.cut_at([split["p_value"] for split in reversed(splits)], 0.05)
    assert adjusted_rand_score(labels, cut[groups]) > 0.95


def test_significance_works_from_the_bottom():
    children = np.array([[0, 1], [2, 3], [4, 5]])
    tree = Hierarchy(np.zeros((4, 2), np.float32), np.zeros(4, int), np.ones(4, int), children)
    assert tree.cut_at([0.5, 0.5, 0.5], 0.05).tolist() == [0, 0, 0, 0]
    assert tree.cut_at([0.5, 0.5, 0.01], 0.05).tolist() == [0, 0, 1, 1]
    assert tree.cut_at([0.01, 0.5, 0.5], 0.05).tolist() == [0, 1, 2, 2]  # above a significant split, another stays
    first, second = tree.topmost_split(np.array([0, 2, 3]))
    assert first.tolist() == [0] and second.tolist() == [2, 3]
    assert tree.topmost_split(np.array([3])) is None


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_one_population_cut_in_two_is_not_significant(share):
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(20):
        points = rng.normal(size=(400, 10)) * np.linspace(3, 1, 10)
        upper = points[:, 0] > np.quantile(points[:, 0], 1 - share)
        p_values.append(p_value_of(points[upper], points[~upper], share, 19, 0))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05
    assert p_value_of(points[:3], points[3:], 0.01, 19, 0) == 1.0


def test_the_less_separate_space_decides():
    space, labels = blobs([(0, 0), (12, 0)])
    noise = np.random.default_rng(1).normal(size=space.embedding.shape).astype(np.float32)
    order = np.random.default_rng(2).permutation(space.n_obs)
    sides = order[labels[order] == 0], order[labels[order] == 1]
    found, p_value = measure(space, *sides)
    assert found > 2 and p_value == pytest.approx(0.01)
    found, p_value = measure(Space(space.expression, noise, 0), *sides)
    assert found < 0.5 and p_value > 0.5


def test_carriers_have_a_direction():
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(200, 30)).astype(np.float32)
    expression[:100, 3] += 5
    expression[100:, 7] += 3
    found = carriers(expression, np.arange(100), np.arange(100, 200), [f"g{i}" for i in range(30)])
    assert list(found)[:2] == ["g3", "g7"] and len(found) == 10
    assert found["g3"] > 0 > found["g7"]


def test_state_is_builtins_and_comes_back(grown):
    hierarchy = grown[2]
    state = to_state(hierarchy)
    again = from_state(state)
    for name in ("centers", "clusters", "sizes", "children"):
        assert type(state[name]) is list
        assert np.array_equal(getattr(again, name), getattr(hierarchy, name))


def test_few_cells_are_one_group():
    space, labels = blobs([(0, 0)], n_each=8)
    hierarchy, groups = grow(space, labels)
    assert hierarchy.n_groups == 1 and (groups == 0).all()
    assert describe(hierarchy, groups, space) == []
    assert from_state(to_state(hierarchy)).cut(1).tolist() == [0]
