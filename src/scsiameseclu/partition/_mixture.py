"""Mixtures of Gaussians that start from a partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

Widths = Literal["equal", "own"]

_RIDGE = 1e-3
_TOLERANCE = 1e-4
_PRIOR_CELLS = 5.0
"""Cells whose weight pulls the width of a group to that of all groups: few cells say little about a width."""
_MIN_WIDTH = 1e-2
_MIN_WEIGHT = 1e-4
_MIN_VARIANCE = 1e-12
"""Points that do not differ have a likelihood, too."""


def fit_mixture(
    points: NDArray[np.floating], groups: NDArray[np.integer], widths: Widths = "equal", n_iter: int = 8
) -> tuple[float, NDArray[np.int64]]:
    r"""Fit a mixture of Gaussians by expectation maximisation, from a partition.

    Group :math:`k` has the covariance :math:`\lambda_k C`. With ``widths="equal"`` all :math:`\lambda_k` are 1: one
    covariance for all groups (model EEE of Banfield and Raftery, Biometrics 1993). With ``"own"`` each group has a
    width of its own and all share a shape (their model VEE), which costs one parameter per group.

    Parameters
    ----------
    points
        Cells, ``(n_obs, n_dims)``.
    groups
        Group of each cell, from 0 without gaps, ``(n_obs,)``.
    widths
        ``"equal"`` or ``"own"``.
    n_iter
        Iterations at most.

    Returns
    -------
    Mean log-likelihood per cell, in nats, and the likeliest group of every cell, int64 ``(n_obs,)``.
    """
    x = np.asarray(points, dtype=np.float64)
    member = np.eye(int(groups.max()) + 1)[groups]
    ridge = _RIDGE * max(float(x.var(axis=0).mean()), _MIN_VARIANCE) * np.eye(x.shape[1])
    likelihood = -np.inf
    for iteration in range(n_iter):
        joint = _log_joint(x, member, ridge, widths)
        total = logsumexp(joint, axis=1, keepdims=True)
        member = np.exp(joint - total)
        before, likelihood = likelihood, float(total.mean())
        if iteration > 2 and abs(likelihood - before) < _TOLERANCE * abs(likelihood):
            break
    return likelihood, member.argmax(axis=1)


def _log_joint(
    x: NDArray[np.float64], member: NDArray[np.float64], ridge: NDArray[np.float64], widths: Widths
) -> NDArray[np.float64]:
    """Log density of every cell and group, ``(n_obs, n_groups)``, after fitting the groups to these memberships."""
    sizes = member.sum(axis=0) + 1e-9
    shares, means = sizes / len(x), member.T @ x / sizes[:, None]
    scales = np.ones(len(sizes))
    if widths == "equal":
        shape = (x.T @ x - (means * sizes[:, None]).T @ means) / len(x) + ridge
    else:
        scatter = np.stack([_scatter(x, weight, mean) for weight, mean in zip(member.T, means, strict=True)])
        scatter /= sizes[:, None, None]
        shape = np.tensordot(shares, scatter, 1) + ridge
        for _ in range(3):
            inverse = np.linalg.inv(shape)
            own = np.einsum("kij,ji->k", scatter, inverse) / x.shape[1]
            scales = np.maximum((sizes * own + _PRIOR_CELLS) / (sizes + _PRIOR_CELLS), _MIN_WIDTH)
            shape = np.tensordot(shares / scales, scatter, 1) + ridge
    root = np.linalg.cholesky(shape)
    # In coordinates in which the shape is round, squared distances are all that is needed.
    cells, centres = (np.linalg.solve(root, values.T).T for values in (x, means))
    squared = (cells**2).sum(axis=1)[:, None] - 2.0 * cells @ centres.T + (centres**2).sum(axis=1)
    n_dims = x.shape[1]
    constant = np.log(np.diag(root)).sum() + 0.5 * n_dims * np.log(2.0 * np.pi)
    return np.log(shares) - 0.5 * squared / scales - 0.5 * n_dims * np.log(scales) - constant


def _scatter(x: NDArray[np.float64], weight: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of squares and products about the mean, ``(n_dims, n_dims)``.

    Cells of hardly any weight are left out.
    """
    rows = weight > _MIN_WEIGHT
    residuals = x[rows] - mean
    return (residuals * weight[rows, None]).T @ residuals
