"""Count decoder: embedding to the parameters of a count distribution."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.distributions import Distribution

from scsiameseclu.nn._layers import hidden_stack

GeneLikelihood: TypeAlias = Literal["zinb", "nb", "poisson"]
Dispersion: TypeAlias = Literal["gene", "gene-batch"]


class CountDecoder(nn.Module):
    r"""Decode an embedding to counts.

    Expression proportions :math:`\rho = \mathrm{softmax}(f(z, \text{covariates}))`, rate :math:`\mu = s\rho` with
    library size :math:`s`, one dispersion per gene (or gene and batch) and, for ``"zinb"``, one dropout logit per
    entry, as in scVI (Lopez et al., Nature Methods 2018).

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
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
        gene_likelihood: GeneLikelihood = "nb",
        dispersion: Dispersion = "gene",
    ) -> None:
        super().__init__()
        if gene_likelihood not in ("zinb", "nb", "poisson"):
            raise ValueError(f"Expected gene_likelihood 'zinb', 'nb' or 'poisson', found {gene_likelihood!r}.")
        if dispersion not in ("gene", "gene-batch"):
            raise ValueError(f"Expected dispersion 'gene' or 'gene-batch', found {dispersion!r}.")
        self.gene_likelihood = gene_likelihood
        self.dispersion = dispersion
        self.px_decoder = hidden_stack(n_latent, n_hidden, n_layers, n_cat_list=n_cat_list, n_cont=n_cont)
        self.scale_logits = nn.Linear(n_hidden, n_genes)
        n_batch = max(1, n_cat_list[0]) if dispersion == "gene-batch" and n_cat_list else 1
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes, n_batch))
        self.dropout_logits = nn.Linear(n_hidden, n_genes) if gene_likelihood == "zinb" else None

    def forward(
        self,
        z: Tensor,
        library: Tensor,
        categories: Sequence[Tensor] = (),
        cont: Tensor | None = None,
    ) -> Distribution:
        """Return the distribution of the counts.

        Parameters
        ----------
        z
            Embedding, ``(batch, n_latent)``.
        library
            Library sizes or size factors, ``(batch, 1)``.
        categories, cont
            Covariates: integer codes ``(batch, 1)`` each, the batch first, and values ``(batch, n_cont)``.

        Returns
        -------
        A :mod:`scvi.distributions` object whose ``get_normalized("scale")`` and ``get_normalized("mu")`` are the
        proportions and the rates, both ``(batch, n_genes)``.
        """
        hidden = self.px_decoder(z, *categories, cont=cont)
        scale = torch.softmax(self.scale_logits(hidden), dim=-1)
        rate = scale * library
        if self.gene_likelihood == "poisson":
            return Poisson(rate=rate, scale=scale, validate_args=False)
        theta = self._dispersion(categories)
        if self.dropout_logits is None:
            return NegativeBinomial(mu=rate, theta=theta, scale=scale)
        return ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=self.dropout_logits(hidden), scale=scale)

    @torch.no_grad()
    def start_at(self, proportions: Tensor) -> None:
        """Make mean expression the starting point, so that training is spent on what differs between cells.

        Proportions ``(n_genes,)`` span several orders of magnitude, which a bias that starts at 0 would take thousands of
        steps to reach.
        """
        logits = proportions.clamp_min(1e-8).log()
        self.scale_logits.bias.copy_(logits - logits.mean())

    def _dispersion(self, categories: Sequence[Tensor]) -> Tensor:
        """Dispersion per gene, or per cell and gene when it depends on the batch."""
        if self.log_dispersion.shape[1] == 1:
            return self.log_dispersion[:, 0].exp()
        return self.log_dispersion.T[categories[0].squeeze(-1)].exp()
