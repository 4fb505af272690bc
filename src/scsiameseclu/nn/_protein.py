"""Surface proteins of a cell: their encoder, its fusion with the RNA's, and their decoder."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from scsiameseclu import losses
from scsiameseclu.nn._encoders import ExpressionEncoder
from scsiameseclu.nn._fusion import AdaptiveFusion
from scsiameseclu.nn._layers import hidden_stack

ProteinLikelihood: TypeAlias = Literal["nb", "normal"]

_MIN_VARIANCE = 0.01  # of normalised proteins, whose variance is 1: a protein that is known for certain stays bounded
_ABSENT = -1e4  # logit of a protein that was not measured: no share, and no infinity in the gradient


class ProteinBranch(nn.Module):
    r"""Embed and decode the proteins of a cell.

    The embedding of the standardised proteins is mixed by a gate (:class:`AdaptiveFusion`) with that of the expression,
    to what the cell itself says; the graph branch and everything after it stay as they are without proteins.

    Counts are negative binomial with rates :math:`\mu_{ip} = t_i \rho_{ip}`: proportions :math:`\rho =
    \mathrm{softmax}(f(z))` over the proteins measured in the cell and their observed total :math:`t_i`, so that the
    depth of the protein library, a technical matter, stays out of the embedding. Normalised values, standardised, are
    normal with one variance per protein, never below 0.01.

    Parameters
    ----------
    n_proteins, n_latent
        Number of proteins, at least 2, and width of the embedding.
    n_hidden, n_layers
        Width and number of the hidden layers.
    n_cat_list, n_cont
        Categories of each categorical covariate (batch first), number of continuous covariates.
    dropout_rate
        Dropout probability of the encoder.
    likelihood
        ``"nb"`` for counts, ``"normal"`` for normalised values.
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
        # Log dispersion of counts, or log standard deviation.
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
            Proteins as measured, ``(n_obs, n_proteins)``, NaN where not.
        mean, sd
            What they were standardised with, ``(n_proteins,)``; ``sd`` 0 for proteins that do not vary.
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
        """Mix the embedding of standardised proteins ``(batch, n_proteins)`` into that of the expression."""
        return self.fusion(z_expression, self.encoder(scores, categories, cont))[0]

    def negative_log_likelihood(
        self,
        values: Tensor,
        scores: Tensor,
        z: Tensor,
        categories: Sequence[Tensor] = (),
        cont: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood per measured protein, a scalar: the mean over those of the batch.

        Parameters
        ----------
        values, scores
            Proteins as measured (NaN where not) and standardised, ``(batch, n_proteins)``.
        z, categories, cont
            Embedding ``(batch, n_latent)`` and covariates.
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
        """Decoded proteins ``(batch, n_proteins)`` in the unit of the input; counts for totals ``(batch, 1)``."""
        output = self.output(self.px_decoder(z, *categories, cont=cont))
        return output.softmax(dim=-1) * total if self.likelihood == "nb" else output * self.sd + self.mean

    def standardised(self, z: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Decoded proteins, standardised as the encoder's input is, for cells of the typical total."""
        if self.likelihood == "normal":
            return self.output(self.px_decoder(z, *categories, cont=cont)) * (self.sd > 0)
        logs = torch.log1p(self.expected(z, self.total, categories, cont))
        centred = logs - logs.mean(dim=1, keepdim=True) - self.mean
        return torch.where(self.sd > 0, centred / self.sd.clamp_min(1e-8), 0.0)
