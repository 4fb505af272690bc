"""Encoder and decoder of surface proteins, and the fusion of the protein embedding with the expression embedding."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from scsiameseclu import losses
from scsiameseclu.nn._encoders import ExpressionEncoder
from scsiameseclu.nn._fusion import AdaptiveFusion
from scsiameseclu.nn._layers import hidden_stack

ProteinLikelihood: TypeAlias = Literal["nb", "normal"]

_MIN_VARIANCE = 0.01  # lower bound of the variance of standardised proteins, so that the likelihood stays bounded
_ABSENT = -1e4  # logit of a protein that was not measured: its share is 0, and the gradient stays finite


class ProteinBranch(nn.Module):
    r"""Embed and decode the proteins of a cell.

    A gate (:class:`AdaptiveFusion`) mixes the embedding of the standardised proteins with the embedding of the
    expression. The graph encoder and all later parts of the network are the same as without proteins.

    Counts have a negative binomial distribution with rates :math:`\mu_{ip} = t_i \rho_{ip}`. Here
    :math:`\rho = \mathrm{softmax}(f(z))` are proportions over the proteins measured in the cell, and :math:`t_i` is the
    observed total of these proteins. The depth of the protein library, a technical effect, therefore does not affect
    the embedding. Normalised values are standardised, and have a normal distribution with one variance per protein of
    at least 0.01.

    Parameters
    ----------
    n_proteins
        Number of proteins, at least 2.
    n_latent
        Width of the embedding.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Number of categories of each categorical covariate. The batch comes first.
    n_cont
        Number of continuous covariates.
    dropout_rate
        Dropout probability of the encoder.
    likelihood
        ``"nb"`` for counts, ``"normal"`` for normalised values.

    Raises
    ------
    ValueError
        If ``likelihood`` is unknown.
    """

    mean: Tensor
    sd: Tensor
    total: Tensor

    def __init__(
        self,
        n_proteins: int,
        n_latent: int,
        n_hidden: int = 256,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
        dropout_rate: float = 0.0,
        likelihood: ProteinLikelihood = "nb",
    ) -> None:
        super().__init__()
        if likelihood not in ("nb", "normal"):
            raise ValueError(f"Expected protein likelihood 'nb' or 'normal', found {likelihood!r}.")
        self.likelihood = likelihood
        covariates: dict[str, Any] = {"n_cat_list": n_cat_list, "n_cont": n_cont}
        self.encoder = ExpressionEncoder(
            n_proteins, n_latent, n_hidden, n_layers, dropout_rate=dropout_rate, **covariates
        )
        self.fusion = AdaptiveFusion(n_latent)
        self.px_decoder = hidden_stack(n_latent, n_hidden, n_layers, **covariates)
        self.output = nn.Linear(n_hidden, n_proteins)
        # Log dispersion of counts, or log standard deviation of normalised values.
        self.log_spread = nn.Parameter(torch.zeros(n_proteins))
        self.register_buffer("mean", torch.zeros(n_proteins))
        self.register_buffer("sd", torch.ones(n_proteins))
        self.register_buffer("total", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, values: Tensor, mean: Tensor, sd: Tensor) -> None:
        """Store the statistics of the training cells, and start the decoder of counts at their mean proportions.

        Parameters
        ----------
        values
            Proteins as measured, ``(n_obs, n_proteins)``. NaN means "not measured".
        mean, sd
            Mean and standard deviation by which the proteins are standardised, ``(n_proteins,)``. ``sd`` is 0 for
            proteins that do not vary.
        """
        self.mean.copy_(mean)
        self.sd.copy_(sd)
        if self.likelihood == "nb":
            self.total.fill_(float(values.nansum(dim=1).median().clamp_min(1.0)))
            logits = values.nanmean(dim=0).nan_to_num().clamp_min(1e-4).log()
            self.output.bias.copy_(logits - logits.mean())

    def embed(
        self, scores: Tensor, z_expression: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None
    ) -> Tensor:
        """Embed standardised proteins ``(batch, n_proteins)``, and fuse the result with the expression embedding.

        The result has shape ``(batch, n_latent)``.
        """
        return self.fusion(z_expression, self.encoder(scores, categories, cont))[0]

    def negative_log_likelihood(
        self,
        values: Tensor,
        scores: Tensor,
        z: Tensor,
        categories: Sequence[Tensor] = (),
        cont: Tensor | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood, in nats, over all measured proteins of the batch, a scalar.

        For normalised values, the constant term of the normal distribution is left out.

        Parameters
        ----------
        values
            Proteins as measured, ``(batch, n_proteins)``. NaN means "not measured".
        scores
            Standardised proteins, ``(batch, n_proteins)``.
        z
            Embedding, ``(batch, n_latent)``.
        categories, cont
            Covariates, as for :class:`CountDecoder`.
        """
        measured = ~torch.isnan(values)
        output = self.output(self.px_decoder(z, *categories, cont=cont))
        if self.likelihood == "nb":
            counts = torch.where(measured, values, 0.0)
            log_share = output.masked_fill(~measured, _ABSENT).log_softmax(dim=-1)
            log_rate = log_share + counts.sum(dim=1, keepdim=True).clamp_min(1e-8).log()
            nll = losses.negative_binomial_nll(counts, log_rate, self.log_spread)
        else:
            variance = (2.0 * self.log_spread).exp() + _MIN_VARIANCE
            nll = 0.5 * ((scores - output).square() / variance + variance.log())
        return torch.where(measured, nll, 0.0).sum() / measured.sum().clamp_min(1)

    def expected(
        self, z: Tensor, total: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None
    ) -> Tensor:
        """Decoded proteins in the unit of the input, ``(batch, n_proteins)``.

        For counts, ``total`` ``(batch, 1)`` is the total of the expected counts of each cell.
        """
        output = self.output(self.px_decoder(z, *categories, cont=cont))
        return output.softmax(dim=-1) * total if self.likelihood == "nb" else output * self.sd + self.mean

    def standardised(self, z: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Decoded proteins, standardised like the input of the encoder, at the median total of the training cells."""
        if self.likelihood == "normal":
            return self.output(self.px_decoder(z, *categories, cont=cont)) * (self.sd > 0)
        logs = torch.log1p(self.expected(z, self.total, categories, cont))
        centred = logs - logs.mean(dim=1, keepdim=True) - self.mean
        return torch.where(self.sd > 0, centred / self.sd.clamp_min(1e-8), 0.0)
