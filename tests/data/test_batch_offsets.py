import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.data._statistics import batch_offsets
from scsiameseclu.pp import knn

GENES = np.array([0, 2, 5])


def shifted(seed=0, n=200):
    """Counts of two types in two batches of different composition, the graph without the shift, the shift of batch
    1."""
    rng = np.random.default_rng(seed)
    batch = np.repeat([0, 1], n)
    types = rng.random(2 * n) < np.where(batch == 0, 0.8, 0.2)
    rate = np.where(types[:, None], [50.0, 10, 20, 20, 20, 100], [10.0, 50, 40, 20, 100, 20])
    rate[:, 0] *= np.where(batch == 1, 3.0, 1.0)
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    graph = knn(rate[:, 3:] + rng.normal(size=(2 * n, 3)), 15, batch=batch)
    return counts, batch, graph


def fit(counts, batch, graph, n_batch=2, **kwargs):
    sizes = np.full(counts.shape[0], 300.0)
    return batch_offsets(counts, GENES, batch, n_batch, graph.indices, graph.weights, 1e4, sizes, **kwargs)


def test_shift_is_found_in_spite_of_other_composition():
    counts, batch, graph = shifted()
    offsets = fit(counts, batch, graph)
    assert offsets.shape == (3, 2)
    assert offsets.dtype == np.float32
    between = offsets[:, 1] - offsets[:, 0]
    assert between[0] == pytest.approx(np.log(3.0), abs=0.1)
    np.testing.assert_allclose(between[1:], 0.0, atol=0.1)
    logs = np.log1p(counts.toarray() * 1e4 / 300.0)[:, GENES]
    means = logs[batch == 1].mean(axis=0) - logs[batch == 0].mean(axis=0)
    assert np.abs(means[1:]).min() > 0.3  # centring each batch would have found such a false shift
    np.testing.assert_allclose(offsets.mean(axis=1), 0.0, atol=1e-5)


def test_batches_without_mutual_neighbours_and_empty_ones_have_none():
    counts, batch, graph = shifted()
    alone = knn(np.arange(len(batch), dtype=float)[:, None] + 1e6 * batch[:, None], 5)
    np.testing.assert_array_equal(fit(counts, batch, alone), np.zeros((3, 2)))
    np.testing.assert_array_equal(fit(counts, batch, graph, n_batch=3)[:, 2], np.zeros(3))
    np.testing.assert_allclose(fit(counts, batch, graph, n_batch=3)[:, :2], fit(counts, batch, graph), atol=1e-6)


def test_a_few_pairs_move_little():
    counts, batch, graph = shifted(n=3)
    whole = fit(*shifted())
    assert np.abs(fit(counts, batch, graph)[0]).max() < np.abs(whole[0]).max()


def test_storage_and_blocks_do_not_matter(monkeypatch):
    from scsiameseclu.pp import _counts

    counts, batch, graph = shifted()
    expected = fit(counts, batch, graph)
    np.testing.assert_allclose(fit(counts.toarray(), batch, graph), expected, atol=1e-6)
    monkeypatch.setattr(_counts.row_chunks, "__defaults__", (17,))
    np.testing.assert_allclose(fit(counts, batch, graph), expected, atol=1e-5)
