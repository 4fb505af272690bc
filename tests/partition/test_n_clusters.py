"""The number of clusters, also of data without clusters."""

import numpy as np
import pytest

from scsiameseclu.partition import NClustersResult, Space, _n_clusters, choose_n_clusters
from scsiameseclu.partition._n_clusters import farthest
from scsiameseclu.partition._tree import null_separability, separability


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
    halves = (points[:, 4] > 0).astype(int)  # a direction without any difference
    assert farthest(space(points), halves) < 1.5


COMMUNITIES = {0.03: 1, 0.07: 2, 0.14: 4, 0.2: 5, 0.3: 6, 0.5: 8, 1.0: 12}


def with_communities(monkeypatch, numbers, apart):
    """Make Leiden find these numbers of communities and ``farthest`` this separability; return their arguments."""
    asked = {"leiden": [], "farthest": []}

    def leiden(graph, resolution, seed):
        asked["leiden"].append((graph, seed))
        return np.arange(graph.shape[0]) % numbers[resolution]

    def found_apart(cells, groups):
        asked["farthest"].append((cells, groups))
        return apart

    monkeypatch.setattr(_n_clusters, "leiden", leiden)
    monkeypatch.setattr(_n_clusters, "farthest", found_apart)
    return asked


@pytest.mark.parametrize(("apart", "expected"), [(0.0, 1), (1.799, 1), (1.801, 4), (9.0, 4)])
def test_the_rule(monkeypatch, apart, expected):
    """The number of communities of the embedding at resolution 0.14, or 1 if no community has a separability of 1.8."""
    rng = np.random.default_rng(0)
    cells = Space(rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(60, 3)).astype(np.float32), 7)
    asked = with_communities(monkeypatch, COMMUNITIES, apart)
    result = choose_n_clusters(cells)
    assert (result.n_clusters, result.values, result.separability) == (expected, COMMUNITIES, apart)
    assert ("one population" in result.criterion) == (expected == 1)
    assert all((graph != cells.embedding_graph).nnz == 0 and seed == 7 for graph, seed in asked["leiden"])
    ((seen, groups),) = asked["farthest"]
    assert np.array_equal(seen.embedding, cells.embedding) and groups.tolist() == [at % 4 for at in range(60)]


def test_one_community_is_one_cluster_whatever_its_separability(monkeypatch):
    with_communities(monkeypatch, dict.fromkeys(COMMUNITIES, 1), 0.0)
    result = choose_n_clusters(space(groups_of(40)))
    assert result.n_clusters == 1 and "one population" not in result.criterion


def test_two_communities_may_be_one_population(monkeypatch):
    with_communities(monkeypatch, dict.fromkeys(COMMUNITIES, 2), 1.0)
    assert choose_n_clusters(space(groups_of(40))).n_clusters == 1


@pytest.mark.parametrize(("n_cells", "expected"), [(100, 50), (60, 50), (51, 50), (20, 19)])
def test_at_most_fifty_clusters_and_fewer_than_cells(monkeypatch, n_cells, expected):
    with_communities(monkeypatch, dict.fromkeys(COMMUNITIES, 80), 5.0)
    monkeypatch.setattr(_n_clusters, "_MAX_CELLS", n_cells)
    result = choose_n_clusters(space(groups_of(max(n_cells, 100))))
    assert result.n_clusters == expected


def test_more_than_two_thousand_cells_are_sampled(monkeypatch):
    cells = space(groups_of(2300))
    asked = with_communities(monkeypatch, COMMUNITIES, 5.0)
    choose_n_clusters(cells)
    ((seen, _),) = asked["farthest"]
    rows = cells.sample(2000)
    assert len(np.unique(rows)) == 2000 and (np.diff(rows) > 0).all()
    assert np.array_equal(seen.expression, cells.expression[rows])
    assert np.array_equal(seen.embedding, cells.embedding[rows])


@pytest.mark.parametrize(("sizes", "n_large"), [([40, 30, 20, 11, 9], 4), ([60, 9, 10], 2), ([12, 9, 10, 1, 5], 3)])
def test_the_farthest_group_by_definition(sizes, n_large):
    """Groups need 10 cells, or a quarter of fewer than 40 cells; the space with the lower separability counts."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = [rng.normal(size=(len(groups), 3)) + 3 * rng.normal(size=(len(sizes), 3))[groups] for _ in range(2)]
    cells = Space(*(each.astype(np.float32) for each in points), random_state=5)
    order = np.random.default_rng(5).permutation(len(groups))
    large = sorted(np.argsort(sizes)[-n_large:])
    rows = [order[groups[order] == group] for group in large]

    def apart(one, other):
        null = null_separability(len(one) / (len(one) + len(other)))
        return min(separability(each[one], each[other]) for each in (cells.expression, cells.embedding)) / null

    nearest = [min(apart(one, other) for other in rows if other is not one) for one in rows]
    assert farthest(cells, groups) == pytest.approx(max(nearest), rel=1e-5)
