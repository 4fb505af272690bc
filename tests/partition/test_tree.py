"""The tree of merges by relative separability."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import norm, truncnorm

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
    tree = MergeTree(points, groups, sparse.csr_matrix(np.ones((400, 400))), 0.0)
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
    assert MergeTree(points, groups, sparse.csr_matrix(linked.astype(float)), 0.0).cut(2).tolist() == [0, 1, 1]


def test_without_edges_the_nearest_groups_merge_first():
    """The rule also holds after a merge, if the merged group is the nearest group of a third group."""
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3], 50)
    points = rng.normal(size=(200, 2)) + np.array([0.0, 3.0, 9.0, 30.0])[groups][:, None]
    tree = MergeTree(points, groups, linked_groups(groups, []), 0.0)
    assert tree.cut(3).tolist() == [0, 0, 1, 2]
    assert tree.cut(2).tolist() == [0, 0, 0, 1]


def naive_merges(points, groups, graph, size_power=0.0, random_state=0, within=None, at_most=400):
    """Definition of the tree: merge the least separable of all pairs that may be merged, until one group is left."""
    order = np.random.default_rng(random_state).permutation(len(points))
    rows = {group: order[groups[order] == group] for group in range(groups.max() + 1)}
    cluster = dict.fromkeys(rows, 0) if within is None else dict(enumerate(within))
    linked = graph.toarray() > 0
    merges = []

    def score(pair):
        first, second = (rows[group] for group in pair)
        sizes = len(first), len(second)
        apart = separability(points[first[:at_most]], points[second[:at_most]]) / null_separability(
            sizes[0] / sum(sizes)
        )
        return apart * (min(sizes) / len(points)) ** size_power

    while len(rows) > 1:
        pairs = [(i, j) for i in sorted(rows) for j in sorted(rows) if i < j]
        allowed = [(i, j) for i, j in pairs if cluster[i] == cluster[j]] or pairs
        allowed = [(i, j) for i, j in allowed if linked[np.ix_(rows[i], rows[j])].any()] or allowed
        kept, gone = min(allowed, key=score)
        merges.append((kept, gone))
        both = np.concatenate([rows[kept], rows.pop(gone)])
        rows[kept] = order[np.isin(order, both)]
    return merges


def scattered(n_groups, n_each, seed, spread=4.0):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n_groups), n_each))
    return rng.normal(size=(len(groups), 3)) + spread * rng.normal(size=(n_groups, 3))[groups], groups


def linked_groups(groups, pairs):
    """A graph with edges between all cells of the groups of each pair."""
    edges = groups[:, None] == groups[None]
    for one, other in pairs:
        edges |= (groups[:, None] == one) & (groups[None] == other)
    return sparse.csr_matrix((edges | edges.T).astype(float))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("within", [None, [0, 1, 0, 1, 0, 1, 2]], ids=["any", "within clusters"])
@pytest.mark.parametrize(
    "pairs",
    [
        [(i, j) for i in range(7) for j in range(i)],
        [(0, 1), (3, 2), (4, 0), (5, 6)],
        [(0, 2), (5, 1), (2, 6)],
        [],
    ],
    ids=["all linked", "two components", "four components", "none linked"],
)
def test_the_tree_is_its_definition(seed, within, pairs):
    points, groups = scattered(7, 30, seed)
    graph = linked_groups(groups, pairs)
    for power in (0.0, 0.3):
        tree = MergeTree(points, groups, graph, power, seed, within=within)
        assert tree.merges == naive_merges(points, groups, graph, power, seed, within)


def test_groups_of_uneven_size_are_measured_on_their_first_cells(monkeypatch):
    monkeypatch.setattr("scsiameseclu.partition._tree._MAX_CELLS", 20)
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(6), [10, 60, 15, 40, 25, 50]))
    points = rng.normal(size=(200, 3)) + 2 * rng.normal(size=(6, 3))[groups]
    graph = linked_groups(groups, [(i, j) for i in range(6) for j in range(i)])
    for power in (0.0, 0.15, 1.0):
        assert MergeTree(points, groups, graph, power, 5).merges == naive_merges(
            points, groups, graph, power, 5, at_most=20
        )


def test_trees_that_share_separabilities_are_the_same():
    points, groups = scattered(7, 30, 0)
    graph = linked_groups(groups, [(i, j) for i in range(7) for j in range(i)])
    known = {}
    for power in (0.0, 0.3, 0.15):
        alone = MergeTree(points, groups, graph, power, 1)
        assert MergeTree(points, groups, graph, power, 1, known).merges == alone.merges
    assert len(known) >= 21  # pairs of seven groups and of merged groups


def by_definition(first, second):
    """Separability, step by step: the axis from one half of the cells, applied to the other half."""
    found = []
    for fit, test in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        sides = [first, second]
        if min(len(cells[part]) for cells in sides for part in (fit, test)) < 2:
            fit = test = slice(None)
        within = sum((len(cells[fit])) * np.cov(cells[fit].T, ddof=0) for cells in sides)
        within = within / (sum(len(cells[fit]) for cells in sides) - 2)
        round_one = np.eye(len(within)) * np.trace(within) / len(within)
        difference = first[fit].mean(axis=0) - second[fit].mean(axis=0)
        axis = np.linalg.solve(0.7 * within + 0.3 * round_one, difference)
        scores = [cells[test] @ axis for cells in sides]
        found.append((scores[0].mean() - scores[1].mean()) / (scores[0].std() + scores[1].std()))
    return np.mean(found)


@pytest.mark.parametrize(("n_first", "n_second"), [(40, 40), (101, 13), (4, 4), (3, 40), (3, 3)])
def test_separability_is_its_definition(n_first, n_second):
    rng = np.random.default_rng(n_first)
    first = rng.normal(size=(n_first, 3)) * [1.0, 2.0, 0.5]
    second = rng.normal(size=(n_second, 3)) * [3.0, 1.0, 0.5] + [2.0, 0.0, 1.0]
    assert separability(first, second) == pytest.approx(by_definition(first, second), rel=1e-6)
    assert separability(second, first) == pytest.approx(separability(first, second))


def test_cells_that_do_not_differ_have_a_finite_separability():
    same = np.zeros((10, 3))
    assert separability(same, same) == 0.0
    assert np.isfinite(separability(same, same + 1.0)) and separability(same, same + 1.0) > 100
    assert np.isfinite(separability(same[:1], same[:1]))


@pytest.mark.parametrize("share", [0.5, 0.03, 1e-3, 1.2e-4, 1e-4])
def test_null_by_moments_of_truncated_normal_distributions(share):
    cut = norm.isf(share)
    upper, lower = truncnorm(cut, np.inf), truncnorm(-np.inf, cut)
    expected = (upper.mean() - lower.mean()) / (upper.std() + lower.std())
    assert null_separability(share) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1.0])
def test_null_of_a_share_out_of_range_is_that_of_the_rarest(share):
    assert null_separability(share) == pytest.approx(null_separability(1e-4))
    assert null_separability(1e-4) > null_separability(2e-4) > null_separability(0.5)
