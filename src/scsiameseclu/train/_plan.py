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

logger = logging.getLogger(__name__)

MIN_MASS = 0.5
"""Share of its mass in the first partition that a cluster keeps at least."""

_MIN_SHARE = 1e-8  # mass of a cluster that new cells say nothing about: its logarithm has to exist


class SiameseTrainingPlan(PlanPartition):
    """Train a :class:`~scsiameseclu.module.SiameseModule` in two phases.

    1. *Pretraining*, ``n_pretrain_epochs``: all terms but the clustering loss.
    2. *Clustering*: the training cells are partitioned by decoded expression and embedding
       (:func:`~scsiameseclu.partition.partition_cells`), one centre is placed on each part, and the optimiser starts
       afresh. The target of a cell are its probabilities under linear discriminants of the partition, transported to
       the masses of the parts (:func:`~scsiameseclu.partition.fit_discriminant`). At the end the temperature of the
       head is set so that the assignments are as certain as the targets.

    ``n_warmup_epochs`` ends the use of these targets early, as the paper does from the start. From then on the target
    is the transport plan of the head's own scores, recomputed every ``target_refresh_epochs`` epochs on the embeddings
    of the training cells and kept until the next time. The logged ``sinkhorn_marginal_error`` is the L1 distance
    between wanted and reached column masses. No cluster's mass falls below half of what it was at the start; should a
    cluster lose all its cells nevertheless, the weights from the start of the phase are restored.

    A module whose head is already placed (further training, or a reference model mapped to a query) keeps its
    clusters and their numbers, and goes straight to phase 2.

    Parameters
    ----------
    module
        Module to train.
    new_cells
        Whether the training cells are others than the clusters were found on, as those of a query are: the masses of
        the clusters are then estimated on these cells before training starts.
    partner_views
        Whether the second view of a cell is one of its graph neighbours, drawn anew at each step. False: the cell
        itself.
    n_pretrain_epochs
        Epochs before clustering starts.
    n_clusters
        Number of clusters; None: chosen when clustering starts.
    n_warmup_epochs
        Clustering epochs with the discriminants of the first partition as the target. None: all.
    target_refresh_epochs
        Epochs between two Sinkhorn runs.
    marginal_momentum
        Share of the old cluster masses kept at each refresh; 1 freezes the masses of the first partition.
    transport
        ``"entropic"``: the mean probabilities of the cells are held to the cluster masses, by Sinkhorn. ``"exact"``:
        the shares of the cells by likeliest cluster are, by the network simplex of POT.
    sinkhorn_iterations
        Largest number of Sinkhorn iterations.
    marginal_relaxation
        See :func:`scsiameseclu.ot.sinkhorn`; infinity holds the masses exactly.
    max_init_cells
        Cells used at most for the first partition (a random sample above that). The others follow the centres.
    max_target_cells
        Cells embedded at most for the transport targets (a random sample above that). The other cells' targets follow
        from the column duals and the network as it is at each step.
    optimizer, lr, weight_decay, eps
        Optimiser and its settings. Unlike scvi-tools' own default, ``eps`` is the usual 1e-8.
    **kwargs
        Further arguments of :class:`scvi.train.TrainingPlan`.
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
        super().__init__(module, optimizer=optimizer, lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        if target_refresh_epochs < 1:
            raise ValueError(f"Expected target_refresh_epochs of at least 1, found {target_refresh_epochs}.")
        self.new_cells = new_cells
        self.partner_views = partner_views
        self.n_pretrain_epochs = n_pretrain_epochs
        self.n_clusters = n_clusters
        self.target_refresh_epochs = target_refresh_epochs
        self.marginal_momentum = marginal_momentum
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
        """Keep a copy of the weights training starts from."""
        self._seed_process()
        self.keep_weights()

    def on_train_epoch_start(self) -> None:
        """Start the clustering phase when it is due, and refresh its targets."""
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
        """Log the epoch's means and keep a copy of the weights, to fall back on if the next epoch fails."""
        self._log_means("train")
        self.keep_weights()
        self._n_good_epochs += 1

    def on_train_end(self) -> None:
        """Leave a module that can predict."""
        super().on_train_end()
        self.finish()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Training step; stops before the optimiser sees a loss that is not finite."""
        batch = self._with_partners(self._with_targets(batch))
        _, _, loss_output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        loss = loss_output.loss
        self.compute_and_log_metrics(loss_output, self.train_metrics, "train")
        if not torch.isfinite(loss):
            bad = [name for name, term in self._last_terms.items() if not torch.isfinite(term)]
            raise self._not_finite(f"a finite loss, found {loss.item()} (terms: {', '.join(bad) or 'none alone'})")
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Validation step, against the same kind of target as training."""
        _, _, loss_output = self.forward(self._with_targets(batch), loss_kwargs=self.loss_kwargs)
        self.compute_and_log_metrics(loss_output, self.val_metrics, "validation")

    def _with_partners(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add one neighbour of each cell, the second view."""
        if self.partner_views:
            if self._partners is None:
                self._partners = PartnerSampler(self._data.adata_manager, np.asarray(self._data.train_idx))
            batch[SIAMESE_KEYS.PARTNER] = self._with_targets(self._partners(batch))
        return batch

    def _with_targets(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the targets: those of the discriminants, or those kept since the last refresh.

        Rows of 0 are for cells that have none.
        """
        if self._warming_up and self._discriminant is not None:
            batch[SIAMESE_KEYS.CLUSTER_TARGET] = self._discriminant.probabilities(batch[SIAMESE_KEYS.GRAPH_REP])
        elif self._targets is not None:
            rows = batch[SIAMESE_KEYS.CELL_INDEX].squeeze(1)
            # Those of a checkpoint come back on the CPU.
            self._target_rows, self._targets = self._target_rows.to(rows.device), self._targets.to(rows.device)
            position = self._target_rows[rows]
            batch[SIAMESE_KEYS.CLUSTER_TARGET] = self._targets[position.clamp_min(0)] * (position >= 0).unsqueeze(1)
        return batch

    # -- phases --------------------------------------------------------------------------------------------------

    def _start_clustering(self) -> float:
        """Place the centres unless they already are, renew the optimiser, make the first targets."""
        self._clustering_since = self.current_epoch
        if is_placed(self.module):
            self._take_over_clusters()
            discriminant = self._fit_discriminant(*self._present_clusters())
        else:
            discriminant = self._place_centers()
            # The centres may be a new parameter, and moments of the first phase would distort the second.
            self.trainer.strategy.setup_optimizers(self.trainer)
        self._first_masses = head_of(self.module).marginals.clone()
        self._warming_up = self._n_warmup() > 0
        error = discriminant.marginal_error if self._warming_up else self._refresh_targets()
        self._n_occupied = min(self._count_occupied(), self._n_parts or head_of(self.module).n_clusters)
        self.module.clustering_active = True
        # An earlier copy has no centres.
        self.keep_weights()
        self._first_clusters = self._last_good
        return error

    @torch.no_grad()
    def _take_over_clusters(self) -> None:
        """Remember who belongs to the clusters that are there, and estimate the masses these have among new cells."""
        head = head_of(self.module)
        logits = head(self._embed_training_cells())
        self._clusters_before = logits.argmax(dim=1)
        if self.new_cells:
            masses = logits.softmax(dim=1).mean(dim=0).clamp_min(_MIN_SHARE)
            head.update_targets(torch.zeros_like(head.log_duals), masses / masses.sum())

    def _n_warmup(self) -> int:
        """Clustering epochs that aim at the discriminants of the first partition."""
        return self.trainer.max_epochs if self.n_warmup_epochs is None else self.n_warmup_epochs

    def _warmup_is_over(self) -> bool:
        return self.current_epoch >= (self._clustering_since or 0) + self._n_warmup()

    def _keep_targets(self, rows: NDArray[np.int64], targets: Tensor) -> None:
        """Fix the targets of these cells until the next call.

        A target that followed the network from batch to batch, at fixed column duals, would be free to follow it into a
        single cluster: the duals hold the masses only for the embeddings they were solved on.
        """
        self._target_rows = torch.full((self._data.adata_manager.adata.n_obs,), -1, device=targets.device)
        self._target_rows[torch.as_tensor(rows, device=targets.device)] = torch.arange(len(rows), device=targets.device)
        self._targets = targets.float()

    @torch.no_grad()
    def _refresh_targets(self) -> float:
        """Solve for the column duals on the training cells, store them in the head, return the marginal error."""
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
        """Training cells per cluster, ``(n_clusters,)``."""
        head = head_of(self.module)
        return torch.bincount(head(self._embed_training_cells()).argmax(dim=1), minlength=head.n_clusters)

    def _count_occupied(self) -> int:
        return int((self._cluster_sizes() > 0).sum())

    # -- ending --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def finish(self) -> None:
        """Place the centres if clustering never started, and number new clusters by size, the largest first.

        Clusters that were there before this training keep the numbers they had.
        """
        if not is_placed(self.module):
            logger.warning(
                "Training ended before the clustering phase: clusters are a partition of the decoded expression "
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
        """Present number of each cluster in its new place: by size, or by overlap with the clusters before."""
        if self._clusters_before is None:
            return self._cluster_sizes().argsort(descending=True, stable=True)
        now = head(self._embed_training_cells()).argmax(dim=1)
        pairs = self._clusters_before.to(now.device) * head.n_clusters + now
        overlap = torch.bincount(pairs, minlength=head.n_clusters**2).reshape(head.n_clusters, -1).double()
        # Where cells say nothing, such as for clusters without any, a cluster keeps its number.
        order = linear_sum_assignment(overlap.cpu().numpy() + 0.5 * np.eye(head.n_clusters), maximize=True)[1]
        return torch.as_tensor(order, device=now.device)

    def _calibrate(self, head: ClusterHead) -> None:
        """Make the assignments as certain as the discriminants are of the same cells."""
        if self._discriminant is not None:
            rows = self._training_rows(self.max_target_cells)
            targets = self._discriminant.probabilities(torch.as_tensor(self._representation(rows)))
            head.calibrate(self._embed(rows), float(targets.amax(dim=1).mean()))

    def _undo_collapse(self) -> None:
        """Go back to the start of the clustering phase if clusters have lost all their cells since."""
        n_occupied = self._count_occupied()
        if self._first_clusters and n_occupied < self._n_occupied:
            logger.warning(
                "Expected %d clusters with cells, found %d: the others lost theirs in training. The weights from the "
                "start of the clustering phase are restored. %s",
                self._n_occupied,
                n_occupied,
                self.likely_cause(head_of(self.module).n_clusters),
            )
            self.module.load_state_dict(self._first_clusters)


def floored(masses: Tensor, floor: Tensor) -> Tensor:
    """Raise masses ``(K,)``, total 1, to a floor with a total below 1, at the cost of what others have above theirs."""
    excess = (masses - floor).clamp_min(0.0)
    return floor + excess * ((1.0 - floor.sum()) / excess.sum())
