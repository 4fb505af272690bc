"""Embedding and decoding of many cells in evaluation mode."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from scsiameseclu.module import SiameseModule


@torch.no_grad()
def embed(module: SiameseModule, loader: Any) -> Tensor:
    """Embed every cell of a loader in evaluation mode, ``(n, n_latent)``, on the device of the module."""
    was_training = module.training
    module.eval()
    parts = [module.inference(**module._get_inference_input(tensors))["z"] for tensors in loader]
    module.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def decode(module: SiameseModule, loader: Any) -> tuple[Tensor, NDArray[np.float32]]:
    """Embed and decode every cell of a loader in evaluation mode.

    Returns
    -------
    Embeddings ``(n, n_latent)`` on the device of the module, and z-scored decoded expression of the embedding genes
    ``(n, n_embedding_genes)``. With proteins, the second table also has the decoded proteins, scaled to their share of
    the total variance, ``(n, n_embedding_genes + n_proteins)``. If the module was trained without reconstruction, the
    second table holds the embeddings.
    """
    was_training = module.training
    module.eval()
    embeddings, decoded, proteins = [], [], []
    for tensors in loader:
        inputs = module._get_inference_input(tensors)
        z = module.inference(**inputs)["z"]
        embeddings.append(z)
        if module.loss_weights.reconstruction > 0.0:
            decoded.append(module.decoded_expression(z, inputs["categories"], inputs["cont"]).cpu())
            if module.protein is not None and module.loss_weights.protein > 0.0:
                first_batch = [torch.zeros_like(inputs["categories"][0]), *inputs["categories"][1:]]
                proteins.append(module.protein.standardised(z, first_batch, inputs["cont"]).cpu())
    module.train(was_training)
    if proteins:
        return torch.cat(embeddings), beside(torch.cat(decoded), torch.cat(proteins), module.protein_share).numpy()
    return torch.cat(embeddings), torch.cat(decoded or [z.cpu() for z in embeddings]).numpy()


def beside(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Put tables ``(n, a)`` and ``(n, b)`` side by side.

    The second table is scaled so that it has the given share of the total variance.
    """
    variances = [part.var(dim=0, unbiased=False).sum().clamp_min(1e-12) for part in (first, second)]
    ratio = share * variances[0] / ((1.0 - share) * variances[1])
    return torch.cat([first, second * ratio.sqrt()], dim=1)


def principal_components(points: NDArray[np.float32], random_state: int, n_comps: int = 30) -> NDArray[np.float32]:
    """First principal components, ``(n, n_comps)``, or fewer if the table is small."""
    n_comps = min(n_comps, *points.shape)
    return PCA(n_comps, svd_solver="randomized", random_state=random_state).fit_transform(points)
