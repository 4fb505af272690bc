"""Inverted-file search, against the comparison of all pairs."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scsiameseclu.pp import _inverted_file
from scsiameseclu.pp._exact_search import search_exact
from scsiameseclu.pp._inverted_file import search_inverted
from scsiameseclu.pp._knn import _search


def groups(n_obs, n_dims=10, n_types=12, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3.0 * rng.normal(size=(n_types, n_dims))
    return (centres[rng.integers(n_types, size=n_obs)] + rng.normal(size=(n_obs, n_dims))).astype(np.float32)


def recall(points, queries, found, k):
    """Share of the true nearest points that are among those that were found."""
    truth = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(queries)[1]
    return np.mean([len({*one} & {*other}) / k for one, other in zip(truth, found, strict=True)])


def test_finds_most_neighbours_by_comparing_few_pairs(monkeypatch):
    monkeypatch.setattr(_inverted_file, "N_PROBES", 12)
    points, pairs = groups(4000), []

    def compare(targets, queries, width):
        pairs.append(len(targets) * len(queries))
        return search_exact(targets, queries, width)

    found = search_inverted(points, points, 16, 0, compare)
    assert found.shape[0] == 4000 and found.shape[1] >= 16
    assert recall(points, points, found, 16) > 0.9
    assert sum(pairs) < 0.35 * 4000**2


def test_more_probes_find_more(monkeypatch):
    points, found = groups(2000), []
    for n_probes in (1, 4, 45):
        monkeypatch.setattr(_inverted_file, "N_PROBES", n_probes)
        found.append(recall(points, points, search_inverted(points, points, 11), 11))
    assert found[0] < found[1] < found[2] == 1.0


def test_queries_may_be_other_cells():
    points, queries = groups(1500), groups(300, seed=0)[:200] + np.float32(0.1)
    found = search_inverted(points, queries, 8)
    assert len(found) == 200 and found.max() < 1500
    assert recall(points, queries, found, 8) > 0.95


def test_the_seed_decides(monkeypatch):
    monkeypatch.setattr(_inverted_file, "N_PROBES", 2)
    points = groups(1000)
    first, again, other = (search_inverted(points, points, 6, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n_probes", [1, 32])
def test_every_query_gets_as_many_points_as_it_wants(monkeypatch, n_probes):
    """Small groups around a query are joined by further groups until there are enough points."""
    monkeypatch.setattr(_inverted_file, "N_PROBES", n_probes)
    points = groups(100)
    found = search_inverted(points, points, 60)
    assert all(len({*row[row >= 0]}) >= 60 for row in found)
    assert {*search_inverted(points, points[:3], 100)[0]} >= {*range(100)}


def test_points_in_one_place():
    points = np.repeat(groups(5), 40, axis=0)
    found = search_inverted(points, points, 30)
    assert ((found >= 0).sum(axis=1) >= 30).all()
    nearest = np.where(found >= 0, found // 40, -1)
    assert all((row[row >= 0] == cell // 40).sum() >= 30 for cell, row in enumerate(nearest))


@pytest.mark.parametrize("n_obs", [1, 2, 3])
def test_few_points(n_obs):
    points = groups(n_obs)
    found = search_inverted(points, points, n_obs)
    assert all({*range(n_obs)} == {*row} for row in found)


def test_time_of_a_large_search_is_spent_in_the_inverted_file(monkeypatch):
    from scsiameseclu.pp import _knn

    monkeypatch.setattr(_knn, "EXACT_LIMIT", 100)
    monkeypatch.setattr(_knn.torch.cuda, "is_available", lambda: False)
    points = groups(600)
    method, found = _search(points, points, 11, 0)
    assert method == "inverted file"
    assert recall(points, points, found, 11) > 0.95
