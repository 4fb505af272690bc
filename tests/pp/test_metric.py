import numpy as np
import pytest

from scsiameseclu.pp import Projection, _metric, knn
from scsiameseclu.pp._metric import noise_metric, unit_length


def clouds(seed=0, n_per_type=60, shift=0.0, noise=1.0):
    """Types that differ on axes 0 to 2, more noise on axis 3, batches that differ on axis 4; 12 dimensions with noise.

    Returns the points, the labels and the batches.
    """
    rng = np.random.default_rng(seed)
    types, batch = np.repeat([0, 1, 2, 0, 1, 2], n_per_type), np.repeat(["a", "b"], 3 * n_per_type)
    points = rng.normal(size=(len(types), 12))
    points[:, 3] *= noise
    points[:, :3] += 6.0 * np.eye(3)[types]
    points[:, 4] += np.where(batch == "a", shift, 0.0)
    return (points - points.mean(axis=0)).astype(np.float32), types, batch


def spread(metric):
    """Length of each axis after the map."""
    return np.linalg.norm(metric, axis=1)


def test_axes_on_which_like_cells_differ_are_shrunk():
    points, _, _ = clouds(noise=4.0)
    lengths = spread(noise_metric(points))
    assert lengths[3] < 0.7 * np.delete(lengths, 3).min()


def test_axes_on_which_batches_differ_are_shrunk_if_the_batches_are_known():
    points, types, batch = clouds(shift=4.0)
    blind, aware = noise_metric(points), noise_metric(points, batch)
    assert spread(aware)[4] < 0.5 * spread(blind)[4]

    def mixed(metric):
        graph = knn(points @ metric, 10)
        same_type = types[graph.indices] == types[:, None]
        return ((batch[graph.indices] != batch[:, None]) & same_type).mean()

    assert mixed(aware) > 2 * mixed(blind)


def test_signs_and_order_of_the_axes_do_not_matter():
    points, _, batch = clouds(shift=1.0)
    metric = noise_metric(points, batch)
    np.testing.assert_allclose(metric, metric.T, atol=1e-6)
    order, signs = np.roll(np.arange(12), 5), np.resize([1.0, -1.0], 12).astype(np.float32)
    turned = points[:, order] * signs
    expected = (points @ metric)[:, order] * signs
    np.testing.assert_allclose(turned @ noise_metric(turned, batch), expected, atol=1e-3)


@pytest.mark.parametrize("points", [np.eye(6)[:3], np.ones((30, 4)), np.zeros((30, 4))])
def test_without_pairs_or_noise_nothing_changes(points):
    np.testing.assert_array_equal(noise_metric(points.astype(np.float32)), np.eye(points.shape[1]))


def test_batches_without_a_common_cell_are_one_pair_less(counts_adata):
    batch = np.array(["a"] * 119 + ["b"])  # a batch of one cell
    metric = noise_metric(Projection.fit(counts_adata.X, 5).transform(counts_adata.X), batch)
    assert np.isfinite(metric).all()


def test_large_data_are_sampled_and_reproducible(monkeypatch):
    from scsiameseclu.pp import _metric

    points, _, _ = clouds()
    whole = noise_metric(points)
    monkeypatch.setattr(_metric, "_MAX_CELLS", 200)
    first, again, other = noise_metric(points), noise_metric(points), noise_metric(points, random_state=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(spread(first), spread(whole), rtol=0.3)


def test_rows_of_zero_stay_zero():
    assert np.isfinite(unit_length(np.zeros((2, 3), dtype=np.float32))).all()
    np.testing.assert_allclose(np.linalg.norm(unit_length(np.array([[3.0, 4.0]], dtype=np.float32)), axis=1), 1.0)


def test_few_pairs_of_many_batches_are_compared(monkeypatch):
    rng = np.random.default_rng(0)
    batch = np.arange(2000) % 200
    points = rng.normal(size=(2000, 5)).astype(np.float32)
    points[:, 0] += 4.0 * (batch % 2)
    asked = []
    neighbours = _metric._neighbours

    def counted(directions, queries, members, width):
        asked.append(len(set(batch[queries])))
        return neighbours(directions, queries, members, width)

    monkeypatch.setattr(_metric, "_neighbours", counted)
    lengths = spread(noise_metric(points - points.mean(axis=0), batch))
    assert len(asked) == 200  # one search per batch
    assert sum(asked) <= 2 * _metric.MAX_PAIRS
    assert lengths[0] < 0.8 * lengths[1:].min()


@pytest.mark.parametrize("n_batches", [1, 2, 4])
def test_pairs_are_mutual_neighbours_of_different_batches(monkeypatch, n_batches):
    monkeypatch.setattr(_metric, "N_MUTUAL", 3)
    rng = np.random.default_rng(0)
    directions, codes = unit_length(rng.normal(size=(60, 4)).astype(np.float32)), rng.integers(0, n_batches, 60)
    distances = np.linalg.norm(directions[:, None] - directions, axis=2)
    np.fill_diagonal(distances, np.inf)

    def near(i, j):
        """Whether a cell is among the cells of its batch that are nearest to a cell of another batch."""
        return np.sum(distances[i, codes == codes[j]] < distances[i, j]) < 3

    expected = {
        (i, j)
        for i in range(60)
        for j in range(i + 1, 60)
        if (codes[i] != codes[j] or n_batches == 1) and near(i, j) and near(j, i)
    }
    first, second = _metric._like_cells(directions, codes)
    assert len(first) == len(expected) and set(zip(first.tolist(), second.tolist(), strict=True)) == expected


@pytest.mark.parametrize("n_batches", [2, 5, 28, 29, 50, 399, 1000])
def test_every_batch_is_compared_with_others_once(n_batches):
    pairs = _metric._compared(n_batches)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(i != j for i, j in pairs)
    assert set(np.ravel(pairs)) == set(range(n_batches))
    assert len(pairs) <= max(_metric.MAX_PAIRS, n_batches)
