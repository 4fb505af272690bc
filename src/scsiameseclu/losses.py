"""Loss terms as pure functions of tensors.

The names follow scSiameseClu (Xu et al., IJCAI 2025). Where the published code departs from the published formula, this
module implements the formula, and the docstring says so.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from scsiameseclu._negative_binomial import NegativeBinomialNLL

__all__ = [
    "batch_neighbor_mask",
    "cell_correlation_loss",
    "clustering_kl",
    "latent_correlation_loss",
    "negative_binomial_nll",
    "poisson_nll",
    "propagation_loss",
]

# _VARIANCE_EPS is added to variances, and _NORM_EPS to squared norms. The gradients of collapsed dimensions and of
# all-zero embeddings are then finite.
_VARIANCE_EPS = 1e-6
_NORM_EPS = 1e-8

MAX_LOG_DISPERSION = 20.0
"""Largest absolute log dispersion: dispersions of counts are held between exp(-20) and exp(20)."""


def latent_correlation_loss(u: Tensor, v: Tensor, off_diagonal_weight: float = 0.05) -> Tensor:
    r"""Latent-level cross-correlation loss: make each dimension agree across views and differ from other dimensions.

    With :math:`\hat u, \hat v` standardised over the batch and :math:`R = \hat u^\top \hat v / B` (:math:`D \times D`),

    .. math:: L = \frac{1}{D} \sum_d (1 - R_{dd})^2 + \frac{\lambda}{D} \sum_{d \ne e} R_{de}^2 .

    Parameters
    ----------
    u, v
        Embeddings of the same cells (or of a cell and one of its neighbours) in the two views, shape ``(B, D)``.
    off_diagonal_weight
        :math:`\lambda \ge 0`, the weight of the penalty for redundant dimensions.

    Returns
    -------
    Tensor
        Scalar ``>= 0``. For fewer than two cells, which have no correlation, the loss and its gradients are 0.

    Raises
    ------
    ValueError
        If ``u`` and ``v`` are not matrices of one shape.

    Notes
    -----
    Source: paper, latent-level correlation. The formula is the loss of Barlow Twins (Zbontar et al., 2021). The
    published code averages blocks of consecutive cells into a single row before it computes the correlation. The
    gradient of the published code is therefore zero.
    """
    return latent_correlation_losses([u], [v], off_diagonal_weight).squeeze()


def latent_correlation_losses(first: Sequence[Tensor], second: Sequence[Tensor], weight: float = 0.05) -> Tensor:
    """:func:`latent_correlation_loss` of every embedding of the first view with every embedding of the second.

    Parameters
    ----------
    first, second
        Embeddings of the two views, shape ``(B, D)`` each.
    weight
        Weight of the off-diagonal entries of the correlation matrix.

    Returns
    -------
    Tensor
        Shape ``(len(first), len(second))``. For fewer than two cells the losses and their gradients are 0.

    Raises
    ------
    ValueError
        If the embeddings are not matrices of one shape.
    """
    for embedding in (*first, *second):
        _check_pair(first[0], embedding)
    n_cells, width = first[0].shape
    pair = torch.cat([*first, *second], dim=1)
    if n_cells < 2:
        return (pair.sum() * 0.0).expand(len(first), len(second))
    u, v = _standardised(pair).split([len(first) * width, len(second) * width], dim=1)
    correlation = (u.T @ v / n_cells).view(len(first), width, len(second), width)
    diagonal = correlation.diagonal(dim1=1, dim2=3)
    # The last line adds weight * R^2 over all entries. So the diagonal contributes (1 - R)^2 - weight * R^2 here.
    on_diagonal = ((1.0 - diagonal).square() - weight * diagonal.square()).sum(dim=2)
    return (on_diagonal + weight * correlation.square().sum(dim=(1, 3))) / width


def cell_correlation_loss(u: Tensor, v: Tensor, positives: Tensor | None = None) -> Tensor:
    r"""Cell-level cross-correlation loss: make a cell agree with itself across views and not with unrelated cells.

    With :math:`S_{ij} = \cos(u_i, v_j)` and :math:`\mathcal N` the pairs :math:`i \ne j` that are not ``positives``,

    .. math::

        L = \frac{1}{B} \sum_i (1 - S_{ii})^2 + \frac{1}{|\mathcal N|} \sum_{(i,j) \in \mathcal N} S_{ij}^2 .

    Parameters
    ----------
    u, v
        Embeddings of the same cells in the two views, shape ``(B, D)``.
    positives
        Pairs of cells that may agree, boolean, shape ``(B, B)``, such as the result of :func:`batch_neighbor_mask`.
        These pairs are left out of the second term. With None, every other cell counts as unrelated, as in the paper.

    Returns
    -------
    Tensor
        Scalar ``>= 0``. Without unrelated pairs, only the first term is left. Without cells, the loss is 0.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Source: paper, cell-level correlation. The loss of the paper pushes every two different cells apart, also two cells
    of one type. Leaving out graph neighbours (``positives``) is an addition of this package.
    """
    _check_pair(u, v)
    n_cells = u.shape[0]
    if positives is not None and positives.shape != (n_cells, n_cells):
        raise ValueError(
            f"Expected positives of shape {(n_cells, n_cells)}, found {tuple(positives.shape)}; "
            "pass the mask of this batch."
        )
    if n_cells == 0:
        return (u.sum() + v.sum()) * 0.0
    similarity = _unit(u) @ _unit(v).T
    unrelated = ~torch.eye(n_cells, dtype=torch.bool, device=u.device)
    if positives is not None:
        unrelated = unrelated & ~positives
    agreement = (1.0 - similarity.diagonal()).square().mean()
    separation = (similarity.square() * unrelated).sum() / unrelated.sum().clamp(min=1)
    return agreement + separation


def batch_neighbor_mask(index: Tensor, neighbor_index: Tensor, columns: Tensor | None = None) -> Tensor:
    """Mark the pairs of a mini-batch that are neighbours in the cell graph.

    Parameters
    ----------
    index
        Row number of each cell of the batch, int64, shape ``(B,)`` or ``(B, 1)``.
    neighbor_index
        Row numbers of the neighbours of each cell, int64, shape ``(B, k)``, in the same numbering as ``index``. Padding
        with the cell's own row has no effect.
    columns
        Row number of the cell in each column, int64, shape ``(B,)`` or ``(B, 1)``. Needed only if the columns stand
        for other cells than the rows, such as the partners in a second view.

    Returns
    -------
    Tensor
        Boolean, shape ``(B, B)``. Without ``columns`` the mask is symmetric. An entry is True if one of the two cells
        lists the other as a neighbour, or if the batch holds the same cell twice. The diagonal is False. With
        ``columns`` an entry is True if the row's cell lists the column's cell as a neighbour, or if the two are the
        same cell.

    Raises
    ------
    ValueError
        If ``index`` and ``neighbor_index`` do not have the same number of rows.
    """
    index = index.reshape(-1)
    n_cells = index.shape[0]
    listing = index if columns is None else columns.reshape(-1)
    if neighbor_index.ndim != 2 or neighbor_index.shape[0] != n_cells:
        raise ValueError(
            f"Expected neighbor_index of shape ({n_cells}, k), found {tuple(neighbor_index.shape)}; "
            "pass the neighbour rows of the same batch."
        )
    if n_cells == 0:
        return torch.zeros((0, 0), dtype=torch.bool, device=index.device)
    # Neighbours are looked up in the sorted row numbers. Comparing every neighbour with every cell would need
    # B * B * k memory.
    rows, position = listing.unique(return_inverse=True)
    found = torch.searchsorted(rows, neighbor_index.contiguous()).clamp(max=len(rows) - 1)
    found = torch.where(rows[found] == neighbor_index, found, len(rows))
    listed = torch.zeros((n_cells, len(rows) + 1), dtype=torch.bool, device=index.device)
    listed.scatter_(1, found, True)
    mask = listed[:, position] | (index[:, None] == listing)
    return mask if columns is not None else (mask | mask.T).fill_diagonal_(False)


def propagation_loss(z: Tensor, z_propagated: Tensor) -> Tensor:
    r"""Propagation regulariser: Jensen-Shannon divergence between embeddings before and after propagation.

    With :math:`p_i = \mathrm{softmax}(z_i)`, :math:`q_i = \mathrm{softmax}(\tilde z_i)` and
    :math:`m_i = (p_i + q_i) / 2`,

    .. math:: L = \frac{1}{2B} \sum_i \mathrm{KL}(p_i \| m_i) + \mathrm{KL}(q_i \| m_i) .

    Parameters
    ----------
    z
        Embeddings, shape ``(B, D)``.
    z_propagated
        Embeddings after message passing over the cell graph, shape ``(B, D)``.

    Returns
    -------
    Tensor
        Scalar in ``[0, log 2]`` nats, symmetric in its arguments.

    Raises
    ------
    ValueError
        If the inputs are not matrices of one shape.

    Notes
    -----
    Source: paper, propagation regularisation. The published code adds the first divergence twice. This function adds
    both divergences, as the formula says.
    """
    _check_pair(z, z_propagated)
    log_p, log_q = z.log_softmax(1), z_propagated.log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    divergence = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return 0.5 * divergence.sum() / max(z.shape[0], 1)


def clustering_kl(p: Tensor, log_q: Tensor) -> Tensor:
    r"""Clustering loss: pull the soft assignments towards the transport target.

    .. math:: L = \frac{1}{B} \sum_i \mathrm{KL}(P_i \| Q_i) = \frac{1}{B} \sum_{ik} P_{ik} (\log P_{ik} - \log Q_{ik})

    Parameters
    ----------
    p
        Targets, shape ``(B, K)``. Each row sums to 1. No gradient flows into the targets.
    log_q
        Log soft assignments, shape ``(B, K)``, such as ``logits.log_softmax(1)``.

    Returns
    -------
    Tensor
        Scalar ``>= 0``, in nats. ``0 log 0`` counts as 0.

    Raises
    ------
    ValueError
        If the inputs are not matrices of one shape.

    Notes
    -----
    Source: paper, optimal-transport clustering. The published code uses Q in place of log Q, so its loss can be
    negative.
    """
    _check_pair(p, log_q)
    p = p.detach()
    # 0 * (-inf) would be NaN where both the target and the assignment of a cluster are 0.
    log_q = log_q.masked_fill(p == 0, 0.0)
    return (torch.special.xlogy(p, p) - p * log_q).sum() / max(p.shape[0], 1)


def negative_binomial_nll(x: Tensor, log_rate: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Negative log-likelihood of counts under a negative binomial, entry by entry.

    .. math::

        -\log p(x) = \theta \log(1 + \mu / \theta) - [x > 0] \Bigl(\log\Gamma(x + \theta) - \log\Gamma(\theta)
        - \log\Gamma(x + 1) + x \log \frac{\mu}{\mu + \theta}\Bigr)

    Most counts are 0. On a CPU the gamma functions take most of the time, so they are evaluated only for counts that
    are not 0. On a GPU they are evaluated for all counts, because finding the non-zero counts takes longer there.

    For :math:`\theta \ge 10`, :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` is computed as the difference of two
    Stirling series, in which large terms cancel before rounding. :math:`\log\theta` is clamped to ``[-20, 20]``. Beyond
    these bounds the distribution is practically a Poisson distribution, or practically always 0. Both measures keep the
    result finite and non-negative in single precision.

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``.
    log_rate
        :math:`\log \mu`, shape ``(B, G)``.
    log_dispersion
        :math:`\log \theta`, shape ``(G,)`` or ``(B, G)``. The variance of the counts is :math:`\mu + \mu^2 / \theta`.

    Returns
    -------
    Tensor
        Shape ``(B, G)``, in nats, of the most precise dtype among the arguments. The values equal
        ``-scvi.distributions.NegativeBinomial(mu, theta=theta).log_prob(x)``.
    """
    log_theta = log_dispersion.clamp(-MAX_LOG_DISPERSION, MAX_LOG_DISPERSION)
    log_rate = log_rate.to(torch.promote_types(x.dtype, log_rate.dtype))
    log_theta = log_theta.to(torch.promote_types(log_rate.dtype, log_theta.dtype))
    return cast("Tensor", NegativeBinomialNLL.apply(x, log_rate, log_theta))


def poisson_nll(x: Tensor, log_rate: Tensor) -> Tensor:
    r"""Negative log-likelihood of counts under a Poisson distribution, entry by entry.

    .. math:: -\log p(x) = \mu - x \log \mu + \log\Gamma(x + 1)

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``.
    log_rate
        :math:`\log \mu`, shape ``(B, G)``.

    Returns
    -------
    Tensor
        Shape ``(B, G)``, in nats.
    """
    return log_rate.exp() - x * log_rate + torch.lgamma(x + 1.0)


def _standardised(x: Tensor) -> Tensor:
    """Standardise each column to mean 0 and variance 1."""
    return torch.nn.functional.batch_norm(x, None, None, training=True, eps=_VARIANCE_EPS)


def _unit(x: Tensor) -> Tensor:
    """Scale each row to length 1."""
    return x * (x.square().sum(1, keepdim=True) + _NORM_EPS).rsqrt()


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"Expected two matrices of one shape, found {tuple(first.shape)} and {tuple(second.shape)}; "
            "pass one row per cell, in the same order."
        )
