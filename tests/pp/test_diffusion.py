import numpy as np
import pytest

from scsiameseclu.pp import NeighborGraph, knn, ppr_diffusion


@pytest.fixture
def graph():
    return knn(np.random.default_rng(3).normal(size=(60, 4)), 6)


def dense_ppr(graph, alpha, n_iter=None):
    step = (1 - alpha) * graph.transition().toarray().astype(float)
    if n_iter is None:
        return alpha * np.linalg.inv(np.eye(graph.n_obs) - step)
    return alpha * sum(np.linalg.matrix_power(step, t) for t in range(n_iter + 1))


def mass_matrix(graph):
    matrix = np.zeros((graph.n_obs, graph.n_obs))
    np.put_along_axis(matrix, graph.indices, graph.weights, axis=1)
    return matrix


@pytest.mark.parametrize("alpha", [0.15, 0.5])
def test_untruncated_iteration_is_the_matrix_inverse(graph, alpha):
    found = mass_matrix(ppr_diffusion(graph, alpha, n_iter=150, n_neighbors=59, max_entries=60))
    expected = dense_ppr(graph, alpha)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_few_steps_are_the_partial_sum(graph):
    found = mass_matrix(ppr_diffusion(graph, n_iter=3, n_neighbors=59, max_entries=60))
    expected = dense_ppr(graph, 0.15, n_iter=3)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_truncation_keeps_the_strongest_neighbours():
    graph = knn(np.random.default_rng(4).normal(size=(400, 5)), 8)
    exact = ppr_diffusion(graph, max_entries=400)
    found = ppr_diffusion(graph)
    overlap = np.mean([len(set(a) & set(b)) / 8 for a, b in zip(exact.indices, found.indices, strict=True)])
    assert overlap > 0.9


def test_result_is_sorted_without_the_cell_itself_and_of_the_asked_width(graph):
    found = ppr_diffusion(graph, n_neighbors=9)
    assert found.indices.shape == (60, 9)
    assert found.is_edge.all()
    assert (np.diff(found.weights, axis=1) <= 0).all()
    np.testing.assert_allclose(found.distances, -np.log(found.weights), rtol=1e-5)


def test_chunks_do_not_matter(graph, monkeypatch):
    from scsiameseclu.pp import _diffusion

    whole = ppr_diffusion(graph)
    monkeypatch.setattr(_diffusion, "_CHUNK", 7)
    parts = ppr_diffusion(graph)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.weights, parts.weights, rtol=1e-5)


def test_equal_masses_do_not_overrun_the_width():
    n = 100  # all cells coincide: every mass ties
    graph = knn(np.zeros((n, 2)), 40)
    found = ppr_diffusion(graph, n_neighbors=5, max_entries=6)
    assert found.indices.shape == (n, 5)


def test_components_stay_apart_and_isolated_cells_are_padding():
    indices = np.array([[1], [0], [3], [2], [4]])
    weights = np.array([[1], [1], [1], [1], [0]], dtype=np.float32)
    found = ppr_diffusion(NeighborGraph(indices, np.zeros((5, 1), dtype=np.float32), weights), n_neighbors=2)
    np.testing.assert_array_equal(found.indices, [[1, 0], [0, 1], [3, 2], [2, 3], [4, 4]])


def test_alpha_one_never_leaves_the_cell(graph):
    assert not ppr_diffusion(graph, alpha=1.0).is_edge.any()


@pytest.mark.parametrize("kwargs", [{"alpha": 0}, {"alpha": 1.5}, {"n_iter": 0}, {"n_neighbors": 0}])
def test_bad_arguments(graph, kwargs):
    with pytest.raises(ValueError, match="xpected"):
        ppr_diffusion(graph, **kwargs)
