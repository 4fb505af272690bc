"""Clustering head: trainable centres, soft assignment and optimal-transport targets."""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from scsiameseclu.ot import target_from_duals

Kernel: TypeAlias = Literal["cosine", "student_t"]

_TEMPERATURES = (1e-3, 10.0)
_BISECTIONS = 30


class ClusterHead(nn.Module):
    r"""Assign embeddings to :math:`K` clusters.

    Logits are either

    * ``"cosine"``: :math:`s_{ik} = \cos(z_i - \mu,\, c_k - \mu) / \tau` with a fixed origin :math:`\mu`, or
    * ``"student_t"``: :math:`s_{ik} = -\log(1 + \lVert z_i - c_k \rVert^2)`, the kernel of DEC and of
      Xu et al. (IJCAI 2025),

    and the soft assignment is :math:`Q = \mathrm{softmax}(s)`. The transport target of a cell is
    :math:`P_i = \mathrm{softmax}(\beta s_i + g)` with the column duals :math:`g` of the last Sinkhorn run. The head
    stores only the :math:`K` duals, and nothing per cell.

    Parameters
    ----------
    n_clusters
        Number of clusters :math:`K`.
    n_latent
        Width of the embedding.
    kernel
        ``"cosine"`` or ``"student_t"``.
    temperature
        Initial temperature :math:`\tau` of the cosine kernel. :meth:`calibrate` changes the temperature.
    sharpening
        Factor :math:`\beta` on the logits of the target. With a factor above 1, the target is more certain than the
        assignment.

    Raises
    ------
    ValueError
        If ``kernel`` is unknown, or ``temperature`` or ``sharpening`` is not positive.
    """

    temperature: Tensor
    origin: Tensor
    log_duals: Tensor
    marginals: Tensor
    initialised: Tensor

    def __init__(
        self,
        n_clusters: int,
        n_latent: int,
        kernel: Kernel = "cosine",
        temperature: float = 0.1,
        sharpening: float = 1.5,
    ) -> None:
        super().__init__()
        if kernel not in ("cosine", "student_t"):
            raise ValueError(f"Expected kernel 'cosine' or 'student_t', found {kernel!r}.")
        if temperature <= 0.0 or sharpening <= 0.0:
            raise ValueError(f"Expected positive temperature and sharpening, found {temperature} and {sharpening}.")
        self.kernel = kernel
        self.sharpening = sharpening
        self.centers = nn.Parameter(torch.zeros(n_clusters, n_latent))
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.register_buffer("origin", torch.zeros(n_latent))
        self.register_buffer("log_duals", torch.zeros(n_clusters))
        self.register_buffer("marginals", torch.full((n_clusters,), 1.0 / n_clusters))
        self.register_buffer("initialised", torch.tensor(False))

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return self.centers.shape[0]

    @property
    def is_initialised(self) -> bool:
        """Whether the centres have been placed."""
        return bool(self.initialised)

    @torch.no_grad()
    def initialise(self, centers: Tensor, marginals: Tensor, origin: Tensor) -> None:
        """Place the centres.

        Parameters
        ----------
        centers
            Cluster centres, ``(n_clusters, n_latent)``.
        marginals
            Expected share of each cluster, ``(n_clusters,)``, sum 1.
        origin
            Origin of the cosine kernel, usually the mean embedding, ``(n_latent,)``.
        """
        self.centers.copy_(centers)
        self.marginals.copy_(marginals)
        self.origin.copy_(origin)
        self.log_duals.zero_()
        self.initialised.fill_(True)

    @torch.no_grad()
    def update_targets(self, log_duals: Tensor, marginals: Tensor) -> None:
        """Store the column duals and marginals, ``(n_clusters,)``, of a Sinkhorn run on ``sharpening * logits``."""
        self.log_duals.copy_(log_duals)
        self.marginals.copy_(marginals)

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Renumber the clusters. The new cluster ``i`` is the old cluster ``order[i]``."""
        for tensor in (self.centers, self.log_duals, self.marginals):
            tensor.copy_(tensor[order].clone())

    def forward(self, z: Tensor) -> Tensor:
        """Map embeddings ``(batch, n_latent)`` to logits of the soft assignment ``(batch, n_clusters)``."""
        if self.kernel == "student_t":
            squared = (z.unsqueeze(1) - self.centers.unsqueeze(0)).square().sum(dim=-1)
            return -torch.log1p(squared)
        cells = nn.functional.normalize(z - self.origin, dim=-1)
        centers = nn.functional.normalize(self.centers - self.origin, dim=-1)
        return cells @ centers.T / self.temperature

    @torch.no_grad()
    def targets(self, logits: Tensor) -> Tensor:
        """Transport targets of cells with these logits, ``(batch, n_clusters)``, without gradient.

        Each row sums to 1.
        """
        return target_from_duals(self.sharpening * logits, self.log_duals)

    @torch.no_grad()
    def calibrate(self, z: Tensor, confidence: float, weights: Tensor | None = None) -> None:
        """Set the temperature of the cosine kernel so that the assignments have a given mean confidence.

        The most probable cluster of each cell does not change. With the Student t kernel, or with a single cluster, the
        method does nothing.

        Parameters
        ----------
        z
            Embedded cells, ``(n, n_latent)``.
        confidence
            Wanted mean of the largest probability of each cell. The temperature stays between 0.001 and 10.
        weights
            Weights of the cells in the mean, ``(n,)``. Equal by default.
        """
        if self.kernel != "cosine" or self.n_clusters == 1:
            return
        cosines = self(z) * self.temperature
        shares = torch.ones_like(cosines[:, 0]) if weights is None else weights
        shares = shares / shares.sum()
        low, high = _TEMPERATURES
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            too_sure = float((cosines / middle).softmax(dim=1).amax(dim=1) @ shares) > confidence
            low, high = (middle, high) if too_sure else (low, middle)
        self.temperature.fill_(math.sqrt(low * high))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Heads of early versions have a fixed temperature, which was not saved.
        state_dict.setdefault(prefix + "temperature", self.temperature)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
