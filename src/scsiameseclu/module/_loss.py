"""Training loss of the Siamese network and its terms."""

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from torch import Tensor

from scsiameseclu import losses
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.module._autotune import ScibMetrics
from scsiameseclu.module._inputs import BatchInputs
from scsiameseclu.module._processes import of_all_processes, row_numbers
from scsiameseclu.module._weights import LossWeights
from scsiameseclu.nn import ClusterHead, GraphEncoder

View = dict[str, Tensor]
Terms = dict[str, Tensor]


class SiameseLoss(BatchInputs):
    """The loss of the Siamese network: a weighted sum of terms.

    Attributes
    ----------
    graph_encoder, head
        Parts of the network that some terms use. The subclass that builds the network sets these attributes.
    loss_weights
        Weight of each term. Terms of weight 0 are not computed.
    off_diagonal_weight
        Weight of the decorrelation part of the latent-level terms.
    neighbor_positives
        Whether the cell-level term treats graph neighbours as positives, and does not push them apart.
    clustering_active
        Whether the clustering phase has begun.
    extra_payload_autotune
        Whether the metrics include embedding, batch and label of every cell.
    """

    graph_encoder: GraphEncoder
    head: ClusterHead | None
    loss_weights: LossWeights
    off_diagonal_weight: float
    neighbor_positives: bool
    clustering_active: bool
    extra_payload_autotune: bool

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
    ) -> LossOutput:
        """Weighted sum of the active terms. ``extra_metrics`` holds the unweighted terms.

        In validation there is no second view, and the first view is compared with itself. The correlation terms then
        measure redundancy only.
        """
        first: View = inference_outputs
        second: View = inference_outputs.get("second", first)
        terms = {
            **self._likelihoods(tensors, first, generative_outputs),
            **self._correlations(tensors, first, second),
            **self._propagation(tensors, first),
            **self._clusters(tensors, first, second),
        }
        weights = self.loss_weights
        # The zero gives every part of the encoders a gradient, even if no active term uses the part.
        start = 0.0 if "reconstruction" in terms else 0.0 * first["z"].sum()
        total = sum((getattr(weights, name) * term for name, term in terms.items()), start=start)
        others_nll = generative_outputs.get("others_nll")
        if self.training and others_nll is not None:
            # This term trains only the decoder of the genes outside the embedding. Its gradient does not reach the
            # rest of the network, so the term needs no weight. The validation loss judges the embedding, and leaves
            # the term out.
            total = total + others_nll.mean()
        metrics = {name: term.detach() for name, term in terms.items()}
        metrics["gate"] = first["gate"].detach().mean()
        if self.extra_payload_autotune:
            metrics = ScibMetrics(metrics, first["z"], tensors)
        return LossOutput(
            loss=total,
            reconstruction_loss=_nll_per_cell(tensors[REGISTRY_KEYS.X_KEY], generative_outputs),
            extra_metrics=metrics,
            n_obs_minibatch=tensors[REGISTRY_KEYS.X_KEY].shape[0],
        )

    def _likelihoods(self, tensors: dict[str, Tensor], first: View, generative_outputs: dict[str, Any]) -> Terms:
        """Negative log-likelihoods of the counts of embedding genes and of the proteins."""
        terms: Terms = {}
        if self.loss_weights.reconstruction > 0.0:
            # With the mean over genes, one set of loss weights fits any number of genes.
            terms["reconstruction"] = generative_outputs["nll"].mean()
        if self.protein is not None and self.loss_weights.protein > 0.0:
            values, scores = tensors[SIAMESE_KEYS.PROTEIN], tensors[SIAMESE_KEYS.PROTEIN_REP]
            covariates = self._covariates(tensors)
            terms["protein"] = self.protein.negative_log_likelihood(values, scores, first["z"], **covariates)
        return terms

    def _correlations(self, tensors: dict[str, Any], first: View, second: View) -> Terms:
        """Correlation losses between the two views.

        In training, the losses use the cells of all processes of a distributed run. In validation, every process uses
        its own cells, because the processes may have different numbers of batches.
        """
        weights, terms = self.loss_weights, Terms()
        if self.training:
            cell_level = weights.cell_correlation > 0.0
            first, second, rows = of_all_processes(tensors, first, second, numbers=cell_level)
        else:
            rows = row_numbers(tensors)
        if weights.cell_correlation > 0.0:
            terms["cell_correlation"] = self._cell_correlation(rows, first, second)
        if weights.latent_correlation > 0.0 or weights.cross_correlation > 0.0:
            branches = ("z_expression", "z_graph")
            pairs = losses.latent_correlation_losses(
                [first[key] for key in branches], [second[key] for key in branches], self.off_diagonal_weight
            )
            if weights.latent_correlation > 0.0:
                terms["latent_correlation"] = pairs.diagonal().mean()
            if weights.cross_correlation > 0.0:
                terms["cross_correlation"] = pairs.flip(1).diagonal().mean()
        return terms

    def _cell_correlation(self, rows: dict[str, Tensor], first: View, second: View) -> Tensor:
        """Cell-level correlation loss, mean of the two branches.

        ``rows`` is the result of :func:`row_numbers` for the same cells.
        """
        positives = None
        if self.neighbor_positives:
            cells, neighbors = rows[SIAMESE_KEYS.CELL_INDEX], rows[SIAMESE_KEYS.NEIGHBOR_INDEX]
            positives = losses.batch_neighbor_mask(cells, neighbors)
            if SIAMESE_KEYS.PARTNER in rows:  # the columns of the similarity matrix are the partners of the cells
                positives |= losses.batch_neighbor_mask(cells, neighbors, rows[SIAMESE_KEYS.PARTNER])
        pairs = [(first[key], second[key]) for key in ("z_expression", "z_graph")]
        return torch.stack([losses.cell_correlation_loss(u, v, positives) for u, v in pairs]).mean()

    def _propagation(self, tensors: dict[str, Tensor], first: View) -> Terms:
        """Divergence between the graph embedding without neighbours and the graph embedding with neighbours."""
        if self.loss_weights.propagation == 0.0:
            return {}
        rep, neighbor_rep = tensors[SIAMESE_KEYS.GRAPH_REP], tensors[SIAMESE_KEYS.NEIGHBOR_REP]
        no_edges = torch.zeros_like(tensors[SIAMESE_KEYS.NEIGHBOR_WEIGHT])
        alone = self.graph_encoder(rep, neighbor_rep, no_edges, **self._covariates(tensors))
        return {"propagation": losses.propagation_loss(alone, first["z_graph"])}

    def _clusters(self, tensors: dict[str, Any], first: View, second: View) -> Terms:
        """Divergence of the assignments from the cluster targets. Only in the clustering phase."""
        if self.loss_weights.clustering == 0.0 or not self.clustering_active or self.head is None:
            return {}
        return {"clustering": self._clustering(self.head, tensors, first["z"], second["z"])}

    def _clustering(self, head: ClusterHead, tensors: dict[str, Any], z_first: Tensor, z_second: Tensor) -> Tensor:
        """KL(P || Q) of both views. Each cell is compared with its own target.

        The target of a cell comes with the batch. A cell without a target in the batch (a row of zeros) gets the
        transport target of its logits.
        """
        logits = head(torch.cat([z_first, z_second]))
        targets = head.targets(logits.detach())
        if SIAMESE_KEYS.CLUSTER_TARGET in tensors:
            cells = (tensors, tensors.get(SIAMESE_KEYS.PARTNER, tensors))
            kept = torch.cat([each[SIAMESE_KEYS.CLUSTER_TARGET] for each in cells])
            targets = torch.where(kept.sum(dim=1, keepdim=True) > 0, kept, targets)
        return losses.clustering_kl(targets, logits.log_softmax(dim=1))


def _nll_per_cell(counts: Tensor, generative_outputs: dict[str, Any]) -> Tensor:
    """Negative log-likelihood of all genes of each cell, ``(batch,)``, or 0 if the term is switched off.

    In training, the genes outside the embedding are evaluated for the first cells of the batch only. All cells then get
    the mean of these first cells for the genes outside the embedding.
    """
    if "nll" not in generative_outputs:
        return torch.zeros(len(counts), device=counts.device)
    nll, others_nll = generative_outputs["nll"].sum(dim=1), generative_outputs["others_nll"]
    if others_nll is None:
        return nll
    per_cell = others_nll.detach().sum(dim=1)
    return nll + (per_cell if len(per_cell) == len(nll) else per_cell.mean())
