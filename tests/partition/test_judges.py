"""The values of each judge, and the sum of their ranks."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.partition import Space, _judges, partition_cells
from scsiameseclu.partition._judges import best, judge, judge_values, sum_of_ranks
from scsiameseclu.partition._mixture import fit_mixture


def make(n_cells=120, seed=0):
    """Two spaces in which three partitions have different ranks."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n_cells)
    expression = rng.normal(size=(n_cells, 20)) + 2 * rng.normal(size=(3, 20))[truth]
    expression[:, 15:] += 10 * rng.integers(0, 3, n_cells)[:, None]  # no judge may read these columns
    embedding = rng.normal(size=(n_cells, 4)) * np.array([1.0, 3.0, 2.0])[truth][:, None]
    embedding += 4 * rng.normal(size=(3, 4))[truth]
    found = {name: np.where(rng.random(n_cells) < share, truth, rng.integers(0, 3, n_cells)) for name, share in SHARES}
    return Space(expression.astype(np.float32), embedding.astype(np.float32), 3), found


SHARES = (("rough", 0.3), ("good", 0.95), ("fair", 0.7))


def test_each_judge_by_definition():
    space, found = make()
    values = judge_values(space, found)
    assert list(values) == ["equal", "own", "agreement"]
    for at, labels in enumerate(found.values()):
        assert values["equal"][at] == fit_mixture(space.expression[:, :15], labels, "equal")[0]
        assert values["own"][at] == fit_mixture(space.embedding, labels, "own")[0]
        agreement = sum(adjusted_rand_score(labels, other) for other in found.values())
        assert values["agreement"][at] == pytest.approx(agreement)


def test_more_than_two_thousand_cells_are_sampled():
    space, found = make(2200)
    rows = space.sample(2000)
    for labels in found.values():  # the sample has no cell of one cluster
        labels[np.setdiff1d(np.arange(2200), rows)[:2]] = 3
        assert labels[rows].max() < 3
    values = judge_values(space, found)
    seen = {name: labels[rows] for name, labels in found.items()}
    expected = judge_values(space.of(rows), seen)
    for name in values:
        assert np.array_equal(values[name], expected[name])


def test_ranks_add_up_with_agreement_twice():
    values = {"equal": [1.0, 2.0, 3.0], "own": [3.0, 2.0, 1.0], "agreement": [-1.0, 0.5, 0.4]}
    assert sum_of_ranks({name: np.array(each) for name, each in values.items()}).tolist() == [6.0, 10.0, 8.0]
    # Differences beyond the sixth digit are ignored.
    values["agreement"] = [0.5, 0.5 + 3e-7, 0.4]
    assert sum_of_ranks({name: np.array(each) for name, each in values.items()}).tolist() == [9.0, 9.0, 6.0]


def test_the_best_sum_wins(monkeypatch):
    space, found = make()
    scores = judge(space, found)
    assert list(scores.values()) == sum_of_ranks(judge_values(space, found)).tolist()
    assert best(space, found) == max(scores, key=scores.get) == "good"
    monkeypatch.setattr(_judges, "candidates", lambda cells, n_clusters: found)
    assert np.array_equal(partition_cells(space, 3), found["good"])


def test_fewer_kinds_of_cells_than_clusters_are_no_matter_of_judgement(monkeypatch):
    points = np.repeat(np.arange(4.0), 5)[:, None].astype(np.float32)
    monkeypatch.setattr(_judges, "candidates", lambda cells, n_clusters: {"asked": np.full(20, n_clusters)})
    space = Space(points, points, 0)
    for n_clusters, expected in ((3, [3] * 20), (4, np.repeat(np.arange(4), 5).tolist())):
        assert partition_cells(space, n_clusters).tolist() == expected
