"""Count decoder: embedding to the parameters of a count distribution."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.distributions import Distribution

from scsiameseclu import losses
from scsiameseclu.nn._layers import hidden_stack

GeneLikelihood: TypeAlias = Literal["zinb", "nb", "poisson"]
Dispersion: TypeAlias = Literal["gene", "gene-batch"]

_MIN_RATE = 1e-8  # log(0) has no gradient


class CountDecoder(nn.Module):
    r"""Decode an embedding to counts.

    Expression proportions :math:`\rho = \mathrm{softmax}(f(z, \text{covariates}))` over all genes, rate
    :math:`\mu = s\rho` with library size :math:`s`, one dispersion per gene (or gene and batch) and, for ``"zinb"``,
    one dropout logit per entry, as in scVI (Lopez et al., Nature Methods 2018).

    The *embedding genes* shape the embedding. The others are decoded from it by a linear layer of their own through
    which no gradient goes back: they are there to be looked at, and their noise stays out of the embedding.

    Parameters
    ----------
    n_latent, n_genes
        Width of the embedding and number of genes.
    n_hidden, n_layers
        Width and number of the hidden layers.
    n_cat_list, n_cont
        Categories of each categorical covariate (batch first), number of continuous covariates.
    gene_likelihood
        ``"zinb"``, ``"nb"`` or ``"poisson"``.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    n_embedding_genes
        Number of embedding genes; all by default. Which ones they are is set by :meth:`assign`.
    """

    order: Tensor

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        n_hidden: int = 256,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
        gene_likelihood: GeneLikelihood = "nb",
        dispersion: Dispersion = "gene",
        n_embedding_genes: int | None = None,
    ) -> None:
        super().__init__()
        if gene_likelihood not in ("zinb", "nb", "poisson"):
            raise ValueError(f"Expected gene_likelihood 'zinb', 'nb' or 'poisson', found {gene_likelihood!r}.")
        if dispersion not in ("gene", "gene-batch"):
            raise ValueError(f"Expected dispersion 'gene' or 'gene-batch', found {dispersion!r}.")
        self.gene_likelihood = gene_likelihood
        self.dispersion = dispersion
        self.n_embedding_genes = n_genes if n_embedding_genes is None else n_embedding_genes
        n_others = n_genes - self.n_embedding_genes
        self.px_decoder = hidden_stack(n_latent, n_hidden, n_layers, n_cat_list=n_cat_list, n_cont=n_cont)
        self.scale_logits = nn.Linear(n_hidden, self.n_embedding_genes)
        self.other_logits = nn.Linear(n_hidden, n_others) if n_others else None
        zero_inflated = gene_likelihood == "zinb"
        self.dropout_logits = nn.Linear(n_hidden, self.n_embedding_genes) if zero_inflated else None
        self.other_dropout_logits = nn.Linear(n_hidden, n_others) if zero_inflated and n_others else None
        n_batch = max(1, n_cat_list[0]) if dispersion == "gene-batch" and n_cat_list else 1
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes, n_batch))
        # Position of every gene in (embedding genes, other genes).
        self.register_buffer("order", torch.arange(n_genes))

    @torch.no_grad()
    def assign(self, embedding_genes: Tensor, other_genes: Tensor, proportions: Tensor) -> None:
        """Say which genes shape the embedding, and make mean expression the starting point.

        Proportions span several orders of magnitude, which a bias that starts at 0 would take thousands of steps to
        reach; training is better spent on what differs between cells.

        Parameters
        ----------
        embedding_genes, other_genes
            Columns of the embedding genes, ``(n_embedding_genes,)``, and of all others.
        proportions
            Share of each gene in all counts, ``(n_genes,)``.
        """
        ranked = torch.cat([embedding_genes, other_genes])
        self.order.copy_(ranked.argsort())
        logits = proportions.clamp_min(1e-8).log()
        logits = (logits - logits.mean())[ranked]
        self.scale_logits.bias.copy_(logits[: self.n_embedding_genes])
        if self.other_logits is not None:
            self.other_logits.bias.copy_(logits[self.n_embedding_genes :])

    @torch.no_grad()
    def set_dispersion(self, log_dispersion: Tensor) -> None:
        r"""Start from known dispersions, after :meth:`assign`.

        Parameters
        ----------
        log_dispersion
            Natural logarithm of the inverse dispersion :math:`\theta`, genes in the order of their columns,
            ``(n_genes,)`` or ``(n_genes, n_batch)``.
        """
        by_column = log_dispersion.reshape(len(self.order), -1)
        self.log_dispersion[self.order] = by_column.to(self.log_dispersion)

    def forward(
        self, z: Tensor, library: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None
    ) -> Distribution:
        """Return the distribution of the counts.

        Parameters
        ----------
        z
            Embedding, ``(batch, n_latent)``.
        library
            Library sizes, ``(batch, 1)``.
        categories, cont
            Covariates: integer codes ``(batch, 1)`` each, the batch first, and values ``(batch, n_cont)``.

        Returns
        -------
        A :mod:`scvi.distributions` object whose ``get_normalized("scale")`` and ``get_normalized("mu")`` are the
        proportions among all genes and the rates, both ``(batch, n_genes)``.
        """
        hidden = self.px_decoder(z, *categories, cont=cont)
        logits = self.scale_logits(hidden)
        if self.other_logits is not None:
            logits = torch.cat([logits, self.other_logits(hidden)], dim=-1)
        scale = logits.softmax(dim=-1)[:, self.order]
        rate = scale * library
        if self.gene_likelihood == "poisson":
            return Poisson(rate=rate, scale=scale, validate_args=False)
        theta = self._log_dispersion(categories)[..., self.order].exp()
        if self.dropout_logits is None:
            return NegativeBinomial(mu=rate, theta=theta, scale=scale)
        zi_logits = self.dropout_logits(hidden)
        if self.other_dropout_logits is not None:
            zi_logits = torch.cat([zi_logits, self.other_dropout_logits(hidden)], dim=-1)
        return ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=zi_logits[:, self.order], scale=scale)

    def negative_log_likelihood(
        self,
        x: Tensor,
        x_others: Tensor | None,
        z: Tensor,
        library: Tensor,
        categories: Sequence[Tensor] = (),
        cont: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        r"""Negative log-likelihood of counts, in nats.

        The rates of the embedding genes are conditioned on their observed total :math:`t_i`,
        :math:`\mu_{ig} = t_i \rho_{ig} / \sum_h \rho_{ih}` with sums over embedding genes: their share in the library,
        which may be a technical matter, does not shape the embedding.

        Parameters
        ----------
        x, x_others
            Counts of the embedding genes ``(batch, n_embedding_genes)`` and of the others, in the order of
            :meth:`assign`; the latter may be those of the first cells of the batch only, ``(n_rows, n_others)``.
        z, library, categories, cont
            As for :meth:`forward`.

        Returns
        -------
        Per cell and embedding gene, ``(batch, n_embedding_genes)``, and per cell and other gene,
        ``(n_rows, n_others)``, without gradient into ``z``; None if there are no other genes.
        """
        hidden = self.px_decoder(z, *categories, cont=cont)
        logits = self.scale_logits(hidden)
        log_theta = self._log_dispersion(categories)
        n = self.n_embedding_genes
        # Without other genes a registered size factor is the better total.
        total = library if x_others is None else x.sum(dim=1, keepdim=True)
        dropout = None if self.dropout_logits is None else self.dropout_logits(hidden)
        nll = self._nll(x, logits.log_softmax(dim=-1), total, log_theta[..., :n], dropout)
        if x_others is None or self.other_logits is None:
            return nll, None
        rows = len(x_others)
        hidden = hidden[:rows].detach()
        everything = torch.cat([logits[:rows].detach(), self.other_logits(hidden)], dim=-1).log_softmax(dim=-1)
        dropout = None if self.other_dropout_logits is None else self.other_dropout_logits(hidden)
        log_theta = log_theta[n:] if log_theta.ndim == 1 else log_theta[:rows, n:]
        return nll, self._nll(x_others, everything[:, n:], library[:rows], log_theta, dropout)

    def _nll(self, x: Tensor, log_scale: Tensor, total: Tensor, log_theta: Tensor, dropout: Tensor | None) -> Tensor:
        log_rate = log_scale + total.clamp_min(_MIN_RATE).log()
        if dropout is not None:
            zinb = ZeroInflatedNegativeBinomial(mu=log_rate.exp(), theta=log_theta.exp(), zi_logits=dropout)
            return -zinb.log_prob(x)
        if self.gene_likelihood == "poisson":
            return losses.poisson_nll(x, log_rate)
        return losses.negative_binomial_nll(x, log_rate, log_theta)

    def _log_dispersion(self, categories: Sequence[Tensor]) -> Tensor:
        """Log dispersion, embedding genes first: per gene, or per cell and gene when it depends on the batch."""
        log_dispersion = self.log_dispersion.clamp(-losses.MAX_LOG_DISPERSION, losses.MAX_LOG_DISPERSION)
        if log_dispersion.shape[1] == 1:
            return log_dispersion[:, 0]
        return log_dispersion.T.index_select(0, categories[0].squeeze(-1))

    def embedding_scale(self, z: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Proportions among the embedding genes, ``(batch, n_embedding_genes)``, rows sum to 1."""
        return self.scale_logits(self.px_decoder(z, *categories, cont=cont)).softmax(dim=-1)
