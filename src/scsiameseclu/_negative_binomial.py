r"""Negative log-likelihood of the negative binomial distribution with a derivative written by hand.

Written out, the derivative shares the softplus and the look-ups with the value, and needs one digamma function per
count instead of two. See :func:`scsiameseclu.losses.negative_binomial_nll` for the formula.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_STIRLING = 10.0
"""Dispersion from which on differences of log-gamma functions are those of Stirling series."""


class NegativeBinomialNLL(torch.autograd.Function):
    """Value per count, and its derivatives by the logarithms of rate and dispersion.

    Arguments of ``apply`` are counts ``(B, G)``, log rate ``(B, G)`` and log dispersion ``(G,)`` or ``(B, G)``. The
    log dispersion has to be within 20 of 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_rate: Tensor, log_theta: Tensor) -> Tensor:
        """Value of each count, ``(B, G)``, in nats."""
        theta = log_theta.exp()
        softplus = torch.nn.functional.softplus(log_rate - log_theta)  # log(1 + mu / theta)
        nll = theta * softplus
        counts = _Present(x, theta, present_in(x))
        x_log_share = counts.values * (counts.of_matrix(log_rate) - counts.of_matrix(softplus))
        gammas = counts.log_rising(theta, log_theta) - torch.lgamma(counts.values + 1.0)
        ctx.save_for_backward(x, theta, softplus, counts.where)
        ctx.dispersion_per_gene = log_theta.ndim == 1
        return counts.subtract_from(nll, gammas + x_log_share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        """Gradients by log rate and by log dispersion, each of its argument's shape."""
        grad, (x, theta, softplus, where) = grads[0], ctx.saved_tensors
        share = -torch.expm1(-softplus)  # mu / (mu + theta)
        by_theta = None
        if ctx.needs_input_grad[2]:
            counts = _Present(x, theta, where)
            slope = counts.slope_of_log_rising(theta) + counts.values * counts.of_matrix(share)
            by_theta = counts.subtract_from(theta * (softplus - share) * grad, slope * counts.of_matrix(grad))
            by_theta = by_theta.sum(dim=0) if ctx.dispersion_per_gene else by_theta
        by_rate = share.mul_(x + theta).sub_(x).mul_(grad) if ctx.needs_input_grad[1] else None
        return None, by_rate, by_theta


def present_in(x: Tensor) -> Tensor | None:
    """Positions in the flattened matrix of the counts that are not 0; None on a GPU, where looking costs too much."""
    return None if x.is_cuda else x.flatten().nonzero().squeeze(1)


class _Present:
    """The counts at the positions of :func:`present_in`, or all."""

    def __init__(self, x: Tensor, theta: Tensor, where: Tensor | None) -> None:
        self._per_gene = theta.ndim == 1
        self.where = where
        self._genes = where % x.shape[1] if where is not None and self._per_gene else None
        self.values = self.of_matrix(x)

    def of_matrix(self, matrix: Tensor) -> Tensor:
        """Entries of a matrix ``(B, G)``.

        Indexing with brackets would be slower.
        """
        return matrix if self.where is None else matrix.reshape(-1).index_select(0, self.where)

    def of_theta(self, theta: Tensor, function: Callable[[Tensor], Tensor] = lambda value: value) -> Tensor:
        """A function of the dispersion, evaluated once per gene where there is one dispersion per gene."""
        if not self._per_gene:
            return function(self.of_matrix(theta))
        values = function(theta)
        return values if self._genes is None else values.index_select(0, self._genes)

    def subtract_from(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Subtract values of the present counts from a matrix, in place where they are entries."""
        if self.where is None:
            return matrix - values
        # Every entry appears once, so that the order of the additions makes no difference.
        matrix = matrix.contiguous()
        matrix.view(-1).index_add_(0, self.where, values, alpha=-1)
        return matrix

    def log_rising(self, theta: Tensor, log_theta: Tensor) -> Tensor:
        r"""The logarithm of :math:`\Gamma(x + \theta) / (\Gamma(\theta)\, \theta^x)` per count."""
        x, at = self.values, self.of_theta(theta)
        small, large = at.clamp_max(_STIRLING), at.clamp_min(_STIRLING)
        start = self.of_theta(theta, lambda value: torch.lgamma(value.clamp_max(_STIRLING)))
        exact = torch.lgamma(x + small) - start - x * self.of_theta(log_theta)
        rest = _stirling_rest(x + large) - self.of_theta(
            theta, lambda value: _stirling_rest(value.clamp_min(_STIRLING))
        )
        series = (large + x - 0.5) * torch.log1p(x / large) - x + rest
        return torch.where(at < _STIRLING, exact, series)

    def slope_of_log_rising(self, theta: Tensor) -> Tensor:
        r"""Derivative of :meth:`log_rising` by :math:`\log \theta` per count."""
        x, at = self.values, self.of_theta(theta)
        small, large = at.clamp_max(_STIRLING), at.clamp_min(_STIRLING)
        start = self.of_theta(theta, lambda value: torch.digamma(value.clamp_max(_STIRLING)))
        exact = small * (torch.digamma(x + small) - start) - x
        ratio = x / large
        series = torch.log1p(ratio) - ratio + 0.5 * ratio / (x + large) + _rest_slope(x + large) - _rest_slope(large)
        return torch.where(at < _STIRLING, exact, large * series)


def _stirling_rest(a: Tensor) -> Tensor:
    """What Stirling's formula leaves of the logarithm of the gamma function, for arguments from 10 on."""
    inverse = a.reciprocal()
    return inverse / 12.0 - inverse**3 / 360.0


def _rest_slope(a: Tensor) -> Tensor:
    """Derivative of :func:`_stirling_rest`."""
    square = a.reciprocal().square()
    return square * (square / 120.0 - 1.0 / 12.0)
