"""Training plan: representation learning, then clustering against transport targets."""

import logging
import math
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from scvi import settings
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from sklearn.decomposition import PCA
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.module import SiameseModule
from scsiameseclu.nn import ClusterHead
from scsiameseclu.ot import ema_marginals, estimate_marginals, sinkhorn
from scsiameseclu.train._partition import NClustersResult, choose_n_clusters, initial_partition

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


class SiameseTrainingPlan(TrainingPlan):
    """Train a :class:`~scsiameseclu.module.SiameseModule` in two phases.

    1. *Pretraining*, ``n_pretrain_epochs``: all terms but the clustering loss.
    2. *Clustering*: the training cells are partitioned by their decoded expression, one centre is placed on each part,
       and the optimiser starts afresh. For the first epochs the partition itself is the target, so that the embedding
       takes its shape; from then on it is the transport target, recomputed every ``target_refresh_epochs`` epochs on
       the embeddings of the training cells. The logged ``sinkhorn_marginal_error`` is the L1 distance between wanted
       and reached column masses.

    A module whose head is already placed (further training, or a reference model mapped to a query) keeps its
    clusters and goes straight to phase 2.

    Parameters
    ----------
    module
        Module to train.
    n_pretrain_epochs
        Epochs before clustering starts.
    n_clusters
        Number of clusters; None: chosen when clustering starts.
    n_warmup_epochs
        Clustering epochs with the first partition as the target. None: half of the clustering epochs.
    target_refresh_epochs
        Epochs between two Sinkhorn runs.
    marginal_momentum
        Share of the old cluster masses kept at each refresh; 1 freezes the masses of the first partition.
    sinkhorn_iterations
        Largest number of Sinkhorn iterations.
    marginal_relaxation
        See :func:`scsiameseclu.ot.sinkhorn`; infinity holds the masses exactly.
    max_init_cells
        Cells used at most for the first partition (a random sample above that). The others follow the centres.
    max_target_cells
        Cells embedded at most for the transport targets (a random sample above that).
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
        n_pretrain_epochs: int = 10,
        n_clusters: int | None = None,
        n_warmup_epochs: int | None = None,
        target_refresh_epochs: int = 1,
        marginal_momentum: float = 0.8,
        sinkhorn_iterations: int = 100,
        marginal_relaxation: float = float("inf"),
        max_init_cells: int = 20_000,
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
        self.n_pretrain_epochs = n_pretrain_epochs
        self.n_clusters = n_clusters
        self.target_refresh_epochs = target_refresh_epochs
        self.marginal_momentum = marginal_momentum
        self.sinkhorn_iterations = sinkhorn_iterations
        self.marginal_relaxation = marginal_relaxation
        self.n_warmup_epochs = n_warmup_epochs
        self.max_init_cells = max_init_cells
        self.max_target_cells = max_target_cells
        self.n_clusters_result: NClustersResult | None = None
        self._last_terms: dict[str, Tensor] = {}
        self._last_good: dict[str, Tensor] = {}
        self._n_good_epochs = 0
        self._clustering_since: int | None = None
        self._first_partition: Tensor | None = None
        self.module.clustering_active = False

    # -- Lightning hooks -----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Switch the module to training mode: scvi-tools leaves trained and loaded models in evaluation mode."""
        self.module.train()

    def on_train_start(self) -> None:
        """Keep a copy of the weights training starts from."""
        self.keep_weights()

    def on_train_epoch_start(self) -> None:
        """Start the clustering phase when it is due, and refresh its targets."""
        if self.current_epoch < self.n_pretrain_epochs and not _is_placed(self.module):
            return
        if self._clustering_since is None:
            error = self._start_clustering()
        elif self._first_partition is not None and self._warmup_is_over():
            self._first_partition = None
            error = self._refresh_targets(self._embed_training_cells())
        elif (self.current_epoch - self._clustering_since) % self.target_refresh_epochs == 0:
            error = self._refresh_targets(self._embed_training_cells())
        else:
            return
        self.log("sinkhorn_marginal_error", error, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        """Keep a copy of the weights, to fall back on if the next epoch fails."""
        self.keep_weights()
        self._n_good_epochs += 1

    def on_train_end(self) -> None:
        """Leave a module that can predict."""
        super().on_train_end()
        self.finish()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pass through to the module; remembers the loss terms for the error message."""
        outputs = super().forward(*args, **kwargs)
        self._last_terms = dict(outputs[-1].extra_metrics)
        return outputs

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict[str, Any], mode: str) -> None:
        """Log as scvi-tools does, but the loss terms outside of inference mode.

        The base method runs in inference mode, and what is logged there cannot be averaged over processes.
        """
        terms, loss_output.extra_metrics = loss_output.extra_metrics or {}, {}
        super().compute_and_log_metrics(loss_output, metrics, mode)
        loss_output.extra_metrics = terms
        self.log_dict(
            {f"{name}_{mode}": term for name, term in terms.items()},
            on_step=self.on_step,
            on_epoch=self.on_epoch,
            batch_size=loss_output.n_obs_minibatch,
            sync_dist=self.use_sync_dist,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Training step; stops before the optimiser sees a loss that is not finite."""
        if self._first_partition is not None:
            rows = batch[SIAMESE_KEYS.CELL_INDEX].cpu()
            batch[SIAMESE_KEYS.INITIAL_CLUSTER] = self._first_partition[rows].to(self.device)
        loss = super().training_step(batch, batch_idx)
        if not torch.isfinite(loss):
            bad = [name for name, term in self._last_terms.items() if not torch.isfinite(term)]
            kept = "of the last good epoch are kept" if self._n_good_epochs else "are those from before training"
            raise NonFiniteLossError(
                f"Expected a finite loss, found {loss.item()} in epoch {self.current_epoch} (terms: "
                f"{', '.join(bad) or 'none alone'}). The weights {kept}; train with a lower learning rate, "
                "plan_kwargs={'lr': ...}, or look for extreme values in the counts."
            )
        return loss

    # -- phases --------------------------------------------------------------------------------------------------

    def _start_clustering(self) -> float:
        """Place the centres unless they already are, renew the optimiser, solve for the first targets."""
        self._clustering_since = self.current_epoch
        if not _is_placed(self.module):
            rows, labels = self._place_centers()
            if self._n_warmup() > 0:
                self._first_partition = torch.full((self._data.adata_manager.adata.n_obs,), -1)
                self._first_partition[torch.as_tensor(rows)] = labels.cpu()
            # The centres may be a new parameter, and moments of the first phase would distort the second.
            self.trainer.strategy.setup_optimizers(self.trainer)
        error = self._refresh_targets(self._embed_training_cells())
        self.module.clustering_active = True
        # An earlier copy has no centres.
        self.keep_weights()
        return error

    def _n_warmup(self) -> int:
        """Clustering epochs that aim at the first partition."""
        if self.n_warmup_epochs is not None:
            return self.n_warmup_epochs
        return math.ceil((self.trainer.max_epochs - (self._clustering_since or 0)) / 2)

    def _warmup_is_over(self) -> bool:
        return self.current_epoch >= (self._clustering_since or 0) + self._n_warmup()

    def _place_centers(self) -> tuple[NDArray[np.int64], Tensor]:
        """Partition (a sample of) the training cells, put one centre on each part; the cells and their part."""
        seed = _seed()
        rows = self._sample_rows(self.max_init_cells)
        z, expression = decode(self.module, self._loader(rows))
        # On the first process only, so that all processes of a distributed run share one partition.
        state: list[Any] = [None]
        if self.global_rank == 0:
            points = _principal_components(expression, seed)
            result = choose_n_clusters(points, seed) if self.n_clusters is None else None
            n_clusters = result.n_clusters if result is not None else self.n_clusters
            state = [(result, n_clusters, initial_partition(points, int(n_clusters or 0), seed))]
        self.n_clusters_result, n_clusters, parts = _broadcast(state)[0]
        if self.n_clusters_result is not None:
            logger.info("Chose %d clusters: %s.", n_clusters, self.n_clusters_result.criterion)
        head = self.module.head
        if head is None or head.n_clusters != n_clusters:
            head = self.module.build_head(n_clusters)
        labels = torch.as_tensor(parts, device=z.device)
        _place(head, z, labels)
        return rows, labels

    @torch.no_grad()
    def _refresh_targets(self, z: Tensor) -> float:
        """Solve for the column duals on the embedded cells, store them in the head, return the marginal error."""
        head = _head(self.module)
        scaled = head.sharpening * head(z)
        marginals = head.marginals
        if self._clustering_since != self.current_epoch:
            marginals = ema_marginals(marginals, scaled.softmax(dim=1).mean(dim=0), self.marginal_momentum)
        result = sinkhorn(
            scaled,
            marginals,
            n_iter=self.sinkhorn_iterations,
            marginal_relaxation=self.marginal_relaxation,
            initial_duals=head.log_duals,
        )
        head.update_targets(result.column_duals, marginals)
        return result.marginal_error

    def _embed_training_cells(self) -> Tensor:
        """Embed the training cells (a fixed sample of them above ``max_target_cells``) without augmentation."""
        return embed(self.module, self._loader(self._sample_rows(self.max_target_cells)))

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule

    def _sample_rows(self, at_most: int) -> NDArray[np.int64]:
        """Rows of the training cells in order, or of a fixed random sample of them."""
        rows = np.sort(np.asarray(self._data.train_idx))
        if len(rows) > at_most:
            rows = np.sort(np.random.default_rng(_seed()).choice(rows, at_most, replace=False))
        return rows

    def _loader(self, rows: NDArray[np.int64]) -> Any:
        return self._data.data_loader_cls(self._data.adata_manager, indices=rows, batch_size=1024)

    # -- ending --------------------------------------------------------------------------------------------------

    def keep_weights(self) -> None:
        """Copy the current weights to memory."""
        self._last_good = {key: value.detach().cpu().clone() for key, value in self.module.state_dict().items()}

    def restore_weights(self) -> bool:
        """Go back to the last copy of the weights; whether an epoch had been completed by then."""
        if self._last_good:
            self.module.load_state_dict(self._last_good)
        return self._n_good_epochs > 0

    @torch.no_grad()
    def finish(self) -> None:
        """Place the centres if clustering never started, and number the clusters by size, the largest first.

        Frozen centres (a reference mapped to a query) keep their numbers.
        """
        if not _is_placed(self.module):
            logger.warning(
                "Training ended before the clustering phase: clusters are a partition of the pretrained embedding."
            )
            self._place_centers()
            self._clustering_since = self.current_epoch
            self._refresh_targets(self._embed_training_cells())
        z = self._embed_training_cells()
        head = _head(self.module)
        if head.centers.requires_grad:
            sizes = torch.bincount(head(z).argmax(dim=1), minlength=head.n_clusters)
            head.reorder(sizes.argsort(descending=True, stable=True))
        self.module.clustering_active = False


@torch.no_grad()
def embed(module: SiameseModule, loader: Any) -> Tensor:
    """Embed every cell of a loader in evaluation mode, ``(n, n_latent)``, on the module's device."""
    was_training = module.training
    module.eval()
    parts = [module.inference(**module._get_inference_input(tensors))["z"] for tensors in loader]
    module.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def decode(module: SiameseModule, loader: Any) -> tuple[Tensor, NDArray[np.float32]]:
    """Embed every cell of a loader in evaluation mode and decode it.

    Returns
    -------
    Embeddings ``(n, n_latent)`` on the module's device, and z-scored decoded expression ``(n, n_genes)``; the embeddings
    themselves in its place if the module was trained without reconstruction.
    """
    was_training = module.training
    module.eval()
    embeddings, decoded = [], []
    for tensors in loader:
        inputs = module._get_inference_input(tensors)
        z = module.inference(**inputs)["z"]
        embeddings.append(z)
        if module.loss_weights.reconstruction > 0.0:
            decoded.append(module.decoded_expression(z, inputs["categories"], inputs["cont"]).cpu())
    module.train(was_training)
    return torch.cat(embeddings), torch.cat(decoded or [z.cpu() for z in embeddings]).numpy()


def _principal_components(points: NDArray[np.float32], random_state: int, n_comps: int = 30) -> NDArray[np.float32]:
    """First principal components, ``(n, n_comps)`` or fewer."""
    n_comps = min(n_comps, *points.shape)
    return PCA(n_comps, svd_solver="randomized", random_state=random_state).fit_transform(points)


def _place(head: ClusterHead, z: Tensor, labels: Tensor) -> None:
    """Put each centre on the mean of its cells, with the cell shares as marginals."""
    one_hot = torch.nn.functional.one_hot(labels, head.n_clusters).to(z.dtype)
    centers = (one_hot.T @ z) / one_hot.sum(dim=0).clamp_min(1.0).unsqueeze(1)
    head.initialise(centers, estimate_marginals(labels, head.n_clusters), z.mean(dim=0))


def _is_placed(module: SiameseModule) -> bool:
    return module.head is not None and module.head.is_initialised


def _head(module: SiameseModule) -> ClusterHead:
    if module.head is None:
        raise RuntimeError("Expected a clustering head, found none; this is a bug.")
    return module.head


def _seed() -> int:
    return 0 if settings.seed is None else int(settings.seed)


def _broadcast(state: list[Any]) -> list[Any]:
    """Give the first process's objects to all; a no-op in a single process."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(state, src=0)
    return state
