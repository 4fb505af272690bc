"""Fusion of the expression and the graph embedding."""

from typing import Literal

import torch
from torch import Tensor, nn

from scsiameseclu.nn._layers import hidden_stack

FusionName = Literal["adaptive", "mean", "expression", "graph"]
_SHARES = {"mean": 0.5, "expression": 1.0, "graph": 0.0}


class AdaptiveFusion(nn.Module):
    r"""Mix two embeddings with a gate that is computed from both embeddings.

    .. math::
        z = a \odot z_e + (1 - a) \odot z_g, \qquad a = \sigma(f([z_e, z_g])) \in (0, 1)^d

    The published code has one trained weight per cell and dimension. A computed gate needs no memory per cell, and also
    works for cells outside the training data.

    Parameters
    ----------
    n_latent
        Width of both embeddings and of the fused embedding.
    n_hidden
        Width of the hidden layer of the gate.
    """

    def __init__(self, n_latent: int, n_hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden_stack(2 * n_latent, n_hidden)
        self.gate = nn.Linear(n_hidden, n_latent)
        # With zeros, the gate starts at 0.5 for all inputs.
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, z_expression: Tensor, z_graph: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused embedding and the gate, both ``(batch, n_latent)``."""
        gate = torch.sigmoid(self.gate(self.hidden(torch.cat([z_expression, z_graph], dim=1))))
        return torch.lerp(z_graph, z_expression, gate), gate


class FixedFusion(nn.Module):
    r"""Mix two embeddings with the same share for all cells and dimensions, :math:`z = a z_e + (1 - a) z_g`.

    This fusion is meant for comparisons with :class:`AdaptiveFusion`.

    Parameters
    ----------
    share
        Share :math:`a` of the expression embedding, from 0 to 1.

    Raises
    ------
    ValueError
        If the share is out of range.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"Expected a share from 0 to 1, found {share}.")
        self.share = share

    def forward(self, z_expression: Tensor, z_graph: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused embedding and the gate, both ``(batch, n_latent)``."""
        gate = torch.full_like(z_expression, self.share)
        return self.share * z_expression + (1.0 - self.share) * z_graph, gate


def build_fusion(name: FusionName, n_latent: int) -> AdaptiveFusion | FixedFusion:
    """Build a fusion by name.

    Parameters
    ----------
    name
        ``"adaptive"`` for a learned gate, ``"mean"`` for the mean of both embeddings, ``"expression"`` or ``"graph"``
        for one embedding alone.
    n_latent
        Width of both embeddings.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name == "adaptive":
        return AdaptiveFusion(n_latent)
    if name not in _SHARES:
        raise ValueError(f"Expected a fusion among {['adaptive', *_SHARES]}, found {name!r}.")
    return FixedFusion(_SHARES[name])
