"""Estimates of the cluster masses, which are the column sums of the transport problem."""

import torch
from torch import Tensor


def estimate_marginals(labels: Tensor, n_clusters: int, smoothing: float = 1.0) -> Tensor:
    r"""Cluster masses from a hard partition, :math:`b_k = (n_k + s) / (n + K s)`.

    The sizes of an initial partition are a better estimate than equal masses, which split large cell types. The
    additive (Laplace) smoothing gives a positive mass to a cluster that is empty in the initial partition.

    Parameters
    ----------
    labels
        Cluster number of each cell, shape ``(n,)``, integers in ``[0, n_clusters)``.
    n_clusters
        Number of clusters K.
    smoothing
        Pseudo-cells :math:`s` added to each cluster, ``>= 0``.

    Returns
    -------
    Tensor
        Shape ``(n_clusters,)``, float64 (float32 on devices without float64), total 1.

    Raises
    ------
    ValueError
        If there are no labels, a label is out of range or not an integer, or ``smoothing`` is negative.
    """
    if labels.ndim != 1 or labels.numel() == 0 or labels.is_floating_point():
        raise ValueError(
            f"Expected integer labels of shape (n,) with n > 0, found shape {tuple(labels.shape)} and dtype "
            f"{labels.dtype}; pass one cluster number per cell."
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= n_clusters:
        raise ValueError(
            f"Expected labels in [0, {n_clusters}), found {lowest} to {highest}; number the clusters from 0."
        )
    if not smoothing >= 0:
        raise ValueError(f"Expected smoothing >= 0, found {smoothing}; pass a number of pseudo-cells.")
    dtype = torch.float32 if labels.device.type == "mps" else torch.float64
    sizes = torch.bincount(labels, minlength=n_clusters).to(dtype) + smoothing
    return sizes / sizes.sum()


def ema_marginals(prior: Tensor, soft_mean: Tensor, momentum: float = 0.8) -> Tensor:
    r"""Update cluster masses by an exponential moving average, :math:`b \leftarrow m\,b + (1 - m)\,\bar q`.

    :math:`\bar q = \frac{1}{n}\sum_i q_i` is the mean of the soft assignments over the cells.

    Parameters
    ----------
    prior
        Present masses :math:`b`, shape ``(K,)``, total 1.
    soft_mean
        Mean of the soft assignments over the cells, shape ``(K,)``, total 1.
    momentum
        Share :math:`m` of the present masses that is kept, in ``[0, 1]``. 1 keeps the present masses, 0 replaces them.

    Returns
    -------
    Tensor
        Shape ``(K,)``, dtype and device of ``prior``, total 1, without gradient.

    Raises
    ------
    ValueError
        If the shapes differ or ``momentum`` is outside ``[0, 1]``.
    """
    if prior.shape != soft_mean.shape or prior.ndim != 1:
        raise ValueError(
            f"Expected prior and soft_mean of the same shape (K,), found {tuple(prior.shape)} and "
            f"{tuple(soft_mean.shape)}; average the soft assignments over cells first."
        )
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"Expected momentum in [0, 1], found {momentum}; 1 keeps the masses as they are.")
    masses = momentum * prior.detach() + (1.0 - momentum) * soft_mean.detach().to(prior)
    return masses / masses.sum()
