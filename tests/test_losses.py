import itertools
import math

import pytest
import torch
from scvi.distributions import NegativeBinomial

from scsiameseclu import _negative_binomial, losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- latent-level correlation -----------------------------------------------------------------------------------------


def test_latent_correlation_is_zero_for_identical_decorrelated_views():
    z, _ = torch.linalg.qr(random(40, 6) - random(40, 6).mean(0))
    z = z - z.mean(0)
    z, _ = torch.linalg.qr(z)
    assert losses.latent_correlation_loss(z * 100, z * 100, 1.0).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("n_cells", [2, 3, 30])
def test_latent_correlation_equals_its_formula(n_cells):
    u, v = random(n_cells, 4), random(n_cells, 4, seed=1)
    correlation = torch.corrcoef(torch.cat([u.T, v.T]))[:4, 4:]
    diagonal = correlation.diagonal()
    off_diagonal = correlation[~torch.eye(4, dtype=torch.bool)]
    expected = (1 - diagonal).square().sum() / 4 + 0.3 * off_diagonal.square().sum() / 4
    assert losses.latent_correlation_loss(u, v, 0.3).item() == pytest.approx(expected.item(), rel=1e-4)


def test_latent_correlation_ignores_scale_and_shift_and_punishes_opposite_views():
    u, v = random(30, 4), random(30, 4, seed=1)
    base = losses.latent_correlation_loss(u, v)
    torch.testing.assert_close(losses.latent_correlation_loss(5 * u + 3, 0.5 * v - 1), base, rtol=1e-4, atol=0)
    assert losses.latent_correlation_loss(u, -u, 0.0).item() == pytest.approx(4.0, rel=1e-4)


def test_latent_correlation_weight_acts_on_redundant_dimensions_only():
    column = random(50, 1)
    redundant = column.repeat(1, 3)
    assert losses.latent_correlation_loss(redundant, redundant, 0.0).item() == pytest.approx(0.0, abs=1e-6)
    # Each of the 3 dimensions equals the other 2 dimensions: 6 entries of 1, divided by D = 3.
    assert losses.latent_correlation_loss(redundant, redundant, 0.1).item() == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("n_cells", [0, 1])
def test_latent_correlation_of_fewer_than_two_cells_is_zero_with_gradient(n_cells):
    u = torch.ones(n_cells, 3, requires_grad=True)
    loss = losses.latent_correlation_loss(u, torch.ones(n_cells, 3))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(u.grad, torch.zeros(n_cells, 3))


def test_collapsed_embeddings_have_finite_gradients():
    for function in (losses.latent_correlation_loss, losses.cell_correlation_loss, losses.propagation_loss):
        u = torch.zeros(5, 3, requires_grad=True)
        function(u, torch.zeros(5, 3)).backward()
        assert u.grad.isfinite().all()
        assert u.grad.abs().max() < 1e5


# --- cell-level correlation -------------------------------------------------------------------------------------------


def test_cell_correlation_by_hand():
    u = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert losses.cell_correlation_loss(u, u).item() == pytest.approx(0.0, abs=1e-6)
    # Cells 0 and 2 have the same direction: of the 6 pairs, (0, 2) and (2, 0) have cosine 1.
    u = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    assert losses.cell_correlation_loss(u, u).item() == pytest.approx(2 / 6, rel=1e-5)
    # Cell 0 has the opposite direction in the second view: cosine -1 with itself.
    v = torch.tensor([[-2.0, 0.0], [0.0, 3.0]])
    assert losses.cell_correlation_loss(v, v.abs()).item() == pytest.approx(4 / 2, rel=1e-5)


def test_neighbours_are_not_pushed_apart():
    u = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], requires_grad=True)
    neighbours = losses.batch_neighbor_mask(torch.tensor([10, 11, 12]), torch.tensor([[12], [11], [12]]))
    assert losses.cell_correlation_loss(u, u, neighbours).item() == pytest.approx(0.0, abs=1e-6)
    all_pairs = torch.ones(3, 3, dtype=torch.bool)
    v = random(3, 2).float()
    unit_u, unit_v = torch.nn.functional.normalize(u), torch.nn.functional.normalize(v)
    expected = (1 - (unit_u * unit_v).sum(1)).square().mean().item()
    assert losses.cell_correlation_loss(u, v, all_pairs).item() == pytest.approx(expected, rel=1e-5)


