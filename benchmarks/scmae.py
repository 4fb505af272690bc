"""A masked autoencoder after scMAE (Fang, Zheng and Li, Bioinformatics 40:btae020, 2024), written from the paper.

Kept: 1,000 highly variable genes, log-normalised and z-scored; every gene of a cell is replaced with probability 0.4 by
its value in another cell of the batch; an encoder, a predictor of the replaced values, and a decoder that reads the
latent vector together with this prediction; the loss weighs the error of replaced values 0.75 against 0.25 for the
rest, and reconstruction 0.3 against 0.7 for the prediction of the mask; batches of 256, Adam at 1e-3, 80 epochs, 32
latent dimensions; clusters by k-means on the latent of the unmasked cells.

Departures: genes are chosen by the preparation that all peers share; the clustering is given the number of types; the
widths of the hidden layers (256 and 128) are not from the paper; small data sets train for more epochs, until 1,500
steps have been made, because 80 epochs of a set of 900 cells are only 320 steps.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

N_TOP_GENES = 1000
MASK_PROBABILITY = 0.4
MASKED_WEIGHT = 0.75
MASK_LOSS_WEIGHT = 0.7
BATCH = 256
EPOCHS = 80
MIN_STEPS = 1500
N_LATENT = 32


class MaskedAutoencoder(nn.Module):
    """Encoder, mask predictor and decoder."""

    def __init__(self, n_genes: int, n_latent: int = N_LATENT) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, 256),
            nn.LayerNorm(256),
            nn.Mish(),
            nn.Linear(256, 128),
            nn.LayerNorm(128),
            nn.Mish(),
            nn.Linear(128, n_latent),
        )
        self.mask_predictor = nn.Linear(n_latent, n_genes)
        self.decoder = nn.Linear(n_latent + n_genes, n_genes)

    def loss(self, values: torch.Tensor, replaced: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
        """Weighted reconstruction of the clean values, plus the prediction of what was replaced."""
        latent = self.encoder(corrupted)
        logits = self.mask_predictor(latent)
        reconstruction = self.decoder(torch.cat([latent, logits], dim=1))
        weights = torch.where(replaced, MASKED_WEIGHT, 1.0 - MASKED_WEIGHT)
        error = (weights * (reconstruction - values).square()).mean()
        mask_error = F.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype))
        return (1.0 - MASK_LOSS_WEIGHT) * error + MASK_LOSS_WEIGHT * mask_error


def corrupt(values: torch.Tensor, probability: float = MASK_PROBABILITY) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace random values by values of other cells of the batch; return the result and where values have changed."""
    donors = torch.randint(len(values), values.shape)
    corrupted = torch.where(torch.rand_like(values) < probability, values.gather(0, donors), values)
    return corrupted, corrupted != values


def embed(scaled: NDArray[np.float32], seed: int, epochs: int | None = None) -> tuple[NDArray[Any], int]:
    """Latent vectors of cells with z-scored values, and the number of epochs trained."""
    torch.manual_seed(seed)
    values = torch.from_numpy(scaled)
    n_obs = len(values)
    steps_per_epoch = max(1, n_obs // BATCH)
    if epochs is None:
        epochs = max(EPOCHS, -(-MIN_STEPS // steps_per_epoch))
    model = MaskedAutoencoder(values.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        order = torch.randperm(n_obs)
        for step in range(steps_per_epoch):  # the incomplete batch at the end of an epoch is dropped
            batch = values[order[step * BATCH : (step + 1) * BATCH]]
            corrupted, replaced = corrupt(batch)
            optimizer.zero_grad()
            model.loss(batch, replaced, corrupted).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        latent = torch.cat([model.encoder(part) for part in values.split(4096)])
    return latent.numpy(), epochs
