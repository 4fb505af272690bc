"""Loss terms, each a pure function of tensors that returns a scalar tensor.

Names follow scSiameseClu (Xu et al., IJCAI 2025). Where the published code departs from the published formula, the
formula is what is implemented, and the docstring says so.
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

# Added to variances and squared norms: a collapsed dimension or an all-zero embedding then has a finite gradient.
_VARIANCE_EPS = 1e-6
_NORM_EPS = 1e-8

MAX_LOG_DISPERSION = 20.0
"""Dispersions of counts are held between exp(-20) and exp(20)."""


def latent_correlation_loss(u: Tensor, v: Tensor, off_diagonal_weight: float = 0.05) -> Tensor:
    r"""Latent-level cross-correlation refinement: one dimension, one signal.

    With :math:`\hat u, \hat v` standardised over the batch and :math:`R = \hat u^\top \hat v / B` (:math:`D \times D`),

    .. math:: L = \frac{1}{D} \sum_d (1 - R_{dd})^2 + \frac{\lambda}{D} \sum_{d \ne e} R_{de}^2 .

    Parameters
    ----------
    u, v
        Embeddings of the same cells (or of a cell and one of its neighbours) in the two views, shape ``(B, D)``.
    off_diagonal_weight
        :math:`\lambda \ge 0`, the price of redundant dimensions.

    Returns
    -------
    Tensor
        Scalar ``>= 0``. For fewer than two cells a correlation does not exist: 0, with zero gradients.

    Raises
    ------
    ValueError
        If ``u`` and ``v`` are not matrices of one shape.

    Notes
    -----
    Source: paper, latent-level correlation; the form is Barlow Twins' (Zbontar et al., 2021). The published code
    averages blocks of consecutive cells into a single row before correlating, which makes its gradient zero.
    """
    return latent_correlation_losses([u], [v], off_diagonal_weight).squeeze()


def latent_correlation_losses(first: Sequence[Tensor], second: Sequence[Tensor], weight: float = 0.05) -> Tensor:
    """:func:`latent_correlation_loss` of every embedding of the first view with every embedding of the second.

    Parameters
    ----------
    first, second
        The same number of embeddings, shape ``(B, D)`` each.
    weight
        Weight of the off-diagonal entries.

    Returns
    -------
    Tensor
        Shape ``(len(first), len(second))``. Fewer than two cells: 0, with zero gradients.

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
    # On the diagonal (1 - R)^2 - weight * R^2, everywhere weight * R^2.
    on_diagonal = ((1.0 - diagonal).square() - weight * diagonal.square()).sum(dim=2)
    return (on_diagonal + weight * correlation.square().sum(dim=(1, 3))) / width


def cell_correlation_loss(u: Tensor, v: Tensor, positives: Tensor | None = None) -> Tensor:
    r"""Cell-level cross-correlation refinement: a cell agrees with itself across views, not with unrelated cells.

    With :math:`S_{ij} = \cos(u_i, v_j)` and :math:`\mathcal N` the pairs :math:`i \ne j` that are not ``positives``,

    .. math::

        L = \frac{1}{B} \sum_i (1 - S_{ii})^2 + \frac{1}{|\mathcal N|} \sum_{(i,j) \in \mathcal N} S_{ij}^2 .

    Parameters
    ----------
    u, v
        Embeddings of the same cells in the two views, shape ``(B, D)``.
    positives
        Pairs of cells that may agree, boolean, shape ``(B, B)``, such as :func:`batch_neighbor_mask` gives: left out of
        the second term. None: every other cell counts as unrelated, as in the paper.

    Returns
    -------
    Tensor
        Scalar ``>= 0``; without unrelated pairs only the first term is left, without cells 0.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Source: paper, cell-level correlation. The published identity target pushes apart all pairs, cells of one type
    included; leaving out graph neighbours is a change.
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
        Row numbers of the neighbours of each cell, int64, shape ``(B, k)``, in the same numbering; padding (the cell's
        own row) has no effect.
    columns
        Row number of the cell in each column, int64, shape ``(B,)`` or ``(B, 1)``, where the columns are other cells
        than in the rows: the partners that make up a second view.

    Returns
    -------
    Tensor
        Boolean, shape ``(B, B)``. By default symmetric: True where one cell lists the other, or where a cell was drawn
        twice, and False on the diagonal. With ``columns``: True where the cell of the row is, or lists, that of the
        column.

    Raises
    ------
    ValueError
        If the two tables do not have the same number of rows.
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
    # A look-up in the sorted row numbers: comparing every neighbour with every cell would need B * B * k memory.
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
    Source: paper, propagation regularisation. The published code adds the first divergence twice; this is the true,
    symmetric one.
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
        Targets, shape ``(B, K)``, rows sum to 1; no gradient flows into them.
    log_q
        Log soft assignments, shape ``(B, K)``, such as ``logits.log_softmax(1)``.

    Returns
    -------
    Tensor
        Scalar ``>= 0`` in nats; ``0 log 0`` counts as 0.

    Raises
    ------
    ValueError
        If the inputs are not matrices of one shape.

    Notes
    -----
    Source: paper, optimal-transport clustering. The published code passes Q instead of log Q, so that its value can be
    negative.
    """
    _check_pair(p, log_q)
    p = p.detach()
    # 0 * (-inf) would be NaN where a cluster is impossible under both.
    log_q = log_q.masked_fill(p == 0, 0.0)
    return (torch.special.xlogy(p, p) - p * log_q).sum() / max(p.shape[0], 1)


def negative_binomial_nll(x: Tensor, log_rate: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Negative log-likelihood of counts under a negative binomial, entry by entry.

    .. math::

        -\log p(x) = \theta \log(1 + \mu / \theta) - [x > 0] \Bigl(\log\Gamma(x + \theta) - \log\Gamma(\theta)
        - \log\Gamma(x + 1) + x \log \frac{\mu}{\mu + \theta}\Bigr)

    Most counts are 0, and the gamma functions, the dearest part by far on a CPU, are there only evaluated where they
    are not. On a GPU finding these places costs more than the functions.

    From :math:`\theta = 10` on, :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` is the difference of two Stirling
    series, in which the large terms cancel before they are rounded; :math:`\log\theta` is held within 20 of 0, where
    the distribution is a Poisson distribution, or all but certainly 0, for any practical purpose. The result is then
    finite and not negative in single precision, too.

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``.
    log_rate
        :math:`\log \mu`, shape ``(B, G)``.
    log_dispersion
        :math:`\log \theta`, shape ``(G,)`` or ``(B, G)``; the variance is :math:`\mu + \mu^2 / \theta`.

    Returns
    -------
    Tensor
        Shape ``(B, G)``, in nats, of the most precise dtype among the arguments. The same as
        ``-scvi.distributions.NegativeBinomial(mu, theta=theta).log_prob(x)``.
    """
    log_theta = log_dispersion.clamp(-MAX_LOG_DISPERSION, MAX_LOG_DISPERSION)
    log_rate = log_rate.to(torch.promote_types(x.dtype, log_rate.dtype))
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
    """Columns of mean 0 and variance 1."""
    return torch.nn.functional.batch_norm(x, None, None, training=True, eps=_VARIANCE_EPS)


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + _NORM_EPS).rsqrt()


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"Expected two matrices of one shape, found {tuple(first.shape)} and {tuple(second.shape)}; "
            "pass one row per cell, in the same order."
        )