def test_a_single_unrelated_pair_counts_in_full():
    u, v = random(2, 3), random(2, 3, seed=1)
    positives = torch.tensor([[False, True], [False, False]])
    cosine = torch.nn.functional.normalize(u) @ torch.nn.functional.normalize(v).T
    expected = (1 - cosine.diagonal()).square().mean() + cosine[1, 0].square()
    assert losses.cell_correlation_loss(u, v, positives).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_of_positive_pairs_is_zero_in_the_separation_term():
    u = random(6, 3).requires_grad_()
    v = random(6, 3, seed=1)
    positives = torch.zeros(6, 6, dtype=torch.bool)
    positives[0, 1:] = True  # no pair of cell 0 of the first view counts
    agreement = (1 - torch.cosine_similarity(u, v)).square().mean()
    expected = torch.autograd.grad(agreement, u)[0][0]
    actual = torch.autograd.grad(losses.cell_correlation_loss(u, v, positives), u)[0][0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)


def test_cell_correlation_of_one_and_no_cell():
    u = random(1, 3)
    assert losses.cell_correlation_loss(u, u).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.cell_correlation_loss(u[:0], u[:0]).item() == 0


# --- neighbour mask ---------------------------------------------------------------------------------------------------


def test_neighbor_mask_equals_the_pairwise_definition():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 30, (20,), generator=generator)  # some cells are drawn twice
    table = torch.randint(0, 30, (30, 4), generator=generator)[index]
    mask = losses.batch_neighbor_mask(index, table)
    for i in range(20):
        for j in range(20):
            linked = index[j] in table[i] or index[i] in table[j] or index[i] == index[j]
            assert bool(mask[i, j]) == (i != j and bool(linked))


def test_neighbor_mask_of_padding_and_of_absent_neighbours_is_empty():
    index = torch.tensor([[5], [7]])
    assert not losses.batch_neighbor_mask(index, torch.tensor([[5, 5], [7, 99]])).any()
    assert losses.batch_neighbor_mask(index, torch.tensor([[5, 7], [7, 7]])).sum() == 2


def test_neighbor_mask_of_one_cell():
    assert losses.batch_neighbor_mask(torch.tensor([5]), torch.tensor([[5, 7]])).tolist() == [[False]]
    assert losses.batch_neighbor_mask(torch.tensor([5]), torch.tensor([[5, 7]]), torch.tensor([7])).tolist() == [[True]]


def test_neighbor_mask_of_no_cells_or_no_neighbours():
    assert losses.batch_neighbor_mask(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long)).shape == (
        0,
        0,
    )
    assert not losses.batch_neighbor_mask(torch.arange(3), torch.zeros(3, 0, dtype=torch.long)).any()


# --- propagation ------------------------------------------------------------------------------------------------------


def test_propagation_is_a_jensen_shannon_divergence():
    a, b = random(10, 5), random(10, 5, seed=1)
    p, q = a.softmax(1), b.softmax(1)
    m = (p + q) / 2
    expected = 0.5 * ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean()
    torch.testing.assert_close(losses.propagation_loss(a, b), expected)
    torch.testing.assert_close(losses.propagation_loss(a, b), losses.propagation_loss(b, a))
    assert losses.propagation_loss(a, a).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.propagation_loss(a, a + 7.0).item() == pytest.approx(0.0, abs=1e-12)


def test_propagation_is_at_most_log_two():
    a = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = losses.propagation_loss(a, torch.tensor([[0.0, 1000.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert a.grad.isfinite().all()


# --- clustering -------------------------------------------------------------------------------------------------------


def test_clustering_kl_by_hand():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    log_q = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    expected = (math.log(2) + 0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert losses.clustering_kl(p, log_q).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("function", [losses.clustering_kl, losses.propagation_loss])
def test_divergences_are_means_over_cells(function):
    """The divergence of one cell is the value of the cell, of several cells the mean, and of no cell 0."""
    p, log_q = random(6, 4).softmax(1), random(6, 4, seed=1).log_softmax(1)
    single = [function(p[[row]], log_q[[row]]).item() for row in range(6)]
    assert min(single) > 0
    assert function(p, log_q).item() == pytest.approx(sum(single) / 6)
    assert function(p[:0], log_q[:0]).item() == 0


def test_clustering_kl_is_zero_at_its_target_and_positive_elsewhere():
    target = random(20, 4).softmax(1)
    assert losses.clustering_kl(target, target.log()).item() == pytest.approx(0.0, abs=1e-12)
    for seed in range(1, 10):
        assert losses.clustering_kl(target, random(20, 4, seed=seed).log_softmax(1)) > 0


def test_clustering_kl_gradient_is_q_minus_p_and_leaves_the_target_alone():
    logits = random(5, 3).requires_grad_()
    target = random(5, 3, seed=1).softmax(1).requires_grad_()
    losses.clustering_kl(target, logits.log_softmax(1)).backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - target).detach() / 5)
    assert target.grad is None


def test_impossible_clusters_do_not_make_nan():
    p = torch.tensor([[1.0, 0.0]])
    log_q = torch.tensor([[0.0, -math.inf]])
    assert losses.clustering_kl(p, log_q).item() == 0


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        losses.latent_correlation_loss,
        losses.cell_correlation_loss,
        losses.propagation_loss,
        pytest.param(lambda u, v: losses.clustering_kl(v.softmax(1), u.log_softmax(1)), id="clustering_kl"),
    ],
)
def test_gradients_agree_with_finite_differences(function):
    u = random(6, 3).requires_grad_()
    v = random(6, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: function(x, v), (u,), atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        losses.latent_correlation_loss,
        losses.cell_correlation_loss,
        losses.propagation_loss,
        losses.clustering_kl,
    ],
)
def test_shapes_that_do_not_fit_are_refused(function):
    with pytest.raises(ValueError, match=r"Expected two matrices of one shape, found \(4, 3\) and \(4, 2\)"):
        function(torch.zeros(4, 3), torch.zeros(4, 2))


