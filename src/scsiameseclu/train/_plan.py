"""Training plan: representation learning, then clustering against transport targets."""

import logging
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._partners import PartnerSampler
from scsiameseclu.module import SiameseModule
from scsiameseclu.nn import ClusterHead
from scsiameseclu.ot import ema_marginals, transport_to_masses
from scsiameseclu.ot._transport import Transport, check_transport
from scsiameseclu.train._first_partition import PlanPartition, head_of, is_placed
from scsiameseclu.train._planner import check_plan_options

logger = logging.getLogger(__name__)

MIN_MASS = 0.5
"""Lower bound of the mass of a cluster, as a share of its mass in the first partition."""

_MIN_SHARE = 1e-8  # mass of a cluster that no new cell belongs to; positive, because its logarithm is needed


class SiameseTrainingPlan(PlanPartition):
    """Train a :class:`~scsiameseclu.module.SiameseModule` in two phases.

    1. *Pretraining* for ``n_pretrain_epochs``: the loss has all terms except the clustering loss.
    2. *Clustering*: the training cells are partitioned by decoded expression and embedding
       (:func:`~scsiameseclu.partition.partition_cells`). One centre is placed on each part, and the optimiser starts
       again. The target of a cell is its vector of probabilities from linear discriminants of the partition
       (:func:`~scsiameseclu.partition.fit_discriminant`). At the end, the temperature of the head is set so that the
       assignments are as certain as the targets.

    By default the discriminants give the targets of the whole clustering phase. With ``n_warmup_epochs`` they give the
    targets of the first epochs only. Later targets are transport plans of the head's own scores, as in the paper. The
    plan is recomputed every ``target_refresh_epochs`` epochs from the embeddings of the training cells. In the plan,
    the mass of a cluster never falls below half of its mass in the first partition. The logged
    ``sinkhorn_marginal_error`` is the L1 distance between requested and reached cluster masses. If a cluster loses all
    its cells during the phase, the weights from the start of the phase are restored.

    A module whose centres are already placed keeps its clusters and their numbers, and starts with phase 2. This is the
    case in further training, and for a model that was mapped to a query.

    Parameters
    ----------
    module
        Module to train.
    new_cells
        Whether the training cells differ from the cells on which the clusters were found, as in a query. If True, the
        masses of the clusters are estimated on the training cells before training starts.
    partner_views
        If True, the second view of a cell is one of its graph neighbours, drawn at random in each step. If False, the
        second view is the cell itself.
    n_pretrain_epochs
        Number of epochs before the clustering phase.
    n_clusters
        Number of clusters. With None, the number is chosen at the start of the clustering phase.
    n_warmup_epochs
        Number of clustering epochs with targets from the discriminants of the first partition. None means all epochs.
    target_refresh_epochs
        Number of epochs between two Sinkhorn runs.
    marginal_momentum
        Share of the old cluster masses that is kept in each refresh. With 1, the masses of the first partition are kept
        throughout.
    transport
        How cells are transported to the cluster masses. With ``"entropic"``, the mean probabilities of the cells equal
        the masses (Sinkhorn). With ``"exact"``, the shares of the cells by likeliest cluster equal the masses (network
        simplex of POT).
    sinkhorn_iterations
        Largest number of Sinkhorn iterations.
    marginal_relaxation
        See :func:`scsiameseclu.ot.sinkhorn`. With infinity the cluster masses hold exactly.
    max_init_cells
        Largest number of cells for the first partition. If there are more training cells, a random sample is
        partitioned, and the other cells are assigned by the centres.
    max_target_cells
        Largest number of cells that are embedded for the transport targets. If there are more training cells, a random
        sample is embedded. The targets of the other cells are computed in each step from the column duals and the
        present network.
    optimizer, lr, weight_decay, eps
        Optimiser, learning rate, weight decay and ``eps`` of the optimiser. ``eps`` is 1e-8 as in torch, and not
        scvi-tools' default.
    **kwargs
        Further arguments of :class:`scvi.train.TrainingPlan`.

    Raises
    ------
    ValueError
        If ``target_refresh_epochs`` is below 1.
    """

    module: SiameseModule

    def __init__(
        self,
        module: SiameseModule,
        *,
        new_cells: bool = False,
        partner_views: bool = True,
        n_pretrain_epochs: int = 10,
        n_clusters: int | None = None,
        n_warmup_epochs: int | None = None,
        target_refresh_epochs: int = 1,
        marginal_momentum: float = 0.8,
        transport: Transport = "entropic",
        sinkhorn_iterations: int = 100,
        marginal_relaxation: float = float("inf"),
        max_init_cells: int = 10_000,
        max_target_cells: int = 50_000,
        optimizer: Literal["Adam", "AdamW", "Custom"] = "AdamW",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        check_plan_options(SiameseTrainingPlan, kwargs)
        super().__init__(module, optimizer=optimizer, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        if target_refresh_epochs < 1:
            raise ValueError(f"Expected target_refresh_epochs of at least 1, found {target_refresh_epochs}.")
        self.new_cells = new_cells
        self.partner_views = partner_views
        self.n_pretrain_epochs = n_pretrain_epochs
        self.n_clusters = n_clusters
        self.target_refresh_epochs = target_refresh_epochs
        self.marginal_momentum = marginal_momentum
        # Said here again, so that a wrong setting does not wait until the clustering phase.
        check_transport(transport, marginal_relaxation)
        self.transport = transport
        self.sinkhorn_iterations = sinkhorn_iterations
        self.marginal_relaxation = marginal_relaxation
        self.n_warmup_epochs = n_warmup_epochs
        self.max_init_cells = max_init_cells
        self.max_target_cells = max_target_cells
        self.n_clusters_result = None
        self._partners: PartnerSampler | None = None
        self._clustering_since: int | None = None
        self._warming_up = False
        self._targets: Tensor | None = None
        self._target_rows = torch.zeros(0, dtype=torch.long)
        self._first_masses: Tensor | None = None
        self._clusters_before: Tensor | None = None
        self._first_clusters: dict[str, Tensor] = {}
        self._n_occupied = 0
        self.module.clustering_active = False

    # -- Lightning hooks -----------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Keep a copy of the initial weights."""
        self._seed_process()
        self.keep_weights()

    def on_train_epoch_start(self) -> None:
        """Start the clustering phase in its first epoch, and refresh the targets in later epochs."""
        resumed = self._restore_rng()
        self._enter_epoch()
        if resumed:
            self._draw_for_loader()

    def _enter_epoch(self) -> None:
        if self.current_epoch < self.n_pretrain_epochs and not is_placed(self.module):
            return
        if self._clustering_since is None:
            error = self._start_clustering()
        elif self._warming_up:
            if not self._warmup_is_over():
                return
            self._warming_up = False
            error = self._refresh_targets()
        elif (self.current_epoch - self._clustering_since) % self.target_refresh_epochs == 0:
            error = self._refresh_targets()
        else:
            return
        self._means["train"].add({"sinkhorn_marginal_error": torch.tensor(error, device=self.device)}, 1)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch, and keep a copy of the weights in case the next epoch fails."""
        self._log_means("train")
        self.keep_weights()
        self._n_good_epochs += 1

    def on_train_end(self) -> None:
        """Leave a module that can predict."""
        super().on_train_end()
        self.finish()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a mini-batch.

        Raises
        ------
        NonFiniteLossError
            If the loss is NaN or infinite. The optimiser has not used this loss.
        """
        batch = self._with_partners(self._with_targets(batch))
        _, _, loss_output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        loss = loss_output.loss
        self.compute_and_log_metrics(loss_output, self.train_metrics, "train")
        if not torch.isfinite(loss):
            bad = [name for name, term in self._last_terms.items() if not torch.isfinite(term)]
            raise self._not_finite(f"a finite loss, found {loss.item()} (terms: {', '.join(bad) or 'none alone'})")
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compute the loss of a mini-batch of validation cells, with the same kind of targets as in training."""
        _, _, loss_output = self.forward(self._with_targets(batch), loss_kwargs=self.loss_kwargs)
        self.compute_and_log_metrics(loss_output, self.val_metrics, "validation")

    def _with_partners(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add one neighbour of each cell to the batch, for the second view."""
        if self.partner_views:
            if self._partners is None:
                self._partners = PartnerSampler(self._data.adata_manager, np.asarray(self._data.train_idx))
            batch[SIAMESE_KEYS.PARTNER] = self._with_targets(self._partners(batch))
        return batch

    def _with_targets(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the targets of the cells to the batch, from the discriminants or from the last refresh.

        A cell without a target gets a row of zeros.
        """
        if self._warming_up and self._discriminant is not None:
            batch[SIAMESE_KEYS.CLUSTER_TARGET] = self._discriminant.probabilities(batch[SIAMESE_KEYS.GRAPH_REP])
        elif self._targets is not None:
            rows = batch[SIAMESE_KEYS.CELL_INDEX].squeeze(1)
            # Targets from a checkpoint are on the CPU.
            self._target_rows, self._targets = self._target_rows.to(rows.device), self._targets.to(rows.device)
            position = self._target_rows[rows]
            batch[SIAMESE_KEYS.CLUSTER_TARGET] = self._targets[position.clamp_min(0)] * (position >= 0).unsqueeze(1)
        return batch

    # -- phases --------------------------------------------------------------------------------------------------

    def _start_clustering(self) -> float:
        """Start the clustering phase: place the centres, create a new optimiser, and compute the first targets.

        Centres that are already placed are kept, with the present optimiser. The result is the marginal error of the
        targets.
        """
        self._clustering_since = self.current_epoch
        if is_placed(self.module):
            self._take_over_clusters()
            discriminant = self._fit_discriminant(*self._present_clusters())
        else:
            discriminant = self._place_centers()
            # A new optimiser includes the centres, and does not start from gradient moments of the pretraining.
            self.trainer.strategy.setup_optimizers(self.trainer)
        self._first_masses = head_of(self.module).marginals.clone()
        self._warming_up = self._n_warmup() > 0
        error = discriminant.marginal_error if self._warming_up else self._refresh_targets()
        self._n_occupied = min(self._count_occupied(), self._n_parts or head_of(self.module).n_clusters)
        self.module.clustering_active = True
        # Earlier copies of the weights have no centres.
        self.keep_weights()
        self._first_clusters = self._last_good
        return error

    @torch.no_grad()
    def _take_over_clusters(self) -> None:
        """Record the present cluster of each training cell and, for new cells, estimate the cluster masses."""
        head = head_of(self.module)
        logits = head(self._embed_training_cells())
        self._clusters_before = logits.argmax(dim=1)
        if self.new_cells:
            masses = logits.softmax(dim=1).mean(dim=0).clamp_min(_MIN_SHARE)
            head.update_targets(torch.zeros_like(head.log_duals), masses / masses.sum())

    def _n_warmup(self) -> int:
        """Number of clustering epochs with targets from the discriminants."""
        return self.trainer.max_epochs if self.n_warmup_epochs is None else self.n_warmup_epochs

    def _warmup_is_over(self) -> bool:
        return self.current_epoch >= (self._clustering_since or 0) + self._n_warmup()

    def _keep_targets(self, rows: NDArray[np.int64], targets: Tensor) -> None:
        """Store the targets of cells until the next refresh.

        The column duals give the right cluster masses only for the embeddings of the last Sinkhorn run. If targets were
        computed from these duals and changing embeddings, all cells could move into a single cluster.
        """
        self._target_rows = torch.full((self._data.adata_manager.adata.n_obs,), -1, device=targets.device)
        self._target_rows[torch.as_tensor(rows, device=targets.device)] = torch.arange(len(rows), device=targets.device)
        self._targets = targets.float()

    @torch.no_grad()
    def _refresh_targets(self) -> float:
        """Compute the column duals on the training cells, store duals and targets, and return the marginal error."""
        head = head_of(self.module)
        logits = head(self._embed_training_cells())
        scaled = head.sharpening * logits
        marginals = head.marginals
        if self._clustering_since != self.current_epoch:
            marginals = ema_marginals(marginals, scaled.softmax(dim=1).mean(dim=0), self.marginal_momentum)
            if self._first_masses is not None:
                marginals = floored(marginals, MIN_MASS * self._first_masses.to(marginals))
        result = transport_to_masses(
            scaled,
            marginals,
            self.transport,
            n_iter=self.sinkhorn_iterations,
            marginal_relaxation=self.marginal_relaxation,
            initial_duals=head.log_duals,
        )
        head.update_targets(result.column_duals, marginals)
        rows, others = self._training_rows(self.max_target_cells), self._validation_rows()
        if len(others):
            logits = torch.cat([logits, head(self._embed(others))])
        self._keep_targets(np.concatenate([rows, others]), head.targets(logits))
        return result.marginal_error

    @torch.no_grad()
    def _cluster_sizes(self) -> Tensor:
        """Number of training cells in each cluster, ``(n_clusters,)``."""
        head = head_of(self.module)
        return torch.bincount(head(self._embed_training_cells()).argmax(dim=1), minlength=head.n_clusters)

    def _count_occupied(self) -> int:
        return int((self._cluster_sizes() > 0).sum())

    # -- ending --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def finish(self) -> None:
        """Place the centres if clustering never started, and number the clusters by size, the largest first.

        Clusters that existed before this training keep their numbers.
        """
        if not is_placed(self.module):
            logger.warning(
                "Training ended before the clustering phase. The clusters are a partition of the decoded expression "
                "after pretraining."
            )
            self._place_centers()
            self._clustering_since = self.current_epoch
        head = head_of(self.module)
        if head.centers.requires_grad:
            self._undo_collapse()
            self._calibrate(head)
            head.reorder(self._order_of_clusters(head))
        self.module.clustering_active = False

    def _order_of_clusters(self, head: ClusterHead) -> Tensor:
        """Order in which the clusters get new numbers: by size, or by overlap with the clusters before training."""
        if self._clusters_before is None:
            return self._cluster_sizes().argsort(descending=True, stable=True)
        now = head(self._embed_training_cells()).argmax(dim=1)
        pairs = self._clusters_before.to(now.device) * head.n_clusters + now
        overlap = torch.bincount(pairs, minlength=head.n_clusters**2).reshape(head.n_clusters, -1).double()
        # The small bonus on the diagonal lets a cluster without cells keep its number.
        order = linear_sum_assignment(overlap.cpu().numpy() + 0.5 * np.eye(head.n_clusters), maximize=True)[1]
        return torch.as_tensor(order, device=now.device)

    def _calibrate(self, head: ClusterHead) -> None:
        """Set the temperature so that the assignments are as certain as the discriminants for the same cells."""
        if self._discriminant is not None:
            rows = self._training_rows(self.max_target_cells)
            targets = self._discriminant.probabilities(torch.as_tensor(self._representation(rows)))
            head.calibrate(self._embed(rows), float(targets.amax(dim=1).mean()))

    def _undo_collapse(self) -> None:
        """Restore the weights from the start of the clustering phase if clusters have lost all their cells."""
        n_occupied = self._count_occupied()
        if self._first_clusters and n_occupied < self._n_occupied:
            logger.warning(
                "Expected %d clusters with cells, found %d: the other clusters lost their cells in training. The "
                "weights from the start of the clustering phase are restored. %s",
                self._n_occupied,
                n_occupied,
                self.likely_cause(head_of(self.module).n_clusters),
            )
            self.module.load_state_dict(self._first_clusters)


def floored(masses: Tensor, floor: Tensor) -> Tensor:
    """Raise masses ``(K,)`` with total 1 to at least ``floor``, whose total is below 1.

    The masses above the floor are reduced in proportion to their excess, so that the total stays 1.
    """
    excess = (masses - floor).clamp_min(0.0)
    return floor + excess * ((1.0 - floor.sum()) / excess.sum())
