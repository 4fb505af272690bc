"""Exact optimal transport from cells to clusters, solved by POT."""

from dataclasses import dataclass

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsiameseclu.ot._sinkhorn import as_marginals, check_logits

_MAX_PIVOTS = 100_000_000  # many more than 50,000 cells and 60 clusters need, so that POT ends at the optimum


@dataclass(frozen=True)
class ExactResult:
    r"""Solution of an unregularised transport problem between cells (rows) and clusters (columns).

    Attributes
    ----------
    plan
        Transport plan, shape ``(n, K)``, dtype of the scores, total mass 1. At most :math:`K - 1` cells are split
        between clusters.
    column_duals
        Duals :math:`g` of the clusters, shape ``(K,)``, float64, mean 0 over the column marginals; ``-inf`` for a
        cluster of mass 0. The cluster of a cell with scores :math:`s_i` is :math:`\arg\max_k (s_{ik} + g_k)`. Cells
        with equal values of two clusters are not divided between these clusters as in the plan.
    column_marginals
        Requested column sums, shape ``(K,)``, float64, total 1.
    """

    plan: Tensor
    column_duals: Tensor
    column_marginals: Tensor

    @property
    def marginal_error(self) -> float:
        """L1 distance between the plan's column sums and the requested ones: 0 is exact, 2 is the worst."""
        return float((self.plan.cpu().double().sum(dim=0) - self.column_marginals).abs().sum())


@torch.no_grad()
def exact_transport(
    logits: Tensor, column_marginals: Tensor | None = None, *, row_marginals: Tensor | None = None
) -> ExactResult:
    r"""Exact optimal transport from cells to clusters, without gradients.

    Solves, with scores :math:`s`, row sums :math:`a` and column sums :math:`b`,

    .. math:: \max_{T \ge 0,\; T 1 = a,\; T^\top 1 = b} \; \sum_{ik} T_{ik} s_{ik}

    by the network simplex of POT (``ot.emd``; Bonneel et al., ACM Transactions on Graphics 2011). The solver runs on
    the CPU in float64 and holds ``n * K`` numbers. A solution takes several times as long as
    :func:`~scsiameseclu.ot.sinkhorn`.

    Parameters
    ----------
    logits
        Finite scores, shape ``(n, K)``, floating dtype.
    column_marginals
        Mass of each cluster, shape ``(K,)``, non-negative, total 1. Uniform if not given. A cluster of mass 0 gets
        no cell.
    row_marginals
        Mass of each cell, shape ``(n,)``, non-negative, total 1. ``1 / n`` each if not given.

    Returns
    -------
    ExactResult
        Plan and duals.

    Raises
    ------
    ValueError
        If the scores are not a finite, non-empty floating-point matrix, or if a marginal has the wrong shape, a
        negative or non-finite entry or a total other than 1.
    RuntimeError
        If POT does not reach the optimum.

    Examples
    --------
    >>> logits = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> result = exact_transport(logits, torch.tensor([0.5, 0.5]))
    >>> result.plan.argmax(dim=1).tolist()
    [0, 0, 1, 1]
    """
    check_logits(logits)
    n_rows, n_columns = logits.shape
    cpu = torch.device("cpu")
    columns = as_marginals(column_marginals, n_columns, "column_marginals", cpu, torch.float64)
    rows = as_marginals(row_marginals, n_rows, "row_marginals", cpu, torch.float64)
    has_mass = (columns > 0).numpy()  # POT would give a cluster without mass any dual
    masses = columns.numpy()[has_mass]
    plan, duals = _solve(logits.double().cpu().numpy()[:, has_mass], rows.numpy(), masses)

    full_plan = np.zeros((n_rows, n_columns))
    full_plan[:, has_mass] = plan
    full_duals = np.full(n_columns, -np.inf)
    full_duals[has_mass] = duals - masses @ duals
    return ExactResult(torch.as_tensor(full_plan).to(logits), torch.as_tensor(full_duals), columns)


def _solve(
    scores: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Plan and column duals of a problem whose columns all have mass."""
    # Both sums are 1 but for rounding; POT warns of the last digit.
    plan, log = ot.emd(rows, columns, -scores, numItermax=_MAX_PIVOTS, log=True, check_marginals=False)
    if log["warning"] is not None:
        raise RuntimeError(
            f"Expected POT to solve the transport of {len(rows)} cells to {len(columns)} clusters, found: "
            f"{log['warning']} Ask for transport='entropic', or pass fewer cells."
        )
    return plan, log["v"]
