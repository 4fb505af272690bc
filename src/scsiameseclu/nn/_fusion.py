"""Adaptive fusion of the expression and the graph embedding."""

import torch
from torch import Tensor, nn

from scsiameseclu.nn._layers import hidden_stack


class AdaptiveFusion(nn.Module):
    r"""Mix two embeddings with a gate computed from the cell itself.

    .. math::
        z = a \odot z_e + (1 - a) \odot z_g, \qquad a = \sigma(f([z_e, z_g])) \in (0, 1)^d

    The published code keeps one weight per cell and dimension as a parameter; a gate that is a function of the cell
    has the same freedom, costs no memory per cell and works for cells never seen in training.

    Parameters
    ----------
    n_latent
        Width of both embeddings and of the result.
    n_hidden
        Width of the gate's hidden layer.
    """

    def __init__(self, n_latent: int, n_hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden_stack(2 * n_latent, n_hidden)
        self.gate = nn.Linear(n_hidden, n_latent)
        # Start at an even mixture, whatever the inputs.
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, z_expression: Tensor, z_graph: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused embedding and the gate, both ``(batch, n_latent)``."""
        gate = torch.sigmoid(self.gate(self.hidden(torch.cat([z_expression, z_graph], dim=1))))
        return gate * z_expression + (1.0 - gate) * z_graph, gate
