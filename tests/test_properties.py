"""Functions on any numbers give finite results that keep their rules, or a ValueError with a reason."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist

from scsiameseclu import losses, metrics, ot
from scsiameseclu.data._rows import row_numbers, row_reader
from scsiameseclu.partition import Space, choose_n_clusters, partition_cells
from scsiameseclu.partition._hierarchy import grow
from scsiameseclu.partition._splits import describe
from scsiameseclu.pp import knn, ppr_diffusion
from scsiameseclu.pp._counts import row_chunks, totals

some = settings(
    derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(some, max_examples=8)

KINDS = ("normal", "ties", "duplicates", "one point", "far apart", "tiny", "isolated")


@st.composite
def points(draw, min_cells=1, max_cells=50):
    """Cells in a space of a few dimensions, float32 ``(n, d)``."""
    n_obs, n_dims = draw(st.integers(min_cells, max_cells)), draw(st.integers(1, 6))
    kind, rng = draw(st.sampled_from(KINDS)), np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.normal(size=(n_obs, n_dims))
    if kind == "ties":
        values = rng.integers(0, 3, (n_obs, n_dims)).astype(float)
    elif kind == "duplicates":
        values = values[rng.integers(0, max(n_obs // 3, 1), n_obs)]
    elif kind == "one point":
        values[:] = values[0]
    elif kind == "far apart":
        values += 1e4 * rng.integers(0, 2, (n_obs, 1))
    elif kind == "tiny":
        values *= 1e-6
    elif kind == "isolated":
        values[0] = 1e5
    return values.astype(np.float32)


@st.composite
def labels(draw, n_cells):
    """Groups of cells; a group may be empty, have one cell, or have all cells."""
    return np.asarray(draw(st.lists(st.integers(0, 5), min_size=n_cells, max_size=n_cells)))


# -- graph ------------------------------------------------------------------------------------------------------------


@some
@given(points(), st.integers(1, 60), st.sampled_from([None, 1, 3, 100]))
def test_graph(cells, k, n_batches):
    n_obs = len(cells)
    batch = None if n_batches is None else np.arange(n_obs) % n_batches
    graph = knn(cells, k, batch=batch)  # the constructor checks bounds, padding, order, weights
    assert graph.indices.shape == (n_obs, k)
    assert (graph.is_edge.sum(axis=1) == min(k, n_obs - 1)).all() or (n_batches or 1) > 1
    if n_obs > 1:
        assert graph.is_edge.any(axis=1).all()
    exact = cdist(cells.astype(np.float64), cells.astype(np.float64))
    found = np.take_along_axis(exact, graph.indices, axis=1)[graph.is_edge]
    assert np.allclose(graph.distances[graph.is_edge], found, rtol=1e-4, atol=1e-4 * exact.max())
    if batch is None and n_obs > 1:
        np.fill_diagonal(exact, np.inf)
        width = min(k, n_obs - 1)
        nearest = np.sort(exact, axis=1)[:, :width]
        assert np.allclose(graph.distances[:, :width], nearest, rtol=1e-3, atol=1e-4 * nearest.max())
    joined = graph.connectivities()
    assert (joined != joined.T).nnz == 0 and np.isfinite(joined.data).all() and joined.diagonal().sum() == 0
    sums = np.asarray(graph.transition().sum(axis=1)).ravel()
    assert np.all(np.isclose(sums, 1.0, atol=1e-5) | (sums == 0.0))


@few
@given(points(), st.integers(1, 8), st.floats(0.05, 1.0), st.integers(1, 5))
def test_diffused_graph(cells, k, alpha, n_iter):
    diffused = ppr_diffusion(knn(cells, k), alpha, n_iter)
    assert diffused.indices.shape == (len(cells), k)
    assert (diffused.weights.sum(axis=1) <= 1.0 + 1e-4).all()


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros(3), [[np.nan, 0.0]], [[np.inf, 0.0]]])
def test_what_is_no_space_is_refused(bad):
    with pytest.raises(ValueError, match="[Ee]xpected"):
        knn(bad, 3)


# -- partition and tree ------------------------------------------------------------------------------------------------


@few
@given(points(min_cells=3), st.integers(1, 9))
def test_partition_and_tree(cells, n_clusters):
    space = Space(cells, cells[:, ::-1].copy())
    if n_clusters > len(cells):
        with pytest.raises(ValueError, match="Expected at least"):
            partition_cells(space, n_clusters)
        return
    parts = partition_cells(space, n_clusters)
    found, n_distinct = np.unique(parts), len(np.unique(cells, axis=0))
    assert parts.shape == (len(cells),) and found.min() >= 0 and found.max() < n_clusters
    assert len(found) == min(n_clusters, n_distinct)

    tree, groups = grow(space, parts)
    assert tree.children.shape == (tree.n_groups - 1, 2) and tree.sizes.sum() == len(cells)
    assert np.array_equal(np.bincount(groups, minlength=tree.n_groups), tree.sizes)
    finer = tree.cut(tree.n_groups)
    for wanted in range(tree.n_groups, 0, -1):
        cut = tree.cut(wanted)
        assert len(np.unique(cut)) == wanted
        assert len(np.unique(np.stack([cut, finer]), axis=1).T) == len(np.unique(finer))  # clusters are only joined
        finer = cut
    # The tree passes through the partition.
    at_parts = tree.cut(len(found))[groups]
    assert len(np.unique(np.stack([at_parts, parts]), axis=1).T) == len(found)
    for split in describe(tree, groups, space, n_draws=20):
        assert 0.0 <= split["p_value"] <= 1.0 and np.isfinite(split["separability"])
        assert split["n_left"] > 0 and split["n_right"] > 0


@few
@given(points())
def test_number_of_clusters(cells):
    space = Space(cells, cells)
    if len(cells) < 3:
        with pytest.raises(ValueError, match="at least 3 cells"):
            choose_n_clusters(space)
        return
    result = choose_n_clusters(space)
    assert 1 <= result.n_clusters < len(cells)
    assert np.isfinite(result.separability)
    if len(np.unique(cells, axis=0)) == 1:
        assert result.n_clusters == 1


# -- transport ---------------------------------------------------------------------------------------------------------


@st.composite
def transport(draw):
    n_cells, n_clusters = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng, scale = np.random.default_rng(draw(st.integers(0, 2**16))), draw(st.sampled_from([0.0, 1.0, 50.0, 1e4]))
    logits = torch.as_tensor(scale * rng.normal(size=(n_cells, n_clusters)), dtype=draw(st.sampled_from(DTYPES)))
    masses = rng.random(n_clusters) * (rng.random(n_clusters) > draw(st.sampled_from([0.0, 0.4])))
    masses = masses + (masses.sum() == 0)
    return logits, torch.as_tensor(masses / masses.sum())


DTYPES = [torch.float32, torch.float64]


@some
@given(transport(), st.sampled_from([float("inf"), 5.0, 0.0]), st.integers(1, 200))
def test_transport(problem, relaxation, n_iter):
    logits, masses = problem
    result = ot.sinkhorn(logits, masses, marginal_relaxation=relaxation, n_iter=n_iter)
    plan, target = result.plan, result.target
    assert torch.isfinite(plan).all() and (plan >= 0).all()
    assert torch.allclose(target.sum(dim=1), torch.ones(len(logits), dtype=logits.dtype), atol=1e-5)
    assert plan.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(plan.sum(dim=0).double(), result.column_masses, atol=1e-4)
    assert 0.0 <= result.marginal_error <= 2.0 + 1e-6
    if relaxation > 0:
        assert (plan[:, masses == 0] == 0).all()
    if result.converged and relaxation == float("inf"):
        assert result.marginal_error < 1e-5


@some
@given(labels(12), st.integers(6, 9), st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
def test_cluster_masses(groups, n_clusters, smoothing, momentum):
    masses = ot.estimate_marginals(torch.as_tensor(groups), n_clusters, smoothing)
    followed = ot.ema_marginals(masses, torch.full((n_clusters,), 1.0 / n_clusters), momentum)
    for each in (masses, followed):
        assert each.shape == (n_clusters,) and (each >= 0).all() and each.sum().item() == pytest.approx(1.0)


# -- losses ------------------------------------------------------------------------------------------------------------


@st.composite
def embeddings(draw):
    shape = draw(st.integers(0, 12)), draw(st.integers(1, 5))
    rng, scale = np.random.default_rng(draw(st.integers(0, 2**16))), draw(st.sampled_from([0.0, 1e-6, 1.0, 1e3]))
    return [torch.tensor(scale * rng.normal(size=shape), dtype=torch.float32, requires_grad=True) for _ in range(2)]


@some
@given(embeddings())
def test_losses_of_embeddings(pair):
    first, second = pair
    positives = torch.eye(len(first), dtype=torch.bool).roll(1, 0)
    terms = {
        "latent": losses.latent_correlation_loss(first, second),
        "cell": losses.cell_correlation_loss(first, second),
        "cell, positives": losses.cell_correlation_loss(first, second, positives),
        "propagation": losses.propagation_loss(first, second),
        "clustering": losses.clustering_kl(first.softmax(1), second.log_softmax(1)),
    }
    for name, term in terms.items():
        assert term.ndim == 0 and torch.isfinite(term) and term >= -1e-6, name
        for gradient in torch.autograd.grad(term, [second], retain_graph=True, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all(), name
    assert terms["propagation"] <= np.log(2) + 1e-6


@some
@given(
    st.lists(st.sampled_from([0.0, 1.0, 3.0, 1e3, 1e6]), min_size=4, max_size=4),
    st.floats(-15.0, 14.0),
    st.floats(-8.0, 8.0),
)
def test_losses_of_counts(counts, log_rate, log_dispersion):
    x = torch.tensor([counts])
    rate = torch.full_like(x, log_rate, requires_grad=True)
    dispersion = torch.full((4,), log_dispersion, requires_grad=True)
    for term in (losses.negative_binomial_nll(x, rate, dispersion), losses.poisson_nll(x, rate)):
        assert term.shape == x.shape and torch.isfinite(term).all()
        assert (term > -1.0).all()  # a probability is at most 1; lgamma of large counts is rounded
        gradients = torch.autograd.grad(term.sum(), [rate, dispersion], allow_unused=True)
        assert all(each is None or torch.isfinite(each).all() for each in gradients)


# -- metrics -----------------------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 25).flatmap(lambda n: st.tuples(labels(n), labels(n))), st.permutations(range(6)))
def test_agreement_with_labels(pair, renamed):
    true, predicted = pair
    scores = metrics.clustering_metrics(true, predicted)
    for name in ("acc", "nmi", "f1_macro"):
        assert 0.0 <= scores[name] <= 1.0 + 1e-12, name
    assert -1.0 <= scores["ari"] <= 1.0 and scores["n_clusters"] == len(np.unique(predicted))
    names = np.array([f"type {number}" for number in renamed])
    assert metrics.clustering_metrics(names[true], names[predicted]) == pytest.approx(scores)
    assert metrics.clustering_metrics(true, true)["acc"] == 1.0
    rare = metrics.rare_type_recall(true, predicted, 0.3)
    assert np.isnan(rare) or 0.0 <= rare <= 1.0


@some
@given(points(min_cells=2))
def test_collapse_of_an_embedding(cells):
    rank = metrics.effective_rank(cells)
    assert 0.0 <= rank <= min(cells.shape) + 1e-6
    cosine = metrics.mean_pairwise_cosine(cells, np.arange(len(cells)) % 3)
    assert all(np.isnan(value) or -1.0 - 1e-9 <= value <= 1.0 + 1e-9 for value in cosine.values())


@some
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=30), st.integers(1, 15))
def test_calibration(cells, n_bins):
    confidence, correct = map(np.asarray, zip(*cells, strict=True))
    assert 0.0 <= metrics.expected_calibration_error(confidence, correct, n_bins) <= 1.0
    curve = metrics.reliability_curve(confidence, correct, n_bins)
    assert curve["n_cells"].sum() == len(cells) and len(curve) == n_bins


# -- loaders -----------------------------------------------------------------------------------------------------------


@st.composite
def count_matrices(draw):
    """Counts up to a million with empty cells and genes, in any form, and the same counts as a dense array."""
    shape = draw(st.integers(1, 20)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dense = rng.poisson(0.5, shape) * rng.choice([1, 1, 1000, 10**6], shape)
    dense[rng.random(shape[0]) < 0.2] = 0
    dense = dense.astype(draw(st.sampled_from([np.float32, np.float64, np.int32, np.int64])))
    form = draw(
        st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array])
    )
    return form(dense), dense


@some
@given(count_matrices(), st.data())
def test_reading_rows(matrices, data):
    counts, dense = matrices
    n_obs = len(dense)
    chosen = data.draw(st.lists(st.integers(-n_obs, n_obs - 1), max_size=15))
    if not isinstance(counts, sparse.coo_matrix):
        read = row_reader(counts, np.float32)(row_numbers(chosen, n_obs))
        assert read.dtype == np.float32
        assert np.array_equal(read, dense[np.asarray(chosen, dtype=int)].astype(np.float32))
    size = data.draw(st.integers(1, 25))
    blocks = [block.toarray() if sparse.issparse(block) else block for _, block in row_chunks(counts, size)]
    assert np.array_equal(np.concatenate(blocks), dense)
    library, per_gene = totals(counts)
    assert np.allclose(library, dense.sum(axis=1, dtype=np.float64))
    assert np.allclose(per_gene, dense.sum(axis=0, dtype=np.float64))
