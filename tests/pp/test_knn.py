import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from scsiameseclu.pp import _exact_search, _knn, fuzzy_weights, knn


@pytest.fixture
def points():
    return np.random.default_rng(1).normal(size=(80, 6))


def test_matches_brute_force(points):
    graph = knn(points, 7)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(graph.indices, np.argsort(distances, axis=1)[:, :7])
    np.testing.assert_allclose(graph.distances, np.sort(distances, axis=1)[:, :7], rtol=1e-5)


def test_far_from_the_origin_nothing_is_lost(points):
    np.testing.assert_array_equal(knn(points + 1000, 7).indices, knn(points, 7).indices)


@pytest.mark.parametrize("distance", [1e3, 1e4])
def test_groups_far_from_each_other_keep_their_neighbours(points, distance):
    near = knn(points, 7)
    far = knn(np.concatenate([points - distance, points + distance]), 7)
    np.testing.assert_allclose(far.distances[:80], near.distances, atol=distance * 1e-6)
    np.testing.assert_allclose(far.distances[80:], near.distances, atol=distance * 1e-6)


def test_duplicates_keep_all_their_neighbours_and_never_themselves():
    rep = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0)
    graph = knn(rep, 4)
    assert (graph.indices != np.arange(20)[:, None]).all()
    assert (graph.distances == 0).all()
    assert (graph.weights == 1).all()
    same_group = graph.indices // 10 == (np.arange(20) // 10)[:, None]
    assert same_group.all()


def test_ties_are_ordered_by_row_number():
    rep = np.array([[0.0], [1.0], [-1.0], [2.0], [-2.0]])
    np.testing.assert_array_equal(knn(rep, 4).indices[0], [1, 2, 3, 4])


@pytest.mark.parametrize("n_obs", [1, 2, 4])
def test_too_few_cells_give_padding(n_obs):
    graph = knn(np.arange(n_obs, dtype=float)[:, None], 5)
    assert graph.indices.shape == (n_obs, 5)
    np.testing.assert_array_equal(graph.is_edge.sum(axis=1), n_obs - 1)
    assert (graph.weights[~graph.is_edge] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_are_named(points, bad):
    points[17, 2] = bad
    with pytest.raises(ValueError, match="row 17"):
        knn(points, 5)


def test_bad_arguments(points):
    with pytest.raises(ValueError, match="at least 1"):
        knn(points, 0)
    with pytest.raises(ValueError, match="n_dims"):
        knn(points[:, 0], 5)
    with pytest.raises(ValueError, match="80 cells, found 3"):
        knn(points, 5, batch=["a", "b", "c"])
    with pytest.raises(ValueError, match="1 missing"):
        knn(points, 5, batch=[None, *["a"] * 79])


def test_every_batch_gives_its_share(points):
    # The batches are far apart: without balancing, no edge would join them.
    batch = np.array(["x"] * 30 + ["y"] * 30 + ["z"] * 20)
    rep = points + 100.0 * (batch == "y")[:, None] - 100.0 * (batch == "z")[:, None]
    graph = knn(rep, 7, batch=batch)
    shares = np.stack([(batch[graph.indices] == name).sum(axis=1) for name in "xyz"], axis=1)
    np.testing.assert_array_equal(shares, np.tile([3, 2, 2], (80, 1)))  # the rest goes to the largest batch
    assert (np.diff(graph.distances, axis=1) >= 0).all()


def test_batch_members_are_the_nearest_ones(points):
    batch = np.arange(80) % 2
    graph = knn(points, 6, batch=batch)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    for cell in (0, 33, 79):
        expected = [
            other for code in (0, 1) for other in np.argsort(np.where(batch == code, distances[cell], np.inf))[:3]
        ]
        assert set(graph.indices[cell]) == set(expected)


def test_one_batch_is_the_plain_graph(points):
    np.testing.assert_array_equal(knn(points, 5, batch=["a"] * 80).indices, knn(points, 5).indices)


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ([10, 10], 5, [3, 2]),
        ([10, 30], 5, [2, 3]),
        ([2, 30], 6, [1, 5]),  # the share of the small batch goes to other batches
        ([3, 3], 9, [2, 2]),
        ([1, 1], 3, [0, 0]),
    ],
)
def test_batch_quotas(sizes, k, expected):
    np.testing.assert_array_equal(_knn.batch_quotas(np.array(sizes), k), [expected] * (len(sizes) + 1))


@pytest.mark.parametrize("sizes", [[8] * 20, [1] * 19 + [500], list(range(1, 41))])
def test_with_more_batches_than_neighbours_every_batch_asks_and_is_asked(sizes):
    quotas = _knn.batch_quotas(np.array(sizes), 5)
    assert (quotas.sum(axis=1) >= 4).all()  # even a batch of one cell gets neighbours from four batches
    of_known, of_others = quotas[:-1], quotas[-1]
    np.fill_diagonal(of_known, 0)
    assert of_known.any(axis=0).all()  # every batch provides neighbours for another batch
    assert of_known.any(axis=1).all()  # and has neighbours in another batch
    assert connected_components(of_known, connection="strong")[0] == 1
    assert of_others[np.argmax(sizes)] > 0  # a new batch has neighbours in the largest batch