def test_masks_that_do_not_fit_are_refused():
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"positives of shape \(4, 4\), found \(3, 3\)"):
        losses.cell_correlation_loss(z, z, torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"neighbor_index of shape \(4, k\), found \(3, 2\)"):
        losses.batch_neighbor_mask(torch.arange(4), torch.zeros(3, 2, dtype=torch.long))


def test_negative_binomial_agrees_with_scvi_tools():
    x = torch.tensor([[0.0, 3.0, 1.0], [12.0, 0.0, 0.0]])
    log_rate, log_theta = torch.randn(2, 3), torch.randn(3)
    for dispersion in (log_theta, log_theta.expand(2, 3).contiguous()):
        expected = -NegativeBinomial(mu=log_rate.exp(), theta=dispersion.exp()).log_prob(x)
        assert torch.allclose(losses.negative_binomial_nll(x, log_rate, dispersion), expected, atol=1e-4)
    assert torch.isfinite(losses.negative_binomial_nll(torch.zeros(2, 3), log_rate, log_theta)).all()


@pytest.mark.parametrize("theta", [0.1, 9.9, 10.0, 10.1, 30.0, 1000.0])
def test_negative_binomial_on_both_sides_of_where_the_series_begins(theta):
    counts, mu = [1.0, 5.0, 40.0, 900.0], 7.0
    expected = [
        -math.lgamma(x + theta) + math.lgamma(theta) + math.lgamma(x + 1) + (x + theta) * math.log1p(mu / theta)
        - x * math.log(mu / theta)
        for x in counts
    ]  # fmt: skip
    x = torch.tensor([counts], dtype=torch.float64)
    logs = [torch.full((1, 4), math.log(value), dtype=torch.float64) for value in (mu, theta)]
    found = losses.negative_binomial_nll(x, *logs)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("log_theta", [-3.0, 0.0, 2.0, 2.6, 5.0])
@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=["per gene", "per count"])
def test_negative_binomial_gradient_agrees_with_finite_differences(shape, log_theta):
    x = torch.tensor([[0.0, 3.0, 0.0, 60.0], [7.0, 0.0, 1.0, 0.0], [0.0] * 4], dtype=torch.float64)
    rate = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    theta = (log_theta + 0.1 * torch.rand(shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, t: losses.negative_binomial_nll(x, r, t), (rate, theta))


@pytest.mark.parametrize("log_theta", [-15.0, -3.0, 0.0, 2.25, 2.35, 6.0, 15.0])
def test_negative_binomial_of_counts_in_the_table_and_beyond(log_theta):
    """Values are those of scvi-tools, and gradients those of automatic differentiation."""
    counts = [*range(1, 21), 0.0, 0.5, 1.5, 15.5, 16.5, 300.0]
    x = torch.tensor(counts, dtype=torch.float64).repeat(2, 1)
    log_rate = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_dispersion = torch.full((len(counts),), log_theta, dtype=torch.float64, requires_grad=True)
    nll = losses.negative_binomial_nll(x, log_rate, log_dispersion)
    expected = -NegativeBinomial(mu=log_rate.exp(), theta=log_dispersion.exp()).log_prob(x)
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(nll.sum(), [log_rate, log_dispersion])
    for one, other in zip(found, torch.autograd.grad(expected.sum(), [log_rate, log_dispersion]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(40,), (30, 40)], ids=["per gene", "per count"])
def test_negative_binomial_is_the_same_where_all_counts_are_looked_at(shape, monkeypatch):
    x = torch.poisson(torch.rand(30, 40, dtype=torch.float64) * 3)
    inputs = [torch.randn(30, 40, dtype=torch.float64), torch.randn(shape, dtype=torch.float64) * 3]
    weights, found = torch.randn(30, 40, dtype=torch.float64), []
    for present_in in (_negative_binomial.present_in, lambda counts: None):  # on a CPU, and on a GPU
        monkeypatch.setattr(_negative_binomial, "present_in", present_in)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        nll = losses.negative_binomial_nll(x, *leaves)
        found.append([nll, *torch.autograd.grad((nll * weights).sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtypes", list(itertools.product([torch.float32, torch.float64], repeat=3)))
def test_negative_binomial_takes_arguments_of_different_dtypes(dtypes):
    """The result has the most precise dtype, and every gradient the dtype of its argument."""
    counts, rates, thetas = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 0.0]]), torch.randn(2, 3), torch.arange(-1.0, 2.0)
    values = zip((counts, rates, thetas), dtypes, strict=True)
    x, log_rate, log_theta = (value.to(dtype) for value, dtype in values)
    log_rate.requires_grad_(), log_theta.requires_grad_()
    nll = losses.negative_binomial_nll(x, log_rate, log_theta)
    nll.sum().backward()
    expected = NegativeBinomial(mu=rates.double().exp(), theta=thetas.double().exp()).log_prob(counts.double())
    torch.testing.assert_close(nll.double(), -expected, rtol=1e-4, atol=1e-5)
    assert nll.dtype == max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)
    assert (log_rate.grad.dtype, log_theta.grad.dtype) == dtypes[1:]


