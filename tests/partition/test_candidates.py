"""Every candidate agrees with the method in its name, on data on which the methods differ."""

import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering, KMeans

from scsiameseclu.partition import Space, _candidates
from scsiameseclu.partition._candidates import candidates, leiden, leiden_at
from scsiameseclu.partition._mixture import fit_mixture
from scsiameseclu.partition._tree import MergeTree

N_CLUSTERS, SEED = 4, 3


@pytest.fixture(scope="module")
def space():
    """Overlapping groups of different shapes, with different groups in the two spaces."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 240)
    expression = rng.normal(size=(240, 18)) * np.linspace(3, 0.5, 18) + 1.5 * rng.normal(size=(6, 18))[truth]
    embedding = rng.normal(size=(240, 5)) + 1.5 * rng.normal(size=(6, 5))[truth]
    return Space(expression.astype(np.float32), embedding.astype(np.float32), SEED)


@pytest.fixture(scope="module")
def found(space):
    return candidates(space, N_CLUSTERS)


def same(one, other):
    """Whether two partitions are the same except for the numbers of the clusters."""
    return len({*zip(one, other, strict=True)}) == len(set(one)) == len(set(other))


def test_all_have_the_number_wanted_and_they_differ(found):
    assert all(len(np.unique(labels)) == N_CLUSTERS and labels.dtype == np.int64 for labels in found.values())
    names = list(found)
    distinct = [name for at, name in enumerate(names) if not any(same(found[name], found[each]) for each in names[:at])]
    assert len(distinct) >= 10


@pytest.mark.parametrize("surface", ["expression", "smoothed expression", "expression smoothed by embedding"])
def test_k_means_and_ward_of_each_surface(space, found, surface):
    points = {
        "expression": space.expression,
        "smoothed expression": space.smoothed(space.expression_graph),
        "expression smoothed by embedding": space.smoothed(space.embedding_graph),
    }[surface]
    k_means = KMeans(N_CLUSTERS, n_init=10, random_state=SEED).fit_predict(points)
    assert np.array_equal(found[f"k-means, {surface}"], k_means)
    assert np.array_equal(found[f"Ward, {surface}"], AgglomerativeClustering(N_CLUSTERS).fit_predict(points))


@pytest.mark.parametrize("view", ["expression", "embedding"])
def test_communities_and_cuts_of_each_space(space, found, view):
    points, graph = getattr(space, view), getattr(space, f"{view}_graph")
    at_number = leiden_at(graph, N_CLUSTERS, SEED)
    assert (at_number is None) == (f"Leiden, {view}" not in found)
    assert at_number is None or np.array_equal(found[f"Leiden, {view}"], at_number)
    groups = leiden(graph, 3.0, SEED)
    assert len(np.unique(groups)) > N_CLUSTERS
    for power in (0.0, 0.15, 0.3):
        cut = MergeTree(points, groups, graph, power, SEED).cut(N_CLUSTERS)[groups]
        assert np.array_equal(found[f"tree, {view}, size {power}"], cut)


def test_the_mixture_is_the_likeliest_of_three_starts(space, found):
    starts = [
        found[name] for name in ("k-means, expression", "Ward, expression", "Leiden, expression") if name in found
    ]
    fits = [fit_mixture(space.expression[:, :15], start, "equal", 60) for start in starts]
    likelihoods, labels = zip(*fits, strict=True)
    assert np.array_equal(found["mixture"], labels[int(np.argmax(likelihoods))])


@pytest.mark.parametrize("wanted", [2, 3, 7, 30])
def test_the_resolution_that_gives_the_number_is_searched_for(monkeypatch, wanted):
    asked = []

    def steps(graph, resolution, seed):
        asked.append((graph, resolution, seed))
        return np.arange(100) % min(100, 1 + int(4 * resolution))

    monkeypatch.setattr(_candidates, "leiden", steps)
    labels = leiden_at("graph", wanted, 9)
    assert len(np.unique(labels)) == wanted
    assert all(each[0] == "graph" and each[2] == 9 and 5e-4 < each[1] < 8 for each in asked)
    assert leiden_at("graph", 60, 9) is None  # beyond the resolutions that are tried


def test_a_number_that_no_resolution_gives_is_left_out(monkeypatch, space):
    monkeypatch.setattr(_candidates, "leiden_at", lambda *_: None)
    found = candidates(space, N_CLUSTERS)
    assert not any(name.startswith("Leiden") for name in found)
    assert "mixture" in found
    monkeypatch.setattr(_candidates, "leiden", lambda graph, resolution, seed: np.zeros(240, dtype=np.int64))
    assert not any(name.startswith("tree") for name in candidates(space, N_CLUSTERS))


@pytest.mark.parametrize(("n_groups", "trees"), [(N_CLUSTERS - 1, False), (N_CLUSTERS, True), (N_CLUSTERS + 3, True)])
def test_trees_are_cut_where_there_are_enough_small_groups(monkeypatch, space, n_groups, trees):
    groups = np.arange(240) % n_groups
    monkeypatch.setattr(_candidates, "leiden", lambda graph, resolution, seed: groups)
    monkeypatch.setattr(_candidates, "leiden_at", lambda *_: None)
    found = {name: labels for name, labels in candidates(space, N_CLUSTERS).items() if name.startswith("tree")}
    assert bool(found) == trees
    if n_groups == N_CLUSTERS:
        assert all(same(labels, groups) for labels in found.values())


def test_ward_of_a_sample_gives_all_other_cells_the_nearest_mean(monkeypatch):
    monkeypatch.setattr(_candidates, "_MAX_WARD_CELLS", 50)
    rng = np.random.default_rng(0)
    points = (
        rng.normal(size=(120, 3)).astype(np.float32)
        + 2 * rng.normal(size=(4, 3)).astype(np.float32)[rng.integers(0, 4, 120)]
    )
    rows = np.random.default_rng(SEED).choice(120, 50, replace=False)
    labels = AgglomerativeClustering(4).fit_predict(points[rows])
    means = np.stack([points[rows[labels == cluster]].mean(axis=0) for cluster in range(4)])
    nearest = np.square(points[:, None] - means).sum(axis=2).argmin(axis=1)
    assert np.array_equal(_candidates._ward(points, 4, SEED), nearest)


def test_communities_follow_edges_resolution_and_seed():
    blocks = np.arange(60) // 20
    graph = sparse.csr_matrix((blocks[:, None] == blocks[None]) & ~np.eye(60, dtype=bool)) * 1.0
    labels = leiden(graph, 0.1, 0)
    assert same(labels, blocks) and labels.dtype == np.int64
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 3)).astype(np.float32)
    smooth = Space(points, points, 0).expression_graph
    numbers = [leiden(smooth, resolution, 0).max() + 1 for resolution in (0.01, 0.3, 1.0, 3.0)]
    assert numbers == sorted(numbers) and numbers[-1] > 2 * numbers[1]
    assert sorted(np.unique(leiden(smooth, 3.0, 0))) == list(range(numbers[-1]))
    assert np.array_equal(leiden(smooth, 3.0, 0), leiden(smooth, 3.0, 0))
    assert not np.array_equal(leiden(smooth, 3.0, 0), leiden(smooth, 3.0, 1))
    # Edge weights are used: a weak bridge is cut, and a strong bridge is not.
    path = sparse.diags([[1.0, 1.0, 0.01, 1.0, 1.0]] * 2, [-1, 1]).tocsr()
    assert same(leiden(path, 0.3, 0), [0, 0, 0, 1, 1, 1])


def test_leiden_needs_igraph_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "leidenalg", None)  # importing leidenalg fails
    halves = sparse.block_diag([np.ones((6, 6)), np.ones((6, 6))], format="csr")
    assert leiden(halves, 1.0, 0).tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize(("n_groups", "expected"), [(N_CLUSTERS - 1, False), (N_CLUSTERS, True)])
def test_a_tree_needs_as_many_groups_as_clusters_are_wanted(monkeypatch, space, n_groups, expected):
    groups = np.arange(240, dtype=np.int64) % n_groups
    monkeypatch.setattr(_candidates, "leiden_at", lambda *_: None)
    monkeypatch.setattr(_candidates, "leiden", lambda graph, resolution, seed: groups)
    found = candidates(space, N_CLUSTERS)
    trees = [labels for name, labels in found.items() if name.startswith("tree")]
    assert bool(trees) == expected
    assert all(same(labels, groups) for labels in trees)