def test_twenty_batches_are_all_connected():
    rng = np.random.default_rng(0)
    batch = np.repeat(np.arange(20), [30] * 15 + [4] * 5)
    points = rng.normal(size=(len(batch), 6))
    graph = knn(points, 5, batch=batch)
    other = batch[graph.indices] != batch[:, None]
    assert graph.is_edge.all()
    for code in range(20):
        assert other[batch == code].any()
        assert (batch[graph.indices[batch != code]] == code).any()


def test_a_gpu_is_left_alone_if_the_accelerator_is_a_cpu(points, monkeypatch):
    used = []
    monkeypatch.setattr(_knn, "EXACT_LIMIT", 10)
    monkeypatch.setattr(_knn.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_knn, "search_on_device", lambda p, q, width: used.append(1) or _knn.search_exact(p, q, width))
    for accelerator in ("auto", "gpu", "cuda"):
        with _knn.search_on(accelerator):
            knn(points, 5)
    assert len(used) == 3
    with _knn.search_on("cpu"), _knn.search_on("auto"):
        knn(points, 5)
    assert len(used) == 3
    knn(points, 5)
    assert len(used) == 4


def test_the_number_of_searches_grows_with_the_batches_not_with_their_pairs(monkeypatch):
    searched = []
    search = _knn.search_exact

    def counting(points, queries, width):
        searched.append(len(points) * len(queries))
        return search(points, queries, width)

    monkeypatch.setattr(_knn, "search_exact", counting)
    points = np.random.default_rng(0).normal(size=(1200, 4))
    knn(points, 5, batch=np.arange(1200) % 100)
    assert len(searched) <= 3 * 100
    assert sum(searched) <= 2 * 1200 * 5 * 12


def test_batches_of_single_cells_fall_back_to_the_plain_graph(points):
    np.testing.assert_array_equal(knn(points, 5, batch=np.arange(80)).indices, knn(points, 5).indices)


def test_weights_meet_their_definition(points):
    graph = knn(points, 15)
    np.testing.assert_allclose(graph.weights.sum(axis=1), np.log2(16), atol=1e-4)
    np.testing.assert_array_equal(graph.weights[:, 0], 1)
    assert (np.diff(graph.weights, axis=1) <= 0).all()


def test_what_a_whole_batch_is_farther_away_by_costs_no_weight(points):
    batch = np.arange(80) % 2
    shifted = np.hstack([points, 5.0 * batch[:, None]])
    graph = knn(shifted, 10, batch=batch)
    other = batch[graph.indices] != batch[:, None]
    assert graph.distances[other].min() >= 5.0 > graph.distances[~other].max()
    shares = (graph.weights * other).sum(axis=1) / graph.weights.sum(axis=1)
    np.testing.assert_allclose(shares, 0.5, atol=1e-4)
    plain = fuzzy_weights(graph.distances)
    assert ((plain * other).sum(axis=1) / plain.sum(axis=1)).mean() < 0.2
    np.testing.assert_allclose(graph.weights.sum(axis=1), 2 * np.log2(6.0), rtol=1e-4)


def test_weights_do_not_depend_on_the_unit(points):
    distances = knn(points, 10).distances
    np.testing.assert_allclose(fuzzy_weights(1e3 * distances), fuzzy_weights(distances), atol=1e-4)
    np.testing.assert_allclose(fuzzy_weights(1e-3 * distances), fuzzy_weights(distances), atol=1e-4)


def test_padding_does_not_change_the_weights_of_the_rest():
    distances = np.array([[1.0, 2.0, 3.0, 0.0]])
    weights = fuzzy_weights(distances, np.array([[True, True, True, False]]))
    np.testing.assert_allclose(weights[:, :3], fuzzy_weights(distances[:, :3]))
    assert weights[0, 3] == 0


def test_connectivities_are_those_of_umap(points):
    umap_ = pytest.importorskip("umap.umap_")
    points[1] = points[0]  # a duplicate, the case where rho is not the first distance
    graph = knn(points, 14)
    own_row = np.arange(80)[:, None]
    expected = umap_.fuzzy_simplicial_set(
        points.astype(np.float32),
        15,
        random_state=np.random.RandomState(0),
        metric="euclidean",
        knn_indices=np.hstack([own_row, graph.indices]),
        knn_dists=np.hstack([np.zeros((80, 1), np.float32), graph.distances]),
    )[0]
    np.testing.assert_allclose(graph.connectivities().toarray(), expected.toarray(), atol=1e-4)


