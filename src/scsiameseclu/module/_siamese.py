"""Siamese network of scSiameseClu as an scvi-tools module."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scvi.module.base import auto_move_data
from torch import Tensor

from scsiameseclu.module._loss import SiameseLoss, View
from scsiameseclu.module._weights import LossWeights
from scsiameseclu.nn import (
    ClusterHead,
    CountDecoder,
    CovariateScaler,
    ExpressionAugmentation,
    ExpressionEncoder,
    ExpressionScaler,
    GraphEncoder,
    ProteinBranch,
    build_fusion,
    perturb_edges,
)

OTHERS_SHARE = 0.25
"""Share of the cells of a training batch for which the likelihood of genes outside the embedding is computed."""


class SiameseModule(SiameseLoss):
    """Expression encoder, graph encoder, adaptive fusion, count decoder and clustering head.

    In training there are two views of each cell, which share all weights. View 1 is the cell with its nearest
    neighbours. View 2 is a *partner*, which is one of the cell's graph neighbours, with the partner's own neighbours.
    If the batch has no partners, view 2 is the cell itself. If the batch has neighbours by personalised PageRank, view
    2 uses these neighbours. In each view, some edges are dropped at random, and the expression is corrupted at random.
    In evaluation there is only view 1, with all edges, and nothing is random.

    No tensor of the module has the number of cells in the data as a dimension.

    Parameters
    ----------
    n_genes, n_rep
        Number of genes, and width of the graph representation.
    n_clusters
        Number of clusters. None if the number is not known yet (see :meth:`build_head`).
    n_embedding_genes
        Number of genes that the embedding is computed from: the most variable genes, or all genes if there are fewer.
    n_batch, n_cats_per_cov, n_continuous_cov
        Number of batches, number of categories of each further categorical covariate, and number of continuous
        covariates.
    n_latent, n_hidden, n_layers
        Width of the embedding, width of the hidden layers, and number of hidden layers.
    gene_likelihood, dispersion
        See :class:`~scsiameseclu.nn.CountDecoder`.
    convolution
        See :class:`~scsiameseclu.nn.GraphEncoder`.
    fusion
        ``"adaptive"``: a gate mixes the embeddings of the expression encoder and the graph encoder
        (:class:`~scsiameseclu.nn.AdaptiveFusion`). For comparisons, ``"mean"`` takes the mean of both embeddings, and
        ``"expression"`` and ``"graph"`` take only one of them.
    dropout_rate
        Dropout probability of the encoders.
    swap_rate, noise_sd
        See :class:`~scsiameseclu.nn.ExpressionAugmentation`.
    edge_drop_rate
        Share of the edges dropped in each view.
    off_diagonal_weight
        Weight of the decorrelation part of the latent-level losses.
    kernel, temperature, sharpening
        See :class:`~scsiameseclu.nn.ClusterHead`.
    neighbor_positives
        Whether the cell-level correlation loss leaves out graph neighbours. The loss pushes all other pairs of cells
        apart.
    loss_weights
        Weights of loss terms, by name, that replace the defaults of :class:`LossWeights`.
    n_proteins, protein_likelihood
        Number of surface proteins, by default none, and ``likelihood`` of :class:`~scsiameseclu.nn.ProteinBranch`.
    protein_share
        Share of the proteins in the total variance of the space of the first partition, between 0 and 1.
    extra_payload_autotune
        Pass embedding, batch and label of every cell to the callbacks of :mod:`scvi.autotune`.
    """

    embedding_genes: Tensor
    other_genes: Tensor
    embedding_share: Tensor

    def __init__(
        self,
        n_genes: int,
        n_rep: int,
        n_clusters: int | None = None,
        *,
        n_embedding_genes: int = 1000,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous_cov: int = 0,
        n_latent: int = 32,
        n_hidden: int = 256,
        n_layers: int = 1,
        gene_likelihood: Any = "nb",
        dispersion: Any = "gene",
        convolution: Any = "mean",
        fusion: Any = "adaptive",
        dropout_rate: float = 0.0,
        swap_rate: float = 0.4,
        noise_sd: float = 0.1,
        edge_drop_rate: float = 0.5,
        off_diagonal_weight: float = 0.05,
        kernel: Any = "cosine",
        temperature: float = 0.1,
        sharpening: float = 1.5,
        neighbor_positives: bool = True,
        loss_weights: Mapping[str, float] | None = None,
        n_proteins: int = 0,
        protein_likelihood: Any = "nb",
        protein_share: float = 0.5,
        extra_payload_autotune: bool = False,
    ) -> None:
        super().__init__()
        if n_embedding_genes < 2:
            raise ValueError(f"Expected n_embedding_genes of at least 2, found {n_embedding_genes}.")
        n_embedding_genes = min(n_embedding_genes, n_genes)
        self.n_latent = n_latent
        self.edge_drop_rate = edge_drop_rate
        self.neighbor_positives = neighbor_positives
        self.off_diagonal_weight = off_diagonal_weight
        self.loss_weights = LossWeights.from_mapping(loss_weights)
        self.clustering_active = False
        covariates: dict[str, Any] = {"n_cat_list": [n_batch, *n_cats_per_cov], "n_cont": n_continuous_cov}
        encoder: dict[str, Any] = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
            **covariates,
        }

        self.register_buffer("embedding_genes", torch.arange(n_embedding_genes))
        self.register_buffer("other_genes", torch.arange(n_embedding_genes, n_genes))
        self.register_buffer("embedding_share", torch.tensor(1.0))
        self.expression_scaler = ExpressionScaler(n_embedding_genes, n_batch)
        self.covariate_scaler = CovariateScaler(n_continuous_cov) if n_continuous_cov else None
        self.augmentation = ExpressionAugmentation(swap_rate, noise_sd)
        self.expression_encoder = ExpressionEncoder(n_embedding_genes, n_latent, **encoder)
        self.graph_encoder = GraphEncoder(n_rep, n_latent, convolution=convolution, **encoder)
        self.fusion = build_fusion(fusion, n_latent)
        self.decoder = CountDecoder(
            n_latent,
            n_genes,
            n_hidden=n_hidden,
            n_layers=n_layers,
            gene_likelihood=gene_likelihood,
            dispersion=dispersion,
            n_embedding_genes=n_embedding_genes,
            **covariates,
        )
        self.extra_payload_autotune = extra_payload_autotune
        self.protein_share = protein_share
        self.protein = None
        if n_proteins:
            self.protein = ProteinBranch(n_proteins, n_latent, likelihood=protein_likelihood, **encoder)
        self._head_options = {
            "kernel": kernel,
            "temperature": temperature,
            "sharpening": sharpening,
        }
        self.head = None
        if n_clusters is not None:
            self.build_head(n_clusters)

    def build_head(self, n_clusters: int) -> ClusterHead:
        """Create a new clustering head, whose centres are not placed yet, and return the head."""
        # The device is read before the head is created. A new head on another device would make it ambiguous.
        device = self.device
        self.head = ClusterHead(n_clusters, self.n_latent, **self._head_options).to(device)
        return self.head

    def forward(self, tensors: dict[str, Any], *args: Any, compute_loss: bool = True, **kwargs: Any) -> Any:
        """Pass a batch through. With ``compute_loss``, the likelihood of the counts replaces their distribution."""
        options = {"for_loss": compute_loss, **(kwargs.pop("get_generative_input_kwargs", None) or {})}
        return super().forward(tensors, *args, get_generative_input_kwargs=options, compute_loss=compute_loss, **kwargs)

    @auto_move_data
    def inference(
        self,
        x: Tensor,
        library: Tensor,
        rep: Tensor,
        neighbor_rep: Tensor,
        weight: Tensor,
        categories: list[Tensor],
        cont: Tensor | None = None,
        second: dict[str, Any] | None = None,
        n_samples: int = 1,
        protein: Tensor | None = None,
    ) -> dict[str, Any]:
        """Embed the cells.

        Parameters
        ----------
        x
            Counts, ``(batch, n_genes)``.
        library
            Library sizes or size factors, ``(batch, 1)``.
        rep
            Graph representation of the cells, ``(batch, n_rep)``.
        neighbor_rep, weight
            Representation ``(batch, k, n_rep)`` and edge weights ``(batch, k)`` of the neighbours.
        categories, cont
            Codes of each categorical covariate, int64 ``(batch, 1)``, the batch first, and continuous covariates,
            ``(batch, n_continuous_cov)``.
        second
            The same inputs for the second view. If ``second`` is given, both views are corrupted.
        n_samples
            Not used. The signature of scvi-tools has this argument, but the embedding is deterministic.
        protein
            Standardised proteins, ``(batch, n_proteins)``.

        Returns
        -------
        ``z_expression``, ``z_graph``, ``z`` and ``gate``, each ``(batch, n_latent)``. If there is a second view,
        ``second`` holds the same four outputs of view 2.
        """
        first = self._encoder_inputs(
            second is not None, x, library, rep, neighbor_rep, weight, categories, cont, protein
        )
        if second is None:
            return self._embed(**first)
        # One pass with the rows of both views needs no more operations than a pass with one view.
        both = self._embed(**_joined(first, self._encoder_inputs(True, **second)))
        halves = {key: value.chunk(2) for key, value in both.items()}
        outputs: dict[str, Any] = {key: half[0] for key, half in halves.items()}
        return {**outputs, "second": {key: half[1] for key, half in halves.items()}}

    def _encoder_inputs(
        self,
        corrupted: bool,
        x: Tensor,
        library: Tensor,
        rep: Tensor,
        neighbor_rep: Tensor,
        weight: Tensor,
        categories: list[Tensor],
        cont: Tensor | None,
        protein: Tensor | None = None,
    ) -> dict[str, Any]:
        """Inputs of the encoders for one view: scaled, corrupted if ``corrupted``, and with neighbours averaged."""
        expression = self.expression_scaler(x.index_select(1, self.embedding_genes), library, categories[0])
        if corrupted:
            expression = self.augmentation(expression)[0]
            weight = perturb_edges(weight, self.edge_drop_rate)
            protein = None if protein is None else self.augmentation(protein)[0]
        return {
            "expression": expression,
            "mixed": self.graph_encoder.mix(rep, neighbor_rep, weight),
            "categories": categories,
            "cont": cont,
            "protein": protein,
        }

    def _embed(
        self,
        expression: Tensor,
        mixed: Tensor,
        categories: list[Tensor],
        cont: Tensor | None,
        protein: Tensor | None,
    ) -> View:
        """Embed one view with both encoders, and fuse the embeddings. Arguments come from :meth:`_encoder_inputs`."""
        z_expression = self.expression_encoder(expression, categories, cont)
        if self.protein is not None and protein is not None:
            z_expression = self.protein.embed(protein, z_expression, categories, cont)
        z_graph = self.graph_encoder.embed(mixed, categories, cont)
        z, gate = self.fusion(z_expression, z_graph)
        return {"z_expression": z_expression, "z_graph": z_graph, "z": z, "gate": gate}

    @auto_move_data
    def generative(
        self,
        z: Tensor,
        library: Tensor,
        categories: list[Tensor],
        cont: Tensor | None = None,
        counts: Tensor | None = None,
        transform_batch: int | None = None,
    ) -> dict[str, Any]:
        """Decode embeddings.

        In training, the genes outside the embedding are evaluated for the first quarter of the cells only. The cells of
        a batch are in random order, so the expected loss is the same, with more noise and at a quarter of the cost. No
        gradient from these genes reaches the embedding.

        Parameters
        ----------
        z
            Embedding, ``(batch, n_latent)``.
        library, categories, cont
            Library sizes, ``(batch, 1)``, and covariates as for :meth:`inference`.
        counts
            Counts, ``(batch, n_genes)``, whose likelihood is wanted.
        transform_batch
            Code of a batch that replaces the batch of every cell. Only used without ``counts``.

        Returns
        -------
        Without ``counts``, ``px``: the distribution of the counts of all genes. With ``counts``, ``nll`` and
        ``others_nll``, the two results of :meth:`~scsiameseclu.nn.CountDecoder.negative_log_likelihood`, or nothing if
        the weight of the reconstruction loss is 0.
        """
        if counts is not None:
            if self.loss_weights.reconstruction == 0.0:
                return {}
            x_others = None
            if self.other_genes.numel():
                n_rows = math.ceil(len(counts) * OTHERS_SHARE) if self.training else len(counts)
                x_others = counts[:n_rows].index_select(1, self.other_genes)
            nll, others_nll = self.decoder.negative_log_likelihood(
                counts.index_select(1, self.embedding_genes), x_others, z, library, categories, cont
            )
            return {"nll": nll, "others_nll": others_nll}
        if transform_batch is not None:
            categories = [torch.full_like(categories[0], transform_batch), *categories[1:]]
        return {"px": self.decoder(z, library, categories, cont)}

    def decoded_expression(self, z: Tensor, categories: list[Tensor], cont: Tensor | None = None) -> Tensor:
        """Z-scored log-normalised expression of the embedding genes, decoded as if all cells were of the first batch.

        Distances between cells are meaningful in this space. In the embedding they are less meaningful, because the
        decorrelation loss makes its axes equally wide.
        """
        first_batch = [torch.zeros_like(categories[0]), *categories[1:]]
        scale = self.decoder.embedding_scale(z, first_batch, cont)
        return self.expression_scaler.standardise(scale * self.embedding_share)

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1) -> Tensor:
        """Draw counts for the cells of a batch, ``(batch, n_genes)``, or ``(n_samples, batch, n_genes)``."""
        _, generative_outputs = self.forward(tensors, compute_loss=False)
        px = generative_outputs["px"]
        return px.sample() if n_samples == 1 else px.sample((n_samples,))

    @torch.no_grad()
    def fit_input(
        self,
        embedding_genes: np.ndarray,
        other_genes: np.ndarray,
        mean: np.ndarray,
        sd: np.ndarray,
        proportions: np.ndarray,
        target_sum: float,
        rep: np.ndarray,
        batch_offsets: np.ndarray | None = None,
    ) -> None:
        """Store the input statistics of the training cells, and start the decoder at their mean expression.

        Parameters
        ----------
        embedding_genes
            Columns of the genes that the embedding is computed from, ``(n_embedding_genes,)``. The order of this array
            decides which initial weights a gene gets. With genes sorted by name, the initial weights do not depend on
            the order of the columns.
        other_genes
            All other columns, sorted in the same way.
        mean, sd
            Mean and standard deviation of each gene's log-normalised expression, ``(n_genes,)``.
        proportions
            Share of each gene in all counts, ``(n_genes,)``.
        target_sum
            Total to which the counts of each cell are scaled before the logarithm.
        rep
            Graph representation of the training cells, ``(n_obs, n_rep)``.
        batch_offsets
            Difference between the log-normalised expression in each batch and the overall expression,
            ``(n_embedding_genes, n_batch)``.
        """
        genes = torch.as_tensor(embedding_genes)
        self.embedding_genes.copy_(genes)
        self.other_genes.copy_(torch.as_tensor(other_genes))
        self.expression_scaler.fit(torch.as_tensor(mean).float()[genes], torch.as_tensor(sd).float()[genes], target_sum)
        if batch_offsets is not None:
            self.expression_scaler.offset.copy_(torch.as_tensor(batch_offsets))
        self.embedding_share.fill_(float(proportions[embedding_genes].sum()))
        self.graph_encoder.scaler.fit(torch.as_tensor(np.asarray(rep, dtype=np.float32)))
        self.decoder.assign(genes, self.other_genes, torch.as_tensor(proportions).float())


def _joined(first: Any, second: Any) -> Any:
    """Concatenate the rows of two views: tensors, or dictionaries and lists of tensors."""
    if isinstance(first, dict):
        return {key: _joined(value, second[key]) for key, value in first.items()}
    if isinstance(first, list):
        return [_joined(*pair) for pair in zip(first, second, strict=True)]
    return None if first is None else torch.cat([first, second])
