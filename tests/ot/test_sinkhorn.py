import math

import numpy as np
import ot
import pytest
import torch

from scsiameseclu.ot import _sinkhorn, sinkhorn, target_from_duals

N_CELLS, N_CLUSTERS = 120, 7


@pytest.fixture
def cost() -> torch.Tensor:
    return torch.rand(N_CELLS, N_CLUSTERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def column_marginals() -> torch.Tensor:
    masses = torch.arange(1, N_CLUSTERS + 1, dtype=torch.float64) ** 2
    return masses / masses.sum()


@pytest.fixture
def row_marginals() -> torch.Tensor:
    masses = torch.rand(N_CELLS, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    return masses / masses.sum()


def pot_plan(cost, reg, columns, rows=None):
    rows = np.full(len(cost), 1 / len(cost)) if rows is None else rows.numpy()
    return ot.sinkhorn(
        rows,
        columns.numpy(),
        cost.double().numpy(),
        reg,
        method="sinkhorn_log",
        numItermax=50_000,
        stopThr=1e-10,
        warn=False,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reg", [1.0, 0.1, 0.01])
def test_plan_agrees_with_pot(cost, column_marginals, reg, dtype):
    cost = cost.to(dtype)
    result = sinkhorn(-cost / reg, column_marginals, n_iter=5000, tol=1e-9)
    assert result.converged
    assert result.plan.dtype == dtype
    # The entries of the plan are at most 1 / n, so the rows are compared on the scale of probabilities.
    difference = np.abs(result.plan.numpy() - pot_plan(cost, reg, column_marginals)) * N_CELLS
    assert difference.max() < 1e-5


def test_float32_at_a_tiny_temperature_keeps_the_mass(cost, column_marginals):
    """The kernel form loses 99.9 % of the mass here (see POT); the log form must keep the mass."""
    cost = cost.float()
    result = sinkhorn(-cost / 1e-3, column_marginals, n_iter=20_000, tol=1e-8)
    assert result.converged
    reference = pot_plan(cost, 1e-3, column_marginals)
    difference = np.abs(result.plan.numpy() - reference)
    assert difference.max() < 1e-6
    assert difference.sum() < 1e-4  # total mass 1; float32 rounds scores of up to 1,000 to 6e-5
    assert result.plan.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_row_marginals_agree_with_pot(cost, column_marginals, row_marginals):
    result = sinkhorn(-cost / 0.1, column_marginals, row_marginals=row_marginals, n_iter=5000, tol=1e-10)
    reference = pot_plan(cost, 0.1, column_marginals, row_marginals)
    assert np.abs(result.plan.numpy() - reference).max() < 1e-8
    torch.testing.assert_close(result.plan.sum(1), row_marginals)
    torch.testing.assert_close(result.target.sum(1), torch.ones(N_CELLS, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:If reg_type = entropy")
@pytest.mark.parametrize(("reg", "reg_m"), [(0.1, 0.5), (0.05, 1.0), (1.0, 0.1)])
def test_relaxed_columns_agree_with_pot(cost, column_marginals, reg, reg_m):
    result = sinkhorn(-cost / reg, column_marginals, marginal_relaxation=reg_m / reg, n_iter=5000, tol=1e-12)
    reference = ot.unbalanced.sinkhorn_unbalanced(
        np.full(N_CELLS, 1 / N_CELLS),
        column_marginals.numpy(),
        cost.numpy(),
        reg,
        reg_m=(np.inf, reg_m),
        reg_type="entropy",
        numItermax=20_000,
        stopThr=1e-14,
    )
    assert result.converged
    assert np.abs(result.plan.numpy() - reference).max() < 1e-10


def test_relaxation_goes_from_softmax_to_exact(cost, column_marginals):
    logits = -cost / 0.1
    errors = [
        sinkhorn(logits, column_marginals, marginal_relaxation=rho, n_iter=2000).marginal_error
        for rho in (0.0, 0.5, 5.0, 500.0, math.inf)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6
    free = sinkhorn(logits, column_marginals, marginal_relaxation=0.0)
    torch.testing.assert_close(free.target, logits.softmax(1))
    assert free.converged and free.n_iter == 1 and not free.column_duals.any()


def test_marginals_and_duals_describe_the_plan(cost, column_marginals):
    logits = -cost / 0.1
    result = sinkhorn(logits, column_marginals, n_iter=1000)
    torch.testing.assert_close(result.plan.sum(0), result.column_masses)
    torch.testing.assert_close(result.plan.sum(1), result.row_marginals)
    from_duals = (logits + result.row_duals[:, None] + result.column_duals).exp()
    torch.testing.assert_close(result.plan, from_duals)
    error = (result.plan.sum(0) - column_marginals).abs().sum().item()
    assert result.marginal_error == pytest.approx(error, abs=1e-12)
    assert result.marginal_error == pytest.approx(result.residual, abs=1e-12)


def test_default_marginals_are_uniform(cost):
    result = sinkhorn(-cost / 0.1, n_iter=1000)
    torch.testing.assert_close(
        result.column_masses, torch.full((N_CLUSTERS,), 1 / N_CLUSTERS).double(), atol=1e-6, rtol=0
    )


def test_stopping_early_is_reported(cost, column_marginals):
    result = sinkhorn(-cost / 0.01, column_marginals, n_iter=2)
    assert not result.converged
    assert result.n_iter == 2
    assert result.marginal_error > 1e-3
    # the row constraints always hold
    torch.testing.assert_close(result.plan.sum(1), torch.full((N_CELLS,), 1 / N_CELLS).double())


def test_tolerance_stops_the_iteration(cost, column_marginals):
    loose = sinkhorn(-cost / 0.05, column_marginals, tol=1e-2, n_iter=1000)
    tight = sinkhorn(-cost / 0.05, column_marginals, tol=1e-8, n_iter=1000)
    assert loose.n_iter < tight.n_iter
    assert tight.residual <= 1e-8 < loose.residual <= 1e-2


def test_warm_start_needs_fewer_iterations_and_gives_the_same_duals(cost, column_marginals):
    logits = -cost / 0.02
    cold = sinkhorn(logits, column_marginals, n_iter=5000, tol=1e-10)
    warm = sinkhorn(logits, column_marginals, n_iter=5000, tol=1e-10, initial_duals=cold.column_duals + 3.0)
    assert warm.n_iter <= 2 < cold.n_iter
    torch.testing.assert_close(warm.column_duals, cold.column_duals, atol=1e-6, rtol=0)


def test_cluster_without_mass_gets_no_cell(cost):
    columns = torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    for relaxation in (math.inf, 2.0, 0.0):
        result = sinkhorn(-cost / 0.1, columns, marginal_relaxation=relaxation)
        assert result.target.isfinite().all()
        if relaxation > 0:
            assert result.target[:, [1, 3, 4, 5, 6]].abs().max() == 0
            assert result.converged
    revived = sinkhorn(-cost / 0.1, initial_duals=sinkhorn(-cost / 0.1, columns).column_duals, n_iter=1000)
    torch.testing.assert_close(revived.target, sinkhorn(-cost / 0.1, n_iter=1000).target, atol=1e-4, rtol=0)


def test_target_of_unseen_cells_needs_the_duals_only(cost, column_marginals):
    logits = (-cost / 0.1).float()
    result = sinkhorn(logits, column_marginals)
    torch.testing.assert_close(target_from_duals(logits[40:50], result.column_duals), result.target[40:50])
    new = torch.zeros(1, N_CLUSTERS)
    expected = result.column_duals.softmax(0).float()
    torch.testing.assert_close(target_from_duals(new, result.column_duals)[0], expected)


def test_shift_of_a_cells_scores_changes_nothing(cost, column_marginals):
    logits = -cost / 0.1
    shifted = logits + torch.linspace(-500, 500, N_CELLS).double()[:, None]
    torch.testing.assert_close(sinkhorn(shifted, column_marginals).target, sinkhorn(logits, column_marginals).target)


def test_chunks_of_rows_change_nothing(cost, column_marginals, monkeypatch):
    whole = sinkhorn(-cost / 0.1, column_marginals)
    monkeypatch.setattr(_sinkhorn, "_CHUNK_ROWS", 7)
    chunked = sinkhorn(-cost / 0.1, column_marginals)
    assert chunked.n_iter == whole.n_iter
    torch.testing.assert_close(chunked.plan, whole.plan)
    torch.testing.assert_close(chunked.row_duals, whole.row_duals)


def test_one_cell_and_one_cluster():
    one_cell = sinkhorn(torch.tensor([[1.0, -2.0]]), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(one_cell.target, torch.tensor([[0.25, 0.75]]))
    one_cluster = sinkhorn(torch.randn(5, 1))
    torch.testing.assert_close(one_cluster.target, torch.ones(5, 1))


def test_no_gradient(cost, column_marginals):
    logits = (-cost / 0.1).requires_grad_()
    result = sinkhorn(logits, column_marginals)
    assert not result.column_duals.requires_grad
    assert not result.row_duals.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.ones(3)}, r"found shape \(3,\)"),
        ({"logits": torch.ones(0, 2)}, r"found shape \(0, 2\)"),
        ({"logits": torch.ones(2, 2, dtype=torch.int64)}, "torch.int64"),
        ({"logits": torch.tensor([[0.0, 1.0], [0.0, math.nan]])}, "NaN or inf in row 1"),
        ({"column_marginals": torch.ones(3) / 3}, r"column_marginals of shape \(2,\), found \(3,\)"),
        ({"column_marginals": torch.tensor([1.5, -0.5])}, "column_marginals >= 0"),
        ({"column_marginals": torch.tensor([math.nan, 1.0])}, "column_marginals >= 0 and finite"),
        ({"column_marginals": torch.tensor([3.0, 4.0])}, "total 1, found 7; divide by the total"),
        ({"row_marginals": torch.ones(4)}, "row_marginals with total 1, found 4"),
        ({"n_iter": 0}, "n_iter >= 1, found 0"),
        ({"tol": math.nan}, "tol >= 0, found nan"),
        ({"marginal_relaxation": -1.0}, "marginal_relaxation >= 0, found -1.0"),
        ({"initial_duals": torch.zeros(3)}, r"initial_duals of shape \(2,\), found \(3,\)"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    arguments = {"logits": torch.zeros(4, 2)} | arguments
    with pytest.raises(ValueError, match=message):
        sinkhorn(arguments.pop("logits"), **arguments)


def test_duals_of_other_clusters_are_refused():
    with pytest.raises(ValueError, match=r"logits \(4, 2\) and duals \(3,\)"):
        target_from_duals(torch.zeros(4, 2), torch.zeros(3))
