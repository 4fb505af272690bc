r"""Negative log-likelihood of the negative binomial distribution with a derivative written by hand.

The hand-written derivative reuses the softplus and the look-ups of the forward pass. The derivative also needs only one
digamma function per count, where automatic differentiation needs two. The formula is in
:func:`scsiameseclu.losses.negative_binomial_nll`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_STIRLING = 10.0
"""Smallest dispersion at which a difference of log-gamma functions is computed from Stirling series."""


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
        counts = _Present(x, theta, present_in(x))
        x_log_share = counts.values * (counts.of_matrix(log_rate) - counts.of_matrix(softplus))
        gammas = counts.log_rising(theta, log_theta) - torch.lgamma(counts.values + 1.0)
        ctx.save_for_backward(x, theta, softplus, counts.where)
        ctx.dispersion_per_gene = log_theta.ndim == 1
        return counts.subtract_from(nll, gammas + x_log_share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        """Gradients with respect to log rate and log dispersion, each in the shape of its argument."""
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
    """Positions of the counts that are not 0 in the flattened matrix.

    On a GPU the result is None, because finding the positions takes longer there than computing every entry.
    """
    return None if x.is_cuda else x.flatten().nonzero().squeeze(1)


class _Present:
    """The counts at the positions of :func:`present_in`, or all counts if there are no positions."""

    def __init__(self, x: Tensor, theta: Tensor, where: Tensor | None) -> None:
        self._per_gene = theta.ndim == 1
        self.where = where
        self._genes = where % x.shape[1] if where is not None and self._per_gene else None
        self.values = self.of_matrix(x)

    def of_matrix(self, matrix: Tensor) -> Tensor:
        """Entries of a matrix ``(B, G)`` at the positions of the counts."""
        # index_select is faster than indexing with brackets.
        return matrix if self.where is None else matrix.reshape(-1).index_select(0, self.where)

    def of_theta(self, theta: Tensor, function: Callable[[Tensor], Tensor] = lambda value: value) -> Tensor:
        """A function of the dispersion for each count.

        If there is one dispersion per gene, the function is evaluated once per gene.
        """
        if not self._per_gene:
            return function(self.of_matrix(theta))
        values = function(theta)
        return values if self._genes is None else values.index_select(0, self._genes)

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
        r"""Derivative of :meth:`log_rising` with respect to :math:`\log \theta`, per count."""
        x, at = self.values, self.of_theta(theta)
        small, large = at.clamp_max(_STIRLING), at.clamp_min(_STIRLING)
        start = self.of_theta(theta, lambda value: torch.digamma(value.clamp_max(_STIRLING)))
        exact = small * (torch.digamma(x + small) - start) - x
        ratio = x / large
        series = torch.log1p(ratio) - ratio + 0.5 * ratio / (x + large) + _rest_slope(x + large) - _rest_slope(large)
        return torch.where(at < _STIRLING, exact, large * series)


def _stirling_rest(a: Tensor) -> Tensor:
    """Difference of the log-gamma function and the main part of Stirling's formula, for arguments of at least 10."""
    inverse = a.reciprocal()
    return inverse / 12.0 - inverse**3 / 360.0


def _rest_slope(a: Tensor) -> Tensor:
    """Derivative of :func:`_stirling_rest`."""
    square = a.reciprocal().square()
    return square * (square / 120.0 - 1.0 / 12.0)
