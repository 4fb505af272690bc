"""Cells in two spaces, with their graphs."""

import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.partition import Space
from scsiameseclu.pp._knn import knn


def make(n_cells=60):
    rng = np.random.default_rng(0)
    return Space(rng.normal(size=(n_cells, 5)).astype(np.float32), rng.normal(size=(n_cells, 3)).astype(np.float32), 4)


@pytest.mark.parametrize(("n_cells", "n_neighbors"), [(60, 15), (16, 15), (15, 14), (2, 1)])
def test_graphs_are_those_of_fifteen_neighbours_or_of_all_cells(n_cells, n_neighbors):
    space = make(n_cells)
    for points, graph in ((space.expression, space.expression_graph), (space.embedding, space.embedding_graph)):
        assert (graph != knn(points, n_neighbors, 4).connectivities()).nnz == 0
        assert (graph != graph.T).nnz == 0
    assert n_cells < 15 or (space.expression_graph != space.embedding_graph).nnz > 0


def test_cells_without_neighbours_stay_where_they_are():
    space = make(4)
    graph = sparse.csr_matrix(([1.0, 3.0, 1.0], ([0, 0, 1], [1, 2, 0])), (4, 4))
    smoothed = space.smoothed(graph)
    x = space.expression
    expected = [0.5 * x[0] + 0.5 * (0.25 * x[1] + 0.75 * x[2]), 0.5 * x[1] + 0.5 * x[0], x[2], x[3]]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5)
    assert smoothed.dtype == np.float32


def test_samples_are_in_order_and_follow_the_seed():
    space = make()
    assert space.n_obs == 60
    assert space.sample(60).tolist() == list(range(60))
    rows = space.sample(59)
    assert len(rows) == 59 and (np.diff(rows) > 0).all() and rows.tolist() == space.sample(59).tolist()
    assert Space(space.expression, space.embedding, 5).sample(20).tolist() != space.sample(20).tolist()


def test_the_space_of_some_cells():
    space, rows = make(), np.array([3, 1, 7])
    some = space.of(rows)
    assert np.array_equal(some.expression, space.expression[rows])
    assert np.array_equal(some.embedding, space.embedding[rows])
    assert some.random_state == 4
