"""Exact transport, against the assignment problem of scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from scsiameseclu.ot import _exact, exact_transport, sinkhorn, transport_to_masses
from scsiameseclu.ot._transport import check_transport

N_CELLS, SIZES = 60, [30, 20, 10]


def scores(dtype=torch.float64, seed=0):
    return torch.randn(N_CELLS, len(SIZES), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def masses(sizes=SIZES):
    sizes = torch.tensor(sizes, dtype=torch.float64)
    return sizes / sizes.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plan_is_the_best_assignment_with_these_sizes(dtype):
    logits = scores(dtype)
    result = exact_transport(logits, masses())
    places = np.repeat(np.arange(3), SIZES)
    cells, taken = linear_sum_assignment(logits.numpy()[:, places], maximize=True)
    expected = np.empty(N_CELLS, dtype=int)
    expected[cells] = places[taken]
    assert result.plan.dtype == dtype
    assert result.plan.argmax(dim=1).tolist() == expected.tolist()
    torch.testing.assert_close(result.plan.sum(dim=1), torch.full((N_CELLS,), 1 / N_CELLS, dtype=dtype))
    torch.testing.assert_close(result.plan.sum(dim=0).double(), masses())
    assert result.marginal_error < 1e-6


def test_duals_give_the_plan_back():
    """Every cell goes to a cluster of the highest score plus dual."""
    logits = scores()
    result = exact_transport(logits, masses())
    shifted = logits + result.column_duals
    chosen = (shifted * (result.plan > 0)).sum(dim=1) / (result.plan > 0).sum(dim=1)
    torch.testing.assert_close(chosen, shifted.amax(dim=1))
    assert abs(float(result.column_duals @ masses())) < 1e-12


def test_masses_of_cells_are_held():
    rows = torch.arange(1, N_CELLS + 1, dtype=torch.float64)
    rows = rows / rows.sum()
    result = exact_transport(scores(), masses(), row_marginals=rows)
    torch.testing.assert_close(result.plan.sum(dim=1), rows)
    torch.testing.assert_close(result.plan.sum(dim=0), masses())
    assert int((result.plan > 0).sum()) <= N_CELLS + 2


def test_masses_are_equal_if_none_are_given():
    torch.testing.assert_close(exact_transport(scores()).plan.sum(dim=0), masses([1, 1, 1]))


def test_a_cluster_without_mass_gets_no_cell():
    result = exact_transport(scores(), masses([2, 0, 1]))
    assert result.column_duals[1] == -math.inf
    assert not result.plan[:, 1].any()
    assert result.column_duals[[0, 2]].isfinite().all()
    torch.testing.assert_close(result.plan.sum(dim=0), masses([2, 0, 1]))


def test_marginal_error_is_the_distance_of_the_column_sums():
    result = _exact.ExactResult(torch.tensor([[0.5, 0.0], [0.5, 0.0]]), torch.zeros(2), masses([3, 1]))
    assert result.marginal_error == pytest.approx(0.5)


def test_entropic_plans_of_low_temperature_come_close():
    logits = scores()
    exact, entropic = exact_transport(logits, masses()), sinkhorn(logits / 0.01, masses(), n_iter=20_000)
    assert float((exact.plan - entropic.plan).abs().sum()) < 0.05


@pytest.mark.filterwarnings("ignore:numItermax reached")
def test_a_solver_that_gives_up_is_an_error(monkeypatch):
    monkeypatch.setattr(_exact, "_MAX_PIVOTS", 1)
    with pytest.raises(RuntimeError, match="transport of 60 cells to 3 clusters, found: .*'entropic'"):
        exact_transport(scores(), masses())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.ones(3)}, r"found shape \(3,\)"),
        ({"logits": torch.tensor([[0.0, 1.0], [0.0, math.nan]])}, "NaN or inf in row 1"),
        ({"column_marginals": torch.ones(3) / 3}, r"column_marginals of shape \(2,\), found \(3,\)"),
        ({"row_marginals": torch.ones(4)}, "row_marginals with total 1, found 4"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    arguments = {"logits": torch.zeros(4, 2)} | arguments
    with pytest.raises(ValueError, match=message):
        exact_transport(arguments.pop("logits"), **arguments)


def test_the_kind_of_transport_decides_on_the_solver():
    logits = scores()
    torch.testing.assert_close(
        transport_to_masses(logits, masses(), "exact").column_duals, exact_transport(logits, masses()).column_duals
    )
    for options in ({}, {"n_iter": 1}, {"marginal_relaxation": 0.5}, {"initial_duals": torch.ones(3), "n_iter": 2}):
        expected = sinkhorn(logits, masses(), **options).column_duals
        torch.testing.assert_close(transport_to_masses(logits, masses(), **options).column_duals, expected)


def test_kinds_of_transport_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="'entropic' or 'exact', found 'sinkhorn'"):
        check_transport("sinkhorn")
    with pytest.raises(ValueError, match="marginal_relaxation=inf with transport='exact', found 0.5"):
        transport_to_masses(scores(), masses(), "exact", marginal_relaxation=0.5)
