"""Sinkhorn scaling of a cells x clusters score matrix.

The row of a cell in the transport plan follows from its scores and the K column duals, because the dual of the cell
only normalises the row. The solver therefore iterates on K numbers. It reads the scores in chunks of rows, and holds
temporary tensors for one chunk only. Time and memory are linear in the number of cells.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 65_536
_MASS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SinkhornResult:
    r"""Solution of an entropic transport problem between cells (rows) and clusters (columns).

    The plan is :math:`T_{ik} = \exp(s_{ik} + f_i + g_k)`, with ``logits`` :math:`s`, row duals :math:`f` and column
    duals :math:`g`. The row sums of the plan are exact. ``marginal_error`` is the error of the column sums.

    Attributes
    ----------
    logits
        Scores that were passed to :func:`sinkhorn`, shape ``(n, K)``. Not a copy.
    row_duals
        :math:`f`, shape ``(n,)``, dtype of ``logits``.
    column_duals
        :math:`g`, shape ``(K,)``, float64 (float32 on devices without float64). ``-inf`` for a cluster of mass 0.
        :func:`target_from_duals` needs only these duals to assign other cells.
    row_marginals
        Requested row sums, shape ``(n,)``, dtype of ``logits``, total 1.
    column_marginals
        Requested column sums, shape ``(K,)``, dtype of ``column_duals``, total 1.
    column_masses
        Column sums of the plan, shape ``(K,)``, dtype of ``column_duals``.
    residual
        L1 distance from the fixed point in units of mass. The solver stops when the residual is at most ``tol``. The
        residual equals ``marginal_error`` unless the column constraint is relaxed.
    n_iter
        Number of column updates.
    converged
        Whether ``residual <= tol``.
    """

    logits: Tensor
    row_duals: Tensor
    column_duals: Tensor
    row_marginals: Tensor
    column_marginals: Tensor
    column_masses: Tensor
    residual: float
    n_iter: int
    converged: bool

    @property
    def marginal_error(self) -> float:
        """L1 distance between the column sums of the plan and the requested column sums, from 0 (exact) to 2."""
        return float((self.column_masses - self.column_marginals).abs().sum())

    @property
    def target(self) -> Tensor:
        """Soft assignments of the cells, shape ``(n, K)``, dtype of ``logits``: the plan with row sums of 1."""
        return target_from_duals(self.logits, self.column_duals)

    @property
    def plan(self) -> Tensor:
        """Transport plan, shape ``(n, K)``, dtype of ``logits``, total mass 1."""
        return self.target * self.row_marginals[:, None]


@torch.no_grad()
def sinkhorn(
    logits: Tensor,
    column_marginals: Tensor | None = None,
    *,
    row_marginals: Tensor | None = None,
    n_iter: int = 100,
    tol: float = 1e-6,
    marginal_relaxation: float = math.inf,
    initial_duals: Tensor | None = None,
) -> SinkhornResult:
    r"""Entropic optimal transport from cells to clusters, solved in the log domain without gradients.

    Solves, with scores :math:`s`, row sums :math:`a` and column sums :math:`b`,

    .. math::

        \min_{T \ge 0,\; T 1 = a} \; \sum_{ik} T_{ik} (\log T_{ik} - 1 - s_{ik})
        + \rho \, \mathrm{KL}(T^\top 1 \,\|\, b)

    by the updates :math:`f_i = \log a_i - \mathrm{LSE}_k(s_{ik} + g_k)` and
    :math:`g_k = \frac{\rho}{1 + \rho} \left(\log b_k - \mathrm{LSE}_i(s_{ik} + f_i)\right)`.
    For a cost matrix ``M`` and a regularisation ``reg``, pass ``logits=-M / reg``. The relaxation ``reg_m`` of POT's
    ``ot.unbalanced.sinkhorn_unbalanced(reg_type="entropy")`` corresponds to ``marginal_relaxation=reg_m / reg``.

    Parameters
    ----------
    logits
        Finite scores (similarity divided by temperature), shape ``(n, K)``, floating-point dtype.
    column_marginals
        Mass of each cluster, shape ``(K,)``, non-negative, total 1. Uniform by default. A cluster of mass 0 gets no
        cell.
    row_marginals
        Mass of each cell, shape ``(n,)``, non-negative, total 1. By default ``1 / n`` for each cell.
    n_iter
        Largest number of column updates.
    tol
        Stop when the L1 distance from the fixed point is at most ``tol``, in units of mass. The total mass is 1.
    marginal_relaxation
        :math:`\rho`, the weight of the penalty for deviations from the column marginals, in units of the temperature.
        With ``inf`` the column marginals hold exactly. With ``0`` they have no effect, and the target is the softmax of
        the scores.
    initial_duals
        Column duals to start from, shape ``(K,)``, such as the duals of an earlier run. Zeros by default.

    Returns
    -------
    SinkhornResult
        Duals, plan, targets of the cells, marginal error, and whether the solver converged.

    Raises
    ------
    ValueError
        If the scores are not a finite, non-empty floating-point matrix, if a marginal has the wrong shape, a
        negative or non-finite entry or a total other than 1, or if ``n_iter``, ``tol`` or ``marginal_relaxation``
        is out of range.

    Notes
    -----
    The solver computes in float64 (float32 on devices without float64) for scores of any dtype, because float32 is not
    accurate enough at small temperatures. Sources: Cuturi (2013) for the scaling, Chizat et al. (2018) for the relaxed
    update.

    Examples
    --------
    >>> logits = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> result = sinkhorn(logits, torch.tensor([0.5, 0.5]))
    >>> result.converged
    True
    >>> result.target.argmax(dim=1).tolist()
    [0, 0, 1, 1]
    """
    check_logits(logits)
    _check_settings(n_iter, tol, marginal_relaxation)
    n_rows, n_columns = logits.shape
    # MPS has no float64. On other devices float64 costs little and removes errors at small temperatures.
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    columns = as_marginals(column_marginals, n_columns, "column_marginals", logits.device, dtype)
    rows = as_marginals(row_marginals, n_rows, "row_marginals", logits.device, dtype)
    log_columns, log_rows = columns.log(), rows.log()
    shrink = 1.0 if math.isinf(marginal_relaxation) else marginal_relaxation / (1.0 + marginal_relaxation)

    duals = _start(initial_duals, log_columns)
    pull = _column_pull(logits, duals, log_rows)
    done, residual = 0, math.inf
    while done < n_iter and residual > tol:
        # shrink == 0 would turn the -inf of an empty cluster into NaN
        duals = shrink * (log_columns - pull) if shrink > 0 else torch.zeros_like(duals)
        pull = _column_pull(logits, duals, log_rows)
        residual = _residual(duals, pull, log_columns, shrink)
        done += 1
    converged = residual <= tol
    if not converged:
        logger.debug("Sinkhorn stopped after %d iterations at residual %.2e (tol %.2e).", done, residual, tol)
    masses = (duals + pull).exp()
    if shrink == 1.0:
        duals = _centred(duals, columns)
    return SinkhornResult(
        logits=logits,
        row_duals=_row_duals(logits, duals, log_rows),
        column_duals=duals,
        row_marginals=rows.to(logits.dtype),
        column_marginals=columns,
        column_masses=masses,
        residual=residual,
        n_iter=done,
        converged=converged,
    )


def target_from_duals(logits: Tensor, column_duals: Tensor) -> Tensor:
    r"""Transport targets of cells, :math:`P_{ik} = \mathrm{softmax}_k(s_{ik} + g_k)`.

    The cells need not be part of the transport problem. A mini-batch or a query needs only the K column duals of
    :func:`sinkhorn`.

    Parameters
    ----------
    logits
        Scores, shape ``(n, K)``, on the same scale as the scores that were passed to :func:`sinkhorn`.
    column_duals
        Duals of the clusters, shape ``(K,)``.

    Returns
    -------
    Tensor
        Shape ``(n, K)``, dtype of ``logits``. Each row sums to 1.

    Raises
    ------
    ValueError
        If the number of duals differs from the number of columns of ``logits``.
    """
    if logits.ndim != 2 or column_duals.shape != (logits.shape[1],):
        raise ValueError(
            f"Expected one dual per column of logits, found logits {tuple(logits.shape)} and duals "
            f"{tuple(column_duals.shape)}; pass the column_duals of a problem with the same clusters."
        )
    duals = column_duals.to(logits.device)
    return torch.cat([(chunk.to(duals.dtype) + duals).softmax(1).to(logits.dtype) for chunk in _chunks(logits)])


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(_CHUNK_ROWS)


def _column_pull(logits: Tensor, duals: Tensor, log_rows: Tensor) -> Tensor:
    """Log of sum_i exp(s_ik + f_i) for each column, with the row duals f that belong to the column duals ``duals``.

    The result plus ``duals`` is the log of the column masses.
    """
    pull = torch.full_like(duals, -math.inf)
    for chunk, log_row in zip(_chunks(logits), _chunks(log_rows), strict=True):
        scores = chunk.to(duals.dtype)
        row_duals = log_row - (scores + duals).logsumexp(1)
        pull = torch.logaddexp(pull, (scores + row_duals[:, None]).logsumexp(0))
    return pull


def _row_duals(logits: Tensor, duals: Tensor, log_rows: Tensor) -> Tensor:
    sums = [(chunk.to(duals.dtype) + duals).logsumexp(1) for chunk in _chunks(logits)]
    return (log_rows - torch.cat(sums)).to(logits.dtype)


def _residual(duals: Tensor, pull: Tensor, log_columns: Tensor, shrink: float) -> float:
    """Mass that the next column update would move."""
    if shrink == 0.0:
        return 0.0
    moved = (duals + pull).exp() - (shrink * (log_columns - pull) + pull).exp()
    return float(moved.abs().sum())


def _centred(duals: Tensor, columns: Tensor) -> Tensor:
    """Remove the free additive constant of the duals, so that the duals do not depend on the initial duals."""
    used = columns > 0
    return duals - (columns[used] * duals[used]).sum()


def _start(initial: Tensor | None, log_columns: Tensor) -> Tensor:
    if initial is None:
        return torch.zeros_like(log_columns)
    if initial.shape != log_columns.shape:
        raise ValueError(
            f"Expected initial_duals of shape {tuple(log_columns.shape)}, found {tuple(initial.shape)}; "
            "pass the duals of a problem with the same clusters, or None."
        )
    return initial.to(log_columns)


def check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or 0 in logits.shape or not logits.is_floating_point():
        raise ValueError(
            f"Expected logits as a non-empty floating-point matrix (cells, clusters), found shape "
            f"{tuple(logits.shape)} and dtype {logits.dtype}; pass similarity divided by temperature."
        )
    finite = logits.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"Expected finite logits, found NaN or inf in row {row}; check the embedding of that cell.")


def _check_settings(n_iter: int, tol: float, marginal_relaxation: float) -> None:
    if n_iter < 1:
        raise ValueError(f"Expected n_iter >= 1, found {n_iter}; allow at least one iteration.")
    if not tol >= 0:
        raise ValueError(f"Expected tol >= 0, found {tol}; pass an amount of mass such as 1e-6.")
    if not marginal_relaxation >= 0:
        raise ValueError(
            f"Expected marginal_relaxation >= 0, found {marginal_relaxation}; pass inf to hold the marginals exactly."
        )


def as_marginals(marginals: Tensor | None, size: int, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    if marginals is None:
        return torch.full((size,), 1.0 / size, device=device, dtype=dtype)
    if marginals.shape != (size,):
        raise ValueError(
            f"Expected {name} of shape ({size},), found {tuple(marginals.shape)}; pass one mass per entry."
        )
    masses = marginals.to(device=device, dtype=dtype)
    if not bool((masses.isfinite() & (masses >= 0)).all()):
        raise ValueError(f"Expected {name} >= 0 and finite, found {masses.tolist()[:10]}; pass non-negative masses.")
    total = float(masses.sum())
    if abs(total - 1.0) > _MASS_TOLERANCE:
        raise ValueError(f"Expected {name} with total 1, found {total:.6g}; divide by the total.")
    return masses / total
