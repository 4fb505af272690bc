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
    r"""Decode an embedding to a distribution of counts.

    The decoder computes expression proportions :math:`\rho = \mathrm{softmax}(f(z, \text{covariates}))` over all genes.
    The rate is :math:`\mu = s\rho` with library size :math:`s`. There is one dispersion per gene, or per gene and
    batch. For ``"zinb"`` there is also one dropout logit per cell and gene. Source: scVI (Lopez et al., Nature Methods
    2018).

    The loss of the *embedding genes* trains the embedding. A separate linear layer decodes all other genes from the
    hidden layers, and no gradient from this layer reaches the rest of the network. The noise of the other genes
    therefore does not affect the embedding.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    n_genes
        Number of genes.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Number of categories of each categorical covariate. The batch comes first.
    n_cont
        Number of continuous covariates.
    gene_likelihood
        Distribution of the counts: ``"zinb"``, ``"nb"`` or ``"poisson"``.
    dispersion
        ``"gene"`` for one dispersion per gene, ``"gene-batch"`` for one dispersion per gene and batch.
    n_embedding_genes
        Number of embedding genes. By default all genes are embedding genes. :meth:`assign` selects the genes.

    Raises
    ------
    ValueError
        If ``gene_likelihood`` or ``dispersion`` is unknown.
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
        # Position of every gene in the concatenation of embedding genes and other genes.
        self.register_buffer("order", torch.arange(n_genes))

    @torch.no_grad()
    def assign(self, embedding_genes: Tensor, other_genes: Tensor, proportions: Tensor) -> None:
        """Select the embedding genes, and start the decoder at the mean expression.

        The proportions of genes span several orders of magnitude. Biases that start at 0 would need thousands of
        training steps to reach these proportions.

        Parameters
        ----------
        embedding_genes
            Columns of the embedding genes, ``(n_embedding_genes,)``.
        other_genes
            Columns of all other genes.
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
        r"""Set the dispersions that training starts from. Call :meth:`assign` first.

        Parameters
        ----------
        log_dispersion
            Natural logarithm of the inverse dispersion :math:`\theta`, ``(n_genes,)`` or ``(n_genes, n_batch)``. Genes
            are in the order of the columns of the data.
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
            Covariates: integer codes of each categorical covariate, ``(batch, 1)``, the batch first, and values of the
            continuous covariates, ``(batch, n_cont)``.

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

        The rates of the embedding genes are conditioned on the observed total :math:`t_i` of these genes:
        :math:`\mu_{ig} = t_i \rho_{ig} / \sum_h \rho_{ih}`, with the sum over embedding genes. The share of the
        embedding genes in the library, which may have technical causes, therefore does not affect the embedding. If all
        genes are embedding genes, :math:`t_i` is ``library``.

        Parameters
        ----------
        x
            Counts of the embedding genes in the order of :meth:`assign`, ``(batch, n_embedding_genes)``.
        x_others
            Counts of the other genes in the order of :meth:`assign`, ``(n_rows, n_others)``, for the first ``n_rows``
            cells of the batch. None if there are no other genes.
        z, library, categories, cont
            As for :meth:`forward`.

        Returns
        -------
        Negative log-likelihood of each embedding gene, ``(batch, n_embedding_genes)``, and of each other gene,
        ``(n_rows, n_others)``. The second tensor is None if there are no other genes, and has no gradient with respect
        to ``z``.
        """
        hidden = self.px_decoder(z, *categories, cont=cont)
        logits = self.scale_logits(hidden)
        log_theta = self._log_dispersion(categories)
        n = self.n_embedding_genes
        # Without other genes, the library size (or size factor) is the total.
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
        """Log dispersion with embedding genes first, ``(n_genes,)``, or ``(batch, n_genes)`` for ``"gene-batch"``."""
        log_dispersion = self.log_dispersion.clamp(-losses.MAX_LOG_DISPERSION, losses.MAX_LOG_DISPERSION)
        if log_dispersion.shape[1] == 1:
            return log_dispersion[:, 0]
        return log_dispersion.T.index_select(0, categories[0].squeeze(-1))

    def embedding_scale(self, z: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Proportions among the embedding genes, ``(batch, n_embedding_genes)``. Each row sums to 1."""
        return self.scale_logits(self.px_decoder(z, *categories, cont=cont)).softmax(dim=-1)
