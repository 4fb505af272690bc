"""Gaussian mixtures fitted from an initial partition."""

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
"""Weight, in cells, of the common width in the width of a group, because few cells give a poor estimate."""
_MIN_WIDTH = 1e-2
_MIN_WEIGHT = 1e-4
_MIN_VARIANCE = 1e-12
"""Lower bound of the variance, so that identical points have a finite likelihood."""


def fit_mixture(
    points: NDArray[np.floating], groups: NDArray[np.integer], widths: Widths = "equal", n_iter: int = 8
) -> tuple[float, NDArray[np.int64]]:
    r"""Fit a Gaussian mixture by expectation maximisation, starting from a partition.

    Group :math:`k` has the covariance :math:`\lambda_k C`. With ``widths="equal"`` all :math:`\lambda_k` are 1, and all
    groups have the same covariance (model EEE of Banfield and Raftery, Biometrics 1993). With ``widths="own"`` each
    group has its own width :math:`\lambda_k`, and all groups share the shape :math:`C` (model VEE in the same paper).

    Parameters
    ----------
    points
        Cells, ``(n_obs, n_dims)``.
    groups
        Number of the initial group of each cell, from 0 without gaps, ``(n_obs,)``.
    widths
        ``"equal"`` or ``"own"``.
    n_iter
        Largest number of iterations.

    Returns
    -------
    Mean log-likelihood per cell, in nats, and the most likely group of every cell, int64 ``(n_obs,)``.
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
    """Log of group share times density for every cell and group, ``(n_obs, n_groups)``.

    The groups are fitted to the memberships ``member``, ``(n_obs, n_groups)``.
    """
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
    # In coordinates in which the covariance is the identity, Mahalanobis distances are Euclidean distances.
    cells, centres = (np.linalg.solve(root, values.T).T for values in (x, means))
    squared = (cells**2).sum(axis=1)[:, None] - 2.0 * cells @ centres.T + (centres**2).sum(axis=1)
    n_dims = x.shape[1]
    constant = np.log(np.diag(root)).sum() + 0.5 * n_dims * np.log(2.0 * np.pi)
    return np.log(shares) - 0.5 * squared / scales - 0.5 * n_dims * np.log(scales) - constant


def _scatter(x: NDArray[np.float64], weight: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of squares and products about the mean, ``(n_dims, n_dims)``.

    Cells with a weight close to 0 are left out.
    """
    rows = weight > _MIN_WEIGHT
    residuals = x[rows] - mean
    return (residuals * weight[rows, None]).T @ residuals
