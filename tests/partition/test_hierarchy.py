"""The tree above and below the clusters."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import norm
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.partition import Space, _hierarchy, _splits
from scsiameseclu.partition._candidates import leiden
from scsiameseclu.partition._hierarchy import Hierarchy, from_state, grow, small_groups, to_state
from scsiameseclu.partition._splits import carriers, describe, measure, p_value_of
from scsiameseclu.partition._tree import MergeTree, null_separability, separability


def blobs(centers, n_each=150, seed=0, n_dims=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(centers)), n_each)
    points = rng.normal(size=(len(labels), n_dims))
    points[:, :2] += np.asarray(centers, dtype=float)[labels]
    points = points.astype(np.float32)
    return Space(points, points, 0), labels


@pytest.fixture(scope="module")
def grown():
    """Two clusters of two groups each; the groups of a cluster are farther apart than the clusters."""
    space, labels = blobs([(0, 0), (16, 0), (0, 8), (16, 8)])
    hierarchy, groups = grow(space, labels // 2)
    return space, labels, hierarchy, groups


def test_merges_stay_within_clusters_until_these_stand():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 100)
    points = rng.normal(size=(400, 3)) + np.array([0.0, 3.0, 6.0, 40.0])[groups][:, None]
    graph = sparse.csr_matrix(np.ones((400, 400)))
    assert MergeTree(points, groups, graph, 0.0).cut(2).tolist() == [0, 0, 0, 1]
    tree = MergeTree(points, groups, graph, 0.0, within=np.array([0, 1, 0, 1]))
    assert tree.cut(2).tolist() == [0, 1, 0, 1]
    # The groups of a cluster are merged even if no edge joins them.
    linked = groups[:, None] == groups[None]
    assert MergeTree(points, groups, sparse.csr_matrix(linked * 1.0), 0.0, within=[0, 1, 0, 1]).cut(2).tolist() == [
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
    assert tree.cut_at([0.01, 0.5, 0.5], 0.05).tolist() == [0, 1, 2, 2]  # a split above a significant split is kept
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


@pytest.fixture(scope="module")
def overlapping():
    """Overlapping groups of uneven size in both spaces, and clusters that cut across the communities."""
    rng = np.random.default_rng(1)
    truth = rng.permutation(np.repeat(np.arange(5), [200, 120, 60, 30, 6]))
    spaces = [rng.normal(size=(416, 4)) + 3 * rng.normal(size=(5, 4))[truth] for _ in range(2)]
    return Space(*(each.astype(np.float32) for each in spaces), random_state=2), np.where(truth == 1, 0, truth)


def nearest_of_own(points, clusters, centers, owners):
    """Nearest centre among the groups of a cell's own cluster, by definition."""
    distances = np.square(points[:, None] - centers).sum(axis=2)
    return np.where(clusters[:, None] == owners, distances, np.inf).argmin(axis=1)