@pytest.mark.slow  # numba compiles pynndescent
@pytest.mark.parametrize("balanced", [False, True])
def test_approximate_search_finds_nearly_the_same(monkeypatch, balanced):
    rep = np.random.default_rng(2).normal(size=(600, 8))
    batch = np.arange(600) % 2 if balanced else None
    exact = knn(rep, 10, batch=batch)
    monkeypatch.setattr(_knn, "EXACT_LIMIT", 100)
    monkeypatch.setattr(_knn, "INVERTED_LIMIT", 100)
    found = knn(rep, 10, batch=batch)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.indices, found.indices, strict=True)])
    assert recall > 0.9
    np.testing.assert_array_equal(found.indices, knn(rep, 10, batch=batch).indices)  # reproducible with a seed


@pytest.mark.parametrize(
    ("n_obs", "on_gpu", "expected"),
    [
        (10, False, "exact"),
        (11, False, "inverted file"),
        (20, False, "inverted file"),
        (21, False, "pynndescent"),
        (11, True, "exact, on the GPU"),
        (30, True, "exact, on the GPU"),
        (31, True, "inverted file, on the GPU"),
    ],
)
def test_the_number_of_cells_decides_on_the_search(monkeypatch, n_obs, on_gpu, expected):
    for name, limit in {"EXACT_LIMIT": 10, "INVERTED_LIMIT": 20, "GPU_EXACT_LIMIT": 30}.items():
        monkeypatch.setattr(_knn, name, limit)
    monkeypatch.setattr(_knn.torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(_knn, "search_exact", lambda *args: "exact")
    monkeypatch.setattr(_knn, "search_on_device", lambda *args: "exact, on the GPU")
    monkeypatch.setattr(_knn, "_search_approximate", lambda *args: "pynndescent")

    def inverted(points, queries, width, random_state, compare=None):
        assert (points is queries, width, random_state) == (True, 4, 7)
        return "inverted file" if compare is None else f"inverted file, {compare()[7:]}"

    monkeypatch.setattr(_knn, "search_inverted", inverted)
    points = np.zeros((n_obs, 2), dtype=np.float32)
    assert _knn._search(points, points, 4, 7) == (expected, expected)


def test_gpu_search_is_used_where_it_can_be(monkeypatch, caplog):
    """A replacement for rapids cuML gives the same graph as brute force, whatever the block size."""
    import sys
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    import sklearn.neighbors
    import torch

    from scsiameseclu.pp import _knn

    class Search(sklearn.neighbors.NearestNeighbors):
        def __init__(self, n_neighbors, algorithm, output_type):
            super().__init__(n_neighbors=n_neighbors, algorithm=algorithm)
            self.output_type = output_type

        def kneighbors(self, points, return_distance):
            blocks.append(len(points))
            return super().kneighbors(points, return_distance=return_distance).astype(np.int32)

    points, blocks = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32), []
    expected = _knn.knn(points, 5)
    monkeypatch.setattr(_knn, "EXACT_LIMIT", 10)
    monkeypatch.setattr(_knn, "_GPU_BLOCK", 30)
    for name in ("cuml", "cuml.neighbors"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.NearestNeighbors = Search
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level("INFO", logger="scsiameseclu"):
        found = _knn.knn(points, 5)
    assert blocks == [30, 20]
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.weights, expected.weights)
    assert "among 50" in caplog.text
    assert "(cuML)" in caplog.text


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_search_on_a_device_is_the_exact_one(monkeypatch, caplog, precision):
    """The search runs on the CPU instead of a GPU here, in blocks of a few cells."""
    import torch

    from scsiameseclu.pp import _knn

    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    expected = _knn.knn(points, 5)
    search, asked = _knn.search_on_device, []

    def on_cpu(*args):
        asked.append(args[2])
        return search(*args, device="cpu")

    monkeypatch.setattr(_knn, "EXACT_LIMIT", 10)
    monkeypatch.setattr(_exact_search, "_GPU_SCORES", 7 * 60)
    monkeypatch.setattr(_knn, "search_on_device", on_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.set_float32_matmul_precision(precision)
    try:
        with caplog.at_level("INFO", logger="scsiameseclu"):
            found = _knn.knn(points, 5)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert asked == [6]
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.weights, expected.weights)
    assert "on the GPU" in caplog.text


@pytest.mark.parametrize("n_points", [5, 21, 168, 175, 183, 184, 1000])
@pytest.mark.parametrize("width", [1, 16, 21])
def test_the_choice_by_groups_is_that_among_all_scores(n_points, width):
    """The rule holds also if the number of points is no multiple of the group size, and if scores are the same."""
    rng = np.random.default_rng(0)
    width = min(width, n_points)
    for scores in (rng.normal(size=(30, n_points)), rng.integers(0, 4, (30, n_points))):
        scores = torch.as_tensor(scores, dtype=torch.float32)
        columns = _exact_search._largest(scores, width)
        assert columns.shape == (30, width)
        assert all(len(set(row.tolist())) == width for row in columns)
        chosen = scores.gather(1, columns).sort(dim=1, descending=True).values
        torch.testing.assert_close(chosen, scores.topk(width, dim=1).values, rtol=0, atol=0)