def test_negative_binomial_takes_tensors_in_any_order_of_memory():
    x = torch.poisson(torch.ones(5, 3))
    log_rate, log_theta, weights = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3)
    values = []
    for order in (lambda tensor: tensor, lambda tensor: tensor.T.contiguous().T):
        inputs = [order(tensor).requires_grad_() for tensor in (log_rate.clone(), log_theta.clone())]
        nll = losses.negative_binomial_nll(order(x), *inputs)
        values.append([nll, *torch.autograd.grad((nll * order(weights)).sum(), inputs)])
    for one, other in zip(*values, strict=True):
        torch.testing.assert_close(one, other)


def test_poisson_agrees_with_torch():
    x, log_rate = torch.tensor([[0.0, 3.0, 1.0]]), torch.randn(1, 3)
    expected = -torch.distributions.Poisson(log_rate.exp()).log_prob(x)
    assert torch.allclose(losses.poisson_nll(x, log_rate), expected, atol=1e-5)


def test_gradient_does_not_depend_on_the_threads():
    """There are so many counts here that torch could add them up in parallel, in the random order of the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        x = torch.ones(256, 600)
        log_rate, gradients = torch.randn(256, 600, generator=torch.Generator().manual_seed(0)), []
        for _ in range(5):
            log_theta = torch.zeros(600, requires_grad=True)
            losses.negative_binomial_nll(x, log_rate, log_theta).sum().backward()
            gradients.append(log_theta.grad)
        assert all(torch.equal(gradients[0], other) for other in gradients)
    finally:
        torch.set_num_threads(before)


def test_neighbor_mask_of_partners():
    index, neighbors = torch.tensor([4, 7, 9]), torch.tensor([[7, 1], [2, 7], [0, 3]])
    mask = losses.batch_neighbor_mask(index, neighbors, torch.tensor([[1], [7], [0]]))
    assert mask.tolist() == [[True, True, False], [False, True, False], [False, False, True]]


@pytest.mark.parametrize("log_theta", [-90.0, -25.0, 0.0, 2.3, 2.4, 9.0, 17.0, 30.0, 90.0])
@pytest.mark.parametrize("count", [0.0, 1.0, 50.0, 1e4])
def test_negative_binomial_at_extreme_dispersion(log_theta, count):
    """Single precision agrees with scvi-tools in double precision where the latter is exact, and is never negative."""
    x = torch.tensor([[count]])
    log_rate = torch.tensor([[count + 0.5]]).log().requires_grad_()
    dispersion = torch.tensor([log_theta], requires_grad=True)
    nll = losses.negative_binomial_nll(x, log_rate, dispersion)
    nll.sum().backward()
    assert torch.isfinite(nll).all() and (nll >= 0).all()
    assert torch.isfinite(log_rate.grad).all() and torch.isfinite(dispersion.grad).all()
    if abs(log_theta) <= 20.0:
        exact = NegativeBinomial(mu=log_rate.detach().double().exp(), theta=dispersion.detach().double().exp())
        assert torch.allclose(nll.double(), -exact.log_prob(x.double()), rtol=1e-4, atol=0.02)


def test_pairs_of_cells_and_partners_need_no_table_of_all_neighbours():
    index, partners = torch.arange(600), torch.randint(0, 900, (600,))
    neighbors = torch.randint(0, 900, (600, 40))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for each in result if isinstance(result, tuple) else (result,):
                if isinstance(each, torch.Tensor):
                    largest = max(largest, each.numel())
            return result

    with Watch():
        mask = losses.batch_neighbor_mask(index, neighbors, partners)
    assert largest <= 600 * 901
    expected = (index[:, None] == partners) | (neighbors.unsqueeze(2) == partners).any(dim=1)
    assert torch.equal(mask, expected)
