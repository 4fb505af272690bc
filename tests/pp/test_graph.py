import numpy as np
import pytest

from scsiameseclu.pp import NeighborGraph


def tables(indices, weights, distances=None, **kwargs):
    weights = np.asarray(weights, dtype=np.float32)
    if distances is None:
        with np.errstate(divide="ignore"):
            distances = np.where(weights > 0, -np.log(weights), 0)
    return NeighborGraph(
        np.asarray(indices, dtype=np.int64), np.abs(np.asarray(distances, dtype=np.float32)), weights, **kwargs
    )


# Cell 2 has one neighbour and one padded slot. Cell 3 has no neighbour.
INDICES = [[1, 2], [0, 2], [0, 2], [3, 3]]
WEIGHTS = [[1.0, 0.5], [0.8, 0.4], [0.25, 0], [0, 0]]


def test_connectivities_are_the_elementwise_fuzzy_union():
    directed = np.array([[0, 1, 0.5, 0], [0.8, 0, 0.4, 0], [0.25, 0, 0, 0], [0, 0, 0, 0]])
    expected = directed + directed.T - directed * directed.T
    found = tables(INDICES, WEIGHTS).connectivities()
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    assert found.has_sorted_indices
    assert found.dtype == np.float32


def test_symmetric_weights_are_not_united_twice():
    graph = tables([[1], [0]], [[0.5], [0.5]], symmetric=True)
    np.testing.assert_allclose(graph.connectivities().toarray(), [[0, 0.5], [0.5, 0]])


def test_transition_rows_sum_to_one_except_for_isolated_cells():
    rows = np.asarray(tables(INDICES, WEIGHTS).transition().sum(axis=1)).ravel()
    np.testing.assert_allclose(rows, [1, 1, 1, 0], rtol=1e-6)


def test_distance_matrix_keeps_zero_distances_but_not_padding():
    graph = tables([[1, 2], [0, 2], [0, 1]], np.ones((3, 2)), distances=[[0, 2], [0, 2], [2, 2]])
    assert graph.distance_matrix().nnz == 6
    assert tables(INDICES, WEIGHTS).distance_matrix().nnz == 5


def test_is_edge_and_sizes():
    graph = tables(INDICES, WEIGHTS)
    assert (graph.n_obs, graph.n_neighbors) == (4, 2)
    np.testing.assert_array_equal(graph.is_edge.sum(axis=1), [2, 2, 1, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.array([[1], [0]], dtype=np.int32)}, "int64"),
        ({"indices": np.array([[1], [5]])}, r"row numbers in \[0, 2\)"),
        ({"indices": np.array([[1], [-1]])}, "row numbers"),
        ({"weights": np.array([[1.0], [1.5]], dtype=np.float32)}, r"\(0, 1\]"),
        ({"weights": np.array([[1.0], [0.0]], dtype=np.float32)}, r"\(0, 1\]"),
        ({"weights": np.array([[1.0], [np.nan]], dtype=np.float32)}, r"\(0, 1\]"),
        ({"weights": np.ones((2, 2), dtype=np.float32)}, "shape"),
        ({"distances": np.array([[1.0], [np.inf]], dtype=np.float32)}, "finite"),
        ({"distances": np.array([[1.0], [-1.0]], dtype=np.float32)}, "finite"),
        ({"distances": np.ones((2, 1))}, "float32"),
        ({"indices": np.array([[1], [1]])}, "padding"),
    ],
)
def test_invalid_tables_are_refused(change, message):
    valid = {
        "indices": np.array([[1], [0]]),
        "distances": np.ones((2, 1), dtype=np.float32),
        "weights": np.ones((2, 1), dtype=np.float32),
    }
    with pytest.raises(ValueError, match=message):
        NeighborGraph(**{**valid, **change})


def test_unordered_repeated_or_misplaced_entries_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        tables([[1, 2], [0, 2], [0, 1]], np.ones((3, 2)), distances=[[2, 1], [1, 1], [1, 1]])
    with pytest.raises(ValueError, match="twice"):
        tables([[1, 1], [0, 2], [0, 1]], np.ones((3, 2)), distances=np.ones((3, 2)))
    with pytest.raises(ValueError, match="end of a row"):
        tables([[0, 1], [0, 2], [0, 1]], [[0, 1], [1, 1], [1, 1]], distances=[[0, 1], [1, 1], [1, 1]])