@pytest.mark.parametrize("per_group", [200, 20], ids=["ten cells", "one part in twenty"])
def test_small_groups_by_definition(overlapping, monkeypatch, per_group):
    """Groups are communities at resolution 3 within each cluster; pieces that are too small join other groups."""
    monkeypatch.setattr(_hierarchy, "_MAX_GROUPS", per_group)
    space, clusters = overlapping
    groups, centers = small_groups(space, clusters)
    fine = leiden(space.embedding_graph, 3.0, 2)
    at_least = max(10, 416 // per_group)
    expected, owners = [], []
    for cluster in np.unique(clusters):
        pieces = [(clusters == cluster) & (fine == piece) for piece in np.unique(fine)]
        pieces = [piece for piece in pieces if piece.sum() >= at_least] or [clusters == cluster]
        expected += [space.embedding[piece].mean(axis=0) for piece in pieces]
        owners += [cluster] * len(pieces)
    assert len(expected) > len(np.unique(clusters)) and owners.count(4) == 1
    nearest = nearest_of_own(space.embedding, clusters, np.array(expected), np.array(owners))
    assert np.array_equal(nearest, np.unique(nearest)[groups])
    np.testing.assert_allclose(centers, np.array(expected)[np.unique(nearest)], rtol=1e-5)
    assert np.array_equal(np.unique(groups), np.arange(len(centers)))


@pytest.mark.parametrize(("n_obs", "smallest"), [(400, 10), (2000, 10), (2600, 13)])
def test_a_small_group_has_ten_cells_and_one_part_in_two_hundred(monkeypatch, n_obs, smallest):
    points = np.random.default_rng(0).normal(size=(n_obs, 2)).astype(np.float32)
    space = Space(points, points, 0)
    space.__dict__["embedding_graph"] = None  # must not be read
    for size, n_groups in ((smallest - 1, 1), (smallest, 2)):
        monkeypatch.setattr(_hierarchy, "leiden", lambda *_, size=size: (np.arange(n_obs) < size).astype(int))
        points[:size] = 9.0
        assert len(small_groups(space, np.zeros(n_obs, dtype=int))[1]) == n_groups


def test_a_tree_is_that_of_its_small_groups(overlapping):
    space, clusters = overlapping
    hierarchy, groups = grow(space, clusters)
    again, centers = small_groups(space, clusters)
    assert np.array_equal(groups, again) and np.array_equal(hierarchy.centers, centers)
    assert np.array_equal(hierarchy.sizes, np.bincount(groups))
    assert np.array_equal(hierarchy.clusters[groups], clusters)
    tree = MergeTree(space.embedding, groups, space.embedding_graph, 0.15, 2, within=hierarchy.clusters)
    for n_clusters in range(1, hierarchy.n_groups + 1):
        assert np.array_equal(hierarchy.cut(n_clusters), tree.cut(n_clusters))
    assert np.array_equal(np.unique(hierarchy.children), np.arange(2 * hierarchy.n_groups - 2))


def test_cells_of_a_cluster_without_a_small_group_go_to_the_nearest_of_all(grown):
    hierarchy = grown[2]
    points = np.array([[16.2, 7.9, 0, 0, 0, 0], [0.1, 0.2, 0, 0, 0, 0]])
    nearest = np.square(points[:, None] - hierarchy.centers).sum(axis=2).argmin(axis=1)
    assert hierarchy.assign(points, np.array([7, 7])).tolist() == nearest.tolist()
    found = hierarchy.assign(points, np.array([0, 1]))  # computed relative to the nearest cluster
    assert hierarchy.clusters[found].tolist() == [0, 1]


def test_a_split_is_described_by_what_is_on_its_sides(overlapping):
    space, clusters = overlapping
    hierarchy, groups = grow(space, clusters)
    expression = np.random.default_rng(0).normal(size=(416, 14))
    names = [f"g{at}" for at in range(12)]  # names of the first columns
    splits = describe(hierarchy, groups, space, expression, names, n_draws=9)
    order = np.random.default_rng(2).permutation(416)
    nodes = {split["node"]: split for split in splits}
    root = 2 * hierarchy.n_groups - 2
    assert [split["node"] for split in splits] == list(range(root, hierarchy.n_groups - 1, -1))
    for split in splits:
        sides = [order[np.isin(groups[order], hierarchy.members(split[side]))] for side in ("left", "right")]
        assert (split["n_left"], split["n_right"]) == tuple(map(len, sides))
        assert (split["separability"], split["p_value"]) == measure(space, *sides, 9)
        assert split["genes"] == carriers(expression, *sides, names)
        if split["node"] == root:
            assert split["parent"] is None
        else:
            assert split["node"] in (nodes[split["parent"]]["left"], nodes[split["parent"]]["right"])
    assert all(split["genes"] == {} for split in describe(hierarchy, groups, space, n_draws=1))


@pytest.mark.parametrize(("n_first", "n_second"), [(60, 300), (250, 450), (500, 40)])
def test_separability_and_p_value_of_a_split_by_definition(n_first, n_second):
    """The separability uses the first 400 cells of a side, the p value the first 200, and both the worse space."""
    rng = np.random.default_rng(n_first)
    sides = np.arange(n_first), n_first + np.arange(n_second)
    spaces = [rng.normal(size=(n_first + n_second, 3)) for _ in range(2)]
    spaces[0][sides[1], 0] += 2.0
    spaces[1][sides[1], 1] += 2.5
    space = Space(*(each.astype(np.float32) for each in spaces), random_state=4)
    share = n_first / (n_first + n_second)
    points = [each.astype(np.float64) for each in (space.expression, space.embedding)]
    apart = [separability(each[sides[0][:400]], each[sides[1][:400]]) for each in points]
    p_values = [p_value_of(each[sides[0][:200]], each[sides[1][:200]], share, 19, 4) for each in points]
    found, p_value = measure(space, *sides, 19)
    assert found == pytest.approx(min(apart) / null_separability(share), rel=1e-6)
    assert p_value == max(p_values)


def test_drawing_ends_at_the_fifth_draw_above(monkeypatch):
    """Then the p value is 5 divided by the number of draws; otherwise the observed value counts as one more draw."""
    drawn = []
    monkeypatch.setattr(_splits, "separability", lambda *_: drawn.pop(0))
    first = second = np.random.default_rng(0).normal(size=(10, 2))

    def p_value(found, draws):
        drawn[:] = [found, *draws]
        return p_value_of(first, second, 0.5, len(draws), 0)

    # Separabilities of draws are multiplied by 1.6, so 0.625 counts as 1.
    assert p_value(1.0, [0.62] * 99) == 0.01
    assert p_value(1.0, [0.625] * 2 + [0.62] * 97) == 0.03
    assert p_value(1.0, [0.7] * 4 + [0.1] * 95) == 0.05
    assert p_value(1.0, [0.7, 0.1] * 5 + [0.1] * 89) == pytest.approx(5 / 9)
    assert len(drawn) == 90
    assert p_value(1.0, [0.7] * 99) == 1.0


def test_the_population_of_the_draws_has_the_covariance_of_both_groups():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(300, 3)) @ np.diag([1.0, 2.0, 0.5]) + [3, 0, 0]
    second = rng.normal(size=(100, 3)) @ np.array([[1.0, 0.5, 0], [0, 1.0, 0], [0, 0, 1.0]]) - [1, 1, 0]
    joint = np.cov(np.concatenate([first, second]).T, ddof=0)
    expected = np.sqrt(np.linalg.eigvalsh(joint)[::-1])
    np.testing.assert_allclose(_splits._spreads(first, second, 0.75), expected, rtol=1e-6)
    # Groups are samples, so their shares are used instead of their numbers of cells.
    np.testing.assert_allclose(_splits._spreads(first, second[:100], 0.75), expected, rtol=1e-6)
    assert _splits._spreads(first[:, :1], second[:, :1], 0.75).shape == (1,)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_draws_are_one_population_cut_across_its_longest_axis(share):
    spreads = np.array([3.0, 1.0, 0.5])
    rng = np.random.default_rng(0)
    upper, lower = _splits._one_population(spreads, 4000, 6000, share, rng)
    assert upper.shape == (4000, 3) and lower.shape == (6000, 3)
    cut = 3.0 * norm.ppf(1 - share)
    assert upper[:, 0].min() >= cut >= lower[:, 0].max()
    assert min(abs(upper[:, 0].min() - cut), abs(lower[:, 0].max() - cut)) < 0.05
    # All groups together, in their shares, are normal with these standard deviations.
    weights = np.repeat([share / 4000, (1 - share) / 6000], [4000, 6000])
    both = np.concatenate([upper, lower])
    np.testing.assert_allclose(weights @ both, 0.0, atol=0.1)
    np.testing.assert_allclose(np.sqrt(weights @ np.square(both)), spreads, rtol=0.05)
    for side in (upper, lower):
        np.testing.assert_allclose(side[:, 1:].std(axis=0), spreads[1:], rtol=0.05)


