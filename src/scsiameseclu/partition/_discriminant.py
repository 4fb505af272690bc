"""Cluster probabilities from linear discriminants of a partition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf

from scsiameseclu.ot import transport_to_masses
from scsiameseclu.ot._transport import Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_RIDGE = 1e-3
"""Share of the mean variance that is added to each variance, so that the covariance can be inverted."""


@dataclass(frozen=True)
class Discriminant:
    r"""Cluster probabilities as the softmax of a linear function of the cell's own representation :math:`x_i`.

    .. math:: P_i = \mathrm{softmax}(W (x_i - o) + a)

    Attributes
    ----------
    origin
        :math:`o`, float32 ``(n_dims,)``.
    coefficients
        :math:`W`, float32 ``(n_clusters, n_dims)``.
    intercepts
        :math:`a`, float32 ``(n_clusters,)``. ``-inf`` for a cluster without cells.
    marginal_error
        L1 distance between the shares of the clusters and the mean probabilities, over the fitted cells.
    """

    origin: Tensor
    coefficients: Tensor
    intercepts: Tensor
    marginal_error: float

    def probabilities(self, points: Tensor) -> Tensor:
        """Cluster probabilities of cells ``(n, n_dims)``.

        The result is float32 ``(n, n_clusters)``, on the device of ``points``. Each row sums to 1.
        """
        origin, coefficients, intercepts = (
            each.to(points.device) for each in (self.origin, self.coefficients, self.intercepts)
        )
        return ((points.float() - origin) @ coefficients.T + intercepts).softmax(dim=1)

    def to_state(self) -> dict[str, Any]:
        """Fields by name, for a checkpoint."""
        return dict(vars(self))


def fit_discriminant(
    points: NDArray[np.floating],
    parts: NDArray[np.integer],
    n_clusters: int,
    *,
    transport: Transport = "entropic",
    n_iter: int = 100,
    marginal_relaxation: float = math.inf,
) -> Discriminant:
    r"""Fit linear discriminants to a partition, with mean probabilities equal to the sizes of the clusters.

    Every cluster :math:`k` has a normal density with mean :math:`m_k`. All clusters share one covariance :math:`C`
    (Fisher, Annals of Eugenics 1936). The score of cell :math:`i` in cluster :math:`k` is
    :math:`s_{ik} = m_k^\top C^{-1} x_i - \frac12 m_k^\top C^{-1} m_k`. Entropic transport adds duals :math:`g` for
    which the mean probability of each cluster is its share of the cells. The covariance is shrunk by the rule of Ledoit
    and Wolf (Journal of Multivariate Analysis 2004).

    A cell near the border of two clusters gets a probability near one half. If the own counts of a cell fit another
    cluster than its neighbours do, the other cluster gets the higher probability.

    Parameters
    ----------
    points
        Representation of each cell's own counts, without its neighbours, ``(n_obs, n_dims)``.
    parts
        Cluster of each cell, integers in ``[0, n_clusters)``, ``(n_obs,)``.
    n_clusters
        Number of clusters. A cluster without cells gets probability 0.
    transport
        How the duals are found, see :func:`scsiameseclu.ot.transport_to_masses`.
    n_iter, marginal_relaxation
        See :func:`scsiameseclu.ot.sinkhorn`.

    Returns
    -------
    The fitted discriminants.
    """
    x = np.asarray(points, dtype=np.float64)
    origin = x.mean(axis=0)
    x = x - origin
    sizes = np.bincount(parts, minlength=n_clusters)
    member = np.eye(n_clusters)[parts]
    means = member.T @ x / np.maximum(sizes, 1)[:, None]
    covariance, _ = ledoit_wolf(x - means[parts], assume_centered=True)
    ridge = _RIDGE * max(float(x.var(axis=0).mean()), float(np.finfo(np.float32).tiny))
    coefficients = np.linalg.solve(covariance + ridge * np.eye(x.shape[1]), means.T).T
    intercepts = -0.5 * (coefficients * means).sum(axis=1)
    solved = transport_to_masses(
        torch.as_tensor(x @ coefficients.T + intercepts),
        torch.as_tensor(sizes / len(x)),
        transport,
        n_iter=n_iter,
        marginal_relaxation=marginal_relaxation,
    )
    return Discriminant(
        torch.as_tensor(origin).float(),
        torch.as_tensor(coefficients).float(),
        (torch.as_tensor(intercepts) + solved.column_duals).float(),
        solved.marginal_error,
    )
