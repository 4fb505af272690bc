"""Random augmentations of the two views. Random numbers come from torch."""

import torch
from torch import Generator, Tensor, nn


class ExpressionAugmentation(nn.Module):
    """Corrupt standardised expression: gene swaps between cells, then multiplicative noise.

    The corruption does not depend on the training mode. :class:`~scsiameseclu.module.SiameseModule` corrupts expression
    only in training.

    Parameters
    ----------
    swap_rate
        Probability that the value of a gene is replaced by the value in another cell of the batch. Each cell has one
        random donor cell. Swaps keep the marginal distribution of every gene, which masking with zeros does not.
    noise_sd
        Standard deviation of the multiplicative Gaussian noise with mean 1 (Xu et al., IJCAI 2025, use 0.1).

    Raises
    ------
    ValueError
        If ``swap_rate`` is outside [0, 1], or ``noise_sd`` is negative.
    """

    def __init__(self, swap_rate: float = 0.4, noise_sd: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= swap_rate <= 1.0:
            raise ValueError(f"Expected swap_rate within [0, 1], found {swap_rate}.")
        if noise_sd < 0.0:
            raise ValueError(f"Expected noise_sd of at least 0, found {noise_sd}.")
        self.swap_rate = swap_rate
        self.noise_sd = noise_sd

    def forward(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return corrupted expression and the boolean mask of swapped entries, both in the shape of ``x``.

        Random numbers come from ``generator``, by default from torch's global generator.
        """
        swapped = torch.zeros_like(x, dtype=torch.bool)
        if self.swap_rate > 0.0 and x.shape[0] > 1:
            swapped = torch.rand(x.shape, device=x.device, generator=generator) < self.swap_rate
            x = torch.where(swapped, x[_donors(x.shape[0], x.device, generator)], x)
        if self.noise_sd > 0.0:
            noise = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
            x = noise.mul_(self.noise_sd).add_(1.0).mul_(x)
        return x, swapped


def _donors(n_cells: int, device: torch.device, generator: Generator | None) -> Tensor:
    """Pick one donor per cell, uniformly among the other cells of the batch. The batch has at least two cells."""
    offset = torch.randint(1, n_cells, (n_cells,), device=device, generator=generator)
    return (torch.arange(n_cells, device=device) + offset) % n_cells


def perturb_edges(weights: Tensor, rate: float, generator: Generator | None = None) -> Tensor:
    """Drop edges of a neighbour block at random.

    Parameters
    ----------
    weights
        Edge weights, ``(batch, k)``. Padding has weight 0.
    rate
        Probability that an edge is dropped, in [0, 1].
    generator
        Random generator. By default torch's global generator.

    Returns
    -------
    Edge weights, ``(batch, k)``, with weight 0 for dropped edges. The other weights are unchanged. A cell that would
    lose all its edges keeps its strongest edge.

    Raises
    ------
    ValueError
        If ``rate`` is outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"Expected rate within [0, 1], found {rate}.")
    if rate == 0.0 or weights.numel() == 0:
        return weights
    keep = torch.rand(weights.shape, device=weights.device, generator=generator) >= rate
    kept = weights * keep
    strongest = torch.zeros_like(keep).scatter_(1, weights.argmax(dim=1, keepdim=True), True)
    isolated = (kept > 0).sum(dim=1, keepdim=True) == 0
    return torch.where(isolated & strongest, weights, kept)
