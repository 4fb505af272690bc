"""Start of the clustering phase: the first partition, the cluster centres and the linear discriminants."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsiameseclu.module import SiameseModule
from scsiameseclu.nn import ClusterHead
from scsiameseclu.nn._gather import average_gradients
from scsiameseclu.ot import estimate_marginals
from scsiameseclu.ot._transport import Transport
from scsiameseclu.partition import (
    Discriminant,
    NClustersResult,
    Space,
    choose_n_clusters,
    fit_discriminant,
    partition_cells,
)
from scsiameseclu.pp._graph_input import resolve_seed
from scsiameseclu.train._cells import PlanCells
from scsiameseclu.train._hooks import broadcast
from scsiameseclu.train._inference import principal_components

logger = logging.getLogger(__name__)


class PlanPartition(PlanCells):
    """Base of the training plan that places the centres of the clusters.

    Attributes
    ----------
    n_clusters
        Number of clusters. With None, the number is chosen when the centres are placed.
    n_clusters_result
        Record of the choice of the number of clusters, if the number was chosen.
    max_init_cells
        Largest number of cells that are partitioned.
    transport
        How the duals are found, see :func:`scsiameseclu.ot.transport_to_masses`.
    sinkhorn_iterations, marginal_relaxation
        See :func:`scsiameseclu.ot.sinkhorn`.
    """

    n_clusters: int | None
    n_clusters_result: NClustersResult | None
    max_init_cells: int
    transport: Transport
    sinkhorn_iterations: int
    marginal_relaxation: float

    def __init__(self, module: SiameseModule, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self._discriminant: Discriminant | None = None
        self._n_parts = 0
        self._made_late: list[torch.nn.Parameter] = []

    def on_after_backward(self) -> None:
        """Average the gradients of centres that were created during training over the processes of a distributed run.

        Lightning averages only the gradients of weights that exist when training starts.
        """
        average_gradients(self._made_late)

    def _place_centers(self) -> Discriminant:
        """Partition the training cells, or a sample of them, and put one cluster centre on each part."""
        seed = resolve_seed(None)
        rows = self._training_rows(self.max_init_cells)
        z, expression = self._decode(rows)
        self._check_finite(z)
        self._check_finite(torch.as_tensor(expression))
        # The first process computes the partition and sends it to all other processes. If other processes may have
        # ended, this process computes the partition itself.
        state: list[Any] = [None]
        if self.global_rank == 0 or not self.shares_work:
            space = Space(principal_components(expression, seed), z.float().cpu().numpy(), seed)
            result = choose_n_clusters(space) if self.n_clusters is None else None
            n_clusters = result.n_clusters if result is not None else self.n_clusters
            state = [(result, n_clusters, partition_cells(space, int(n_clusters or 0)))]
        self.n_clusters_result, n_clusters, parts = (broadcast(state) if self.shares_work else state)[0]
        self._n_parts = len(np.unique(parts))
        if self._n_parts < n_clusters:
            logger.warning(
                "Expected %d clusters, found only %d groups of different cells. The remaining clusters stay empty.",
                n_clusters,
                self._n_parts,
            )
        if self.n_clusters_result is not None:
            logger.info("Chose %d clusters: %s.", n_clusters, self.n_clusters_result.criterion)
        head = self.module.head
        if head is None or head.n_clusters != n_clusters:
            head = self.module.build_head(n_clusters)
            self._made_late = list(head.parameters())
        _place(head, z, torch.as_tensor(parts, device=z.device))
        return self._fit_discriminant(rows, parts)

    @torch.no_grad()
    def _present_clusters(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers of the training cells, or of a sample of them, and the clusters the head assigns them to."""
        rows = self._training_rows(self.max_init_cells)
        z = self._embed(rows)
        self._check_finite(z)
        return rows, head_of(self.module)(z).argmax(dim=1).cpu().numpy()

    def _fit_discriminant(self, rows: NDArray[np.int64], parts: NDArray[np.int64]) -> Discriminant:
        """Fit linear discriminants to parts of the training cells, on the cells' own representation."""
        discriminant = fit_discriminant(
            self._representation(rows),
            parts,
            head_of(self.module).n_clusters,
            transport=self.transport,
            n_iter=self.sinkhorn_iterations,
            marginal_relaxation=self.marginal_relaxation,
        )
        self._discriminant = discriminant
        return discriminant


def _place(head: ClusterHead, z: Tensor, labels: Tensor) -> None:
    """Put each centre on the mean of its cells, and use the shares of cells as marginals."""
    one_hot = torch.nn.functional.one_hot(labels, head.n_clusters).to(z.dtype)
    centers = (one_hot.T @ z) / one_hot.sum(dim=0).clamp_min(1.0).unsqueeze(1)
    head.initialise(centers, estimate_marginals(labels, head.n_clusters), z.mean(dim=0))


def is_placed(module: SiameseModule) -> bool:
    """Whether the centres of the clusters are placed."""
    return module.head is not None and module.head.is_initialised


def head_of(module: SiameseModule) -> ClusterHead:
    """The clustering head. The head exists from the clustering phase on."""
    if module.head is None:
        raise RuntimeError("Expected a clustering head, found none; this is a bug.")
    return module.head