def test_carriers_by_definition():
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(900, 15)) * np.linspace(0.2, 2, 15)
    expression[450:] += rng.normal(size=15)
    first, second = rng.permutation(450), 450 + rng.permutation(450)
    names = [f"g{at}" for at in range(13)]
    one, other = expression[first[:400], :13], expression[second[:400], :13]
    spread = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 2) + 0.1
    difference = (one.mean(axis=0) - other.mean(axis=0)) / spread
    order = np.argsort(-np.abs(difference))[:10]
    found = carriers(expression, first, second, names)
    assert list(found) == [names[at] for at in order]
    np.testing.assert_allclose(list(found.values()), difference[order])


def test_the_topmost_split_of_groups_that_are_no_node():
    """Groups that were merged into one cluster may lie in different parts of the tree."""
    children = np.array([[0, 1], [2, 3], [5, 4], [6, 7]])
    tree = Hierarchy(np.zeros((5, 2), np.float32), np.zeros(5, int), np.ones(5, int), children)
    for groups, expected in (([0, 1], ([0], [1])), ([1, 4], ([1], [4])), ([1, 3, 4], ([3], [1, 4])), ([2], None)):
        found = tree.topmost_split(np.array(groups))
        assert found is None if expected is None else tuple(side.tolist() for side in found) == expected
