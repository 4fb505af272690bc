r"""Negative log-likelihood of the negative binomial distribution with a derivative written by hand.

The hand-written derivative reuses the softplus and the look-ups of the forward pass. Most counts are small whole
numbers. For small whole numbers, gamma and digamma functions are sums of a few terms. The sums are looked up in a table
with one row per gene. The formula is in :func:`scsiameseclu.losses.negative_binomial_nll`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_STIRLING = 10.0
"""Smallest dispersion at which a difference of log-gamma functions is computed from Stirling series."""

_TABLE = 16
"""Largest count in the table."""


class NegativeBinomialNLL(torch.autograd.Function):
    """Negative log-likelihood of each count, and its derivatives with respect to log rate and log dispersion.

    Arguments of ``apply`` are counts ``(B, G)``, log rate ``(B, G)`` and log dispersion ``(G,)`` or ``(B, G)``. The
    log dispersion has to be between -20 and 20.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_rate: Tensor, log_theta: Tensor) -> Tensor:
        """Negative log-likelihood of each count, ``(B, G)``, in nats."""
        theta = log_theta.exp()
        softplus = torch.nn.functional.softplus(log_rate - log_theta)  # log(1 + mu / theta)
        nll = theta * softplus
        counts = _Present(x, present_in(x))
        place, rest = counts.places_in_table(theta)
        x_log_share = counts.values * (counts.of_matrix(log_rate) - counts.of_matrix(softplus))
        gammas = counts.evaluated(theta, place, rest, _log_ratio_table, _log_ratio)
        ctx.save_for_backward(x, theta, softplus, counts.where, place, rest)
        return counts.subtract_from(nll, gammas + x_log_share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        """Gradients with respect to log rate and log dispersion, each in the shape of its argument."""
        grad, (x, theta, softplus, where, place, rest) = grads[0], ctx.saved_tensors
        share = -torch.expm1(-softplus)  # mu / (mu + theta)
        by_theta = None
        if ctx.needs_input_grad[2]:
            counts = _Present(x, where)
            slope = counts.evaluated(theta, place, rest, _slope_table, _slope)
            slope = slope + counts.values * counts.of_matrix(share)
            by_theta = counts.subtract_from(theta * (softplus - share) * grad, slope * counts.of_matrix(grad))
            by_theta = by_theta.sum(dim=0) if theta.ndim == 1 else by_theta
        by_rate = share.mul_(x + theta).sub_(x).mul_(grad) if ctx.needs_input_grad[1] else None
        return None, by_rate, by_theta


def present_in(x: Tensor) -> Tensor | None:
    """Positions of the counts that are not 0 in the flattened matrix.

    On a GPU the result is None, because finding the positions takes longer there than computing every entry.
    """
    return None if x.is_cuda else _positions(x != 0)


def _positions(mask: Tensor) -> Tensor:
    """Positions of the true entries of a flattened mask on the CPU. numpy is ten times faster than torch."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


class _Present:
    """The counts at the positions of :func:`present_in`, or all counts if there are no positions."""

    def __init__(self, x: Tensor, where: Tensor | None) -> None:
        self.where = where
        self.n_genes = x.shape[1]
        self.values = self.of_matrix(x)

    def of_matrix(self, matrix: Tensor) -> Tensor:
        """Entries of a matrix ``(B, G)`` at the positions of the counts."""
        # index_select is faster than indexing with brackets.
        return matrix if self.where is None else matrix.reshape(-1).index_select(0, self.where)

    def subtract_from(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Subtract one value per count from the entries of a matrix.

        If the counts are only some of the entries, the subtraction may change the matrix in place.
        """
        if self.where is None:
            return matrix - values
        # Every position appears once, so the order of the additions does not change the result.
        matrix = matrix.contiguous()
        matrix.view(-1).index_add_(0, self.where, values, alpha=-1)
        return matrix

    def places_in_table(self, theta: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Position of each count in a flattened table ``(G, _TABLE)``, and which counts are not in the table.

        Counts that are large or not whole are not in the table; they get any position. There is no table without one
        dispersion per gene, or without positions of the counts.
        """
        if self.where is None or theta.ndim == 2:
            return None, None
        whole = self.values.clamp(1, _TABLE).long()
        return (self.where % self.n_genes) * _TABLE + whole - 1, _positions(self.values != whole)

    def evaluated(
        self,
        theta: Tensor,
        place: Tensor | None,
        rest: Tensor | None,
        table: Callable[[Tensor], Tensor],
        formula: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """A function of count and dispersion for each count.

        Parameters
        ----------
        theta
            Dispersion ``(G,)`` or ``(B, G)``.
        place, rest
            Result of :meth:`places_in_table`.
        table
            Returns the values of the function for the counts from 1 to ``_TABLE``, ``(G, _TABLE)``.
        formula
            Returns the value of the function for any counts and their dispersions.
        """
        if place is None or rest is None:
            return formula(self.values, self.of_matrix(theta) if theta.ndim == 2 else theta)
        found = table(theta).view(-1).index_select(0, place)
        if len(rest):
            genes = place.index_select(0, rest) // _TABLE
            values = formula(self.values.index_select(0, rest), theta.index_select(0, genes))
            found.index_copy_(0, rest, values.to(found.dtype))
        return found


def _log_ratio_table(theta: Tensor) -> Tensor:
    r""":func:`_log_ratio` as a sum: :math:`\sum_{j < x} \log(1 + j / \theta) - \log x!`."""
    steps = torch.arange(_TABLE, dtype=theta.dtype)
    return torch.log1p(steps / theta[:, None]).cumsum(dim=1) - torch.lgamma(steps + 2.0)


def _slope_table(theta: Tensor) -> Tensor:
    r""":func:`_slope` as a sum: :math:`-\sum_{j < x} j / (\theta + j)`."""
    steps = torch.arange(_TABLE, dtype=theta.dtype)
    return -(steps / (theta[:, None] + steps)).cumsum(dim=1)


def _log_ratio(x: Tensor, theta: Tensor) -> Tensor:
    r"""The logarithm of :math:`\Gamma(x + \theta) / (\Gamma(\theta)\, \theta^x\, x!)`."""
    small, large = theta.clamp_max(_STIRLING), theta.clamp_min(_STIRLING)
    exact = torch.lgamma(x + small) - torch.lgamma(small) - x * small.log()
    rest = _stirling_rest(x + large) - _stirling_rest(large)
    series = (large + x - 0.5) * torch.log1p(x / large) - x + rest
    return torch.where(theta < _STIRLING, exact, series) - torch.lgamma(x + 1.0)


def _slope(x: Tensor, theta: Tensor) -> Tensor:
    r"""Derivative of :func:`_log_ratio` with respect to :math:`\log \theta`."""
    small, large = theta.clamp_max(_STIRLING), theta.clamp_min(_STIRLING)
    exact = small * (torch.digamma(x + small) - torch.digamma(small)) - x
    ratio = x / large
    series = torch.log1p(ratio) - ratio + 0.5 * ratio / (x + large) + _rest_slope(x + large) - _rest_slope(large)
    return torch.where(theta < _STIRLING, exact, large * series)


def _stirling_rest(a: Tensor) -> Tensor:
    """Difference of the log-gamma function and the main part of Stirling's formula, for arguments of at least 10."""
    inverse = a.reciprocal()
    return inverse / 12.0 - inverse**3 / 360.0


def _rest_slope(a: Tensor) -> Tensor:
    """Derivative of :func:`_stirling_rest`."""
    square = a.reciprocal().square()
    return square * (square / 120.0 - 1.0 / 12.0)
