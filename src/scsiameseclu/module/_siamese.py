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
"""Share of the cells of a training batch that the likelihood of genes outside the embedding is computed on."""


class SiameseModule(SiameseLoss):
    """Expression encoder, graph encoder, adaptive fusion, count decoder and clustering head.

    In training there are two views with shared weights. View 1 is the cell with its kNN block. View 2 is its
    *partner*, one of its graph neighbours that the batch carries (the cell itself, if it carries none), with that
    cell's kNN block, or its personalised-PageRank block if the batch carries that. Each view has edges dropped at
    random and its own corruption of the expression. In evaluation there is one view, uncorrupted, with the full kNN
    block, and nothing is random.

    No tensor in here has a dimension of the size of the data.

    Parameters
    ----------
    n_genes, n_rep
        Number of genes and width of the graph representation.
    n_clusters
        Number of clusters; None while it is still unknown (see :meth:`build_head`).
    n_embedding_genes
        Number of genes, the most variable ones, that the embedding is made of; all, if there are no more than that.
    n_batch, n_cats_per_cov, n_continuous_cov
        Number of batches, of categories of each further categorical covariate, and of continuous covariates.
    n_latent, n_hidden, n_layers
        Width of the embedding, width and number of the hidden layers.
    gene_likelihood, dispersion
        See :class:`~scsiameseclu.nn.CountDecoder`.
    convolution
        See :class:`~scsiameseclu.nn.GraphEncoder`.
    fusion
        ``"adaptive"``: a gate mixes the embeddings of expression and graph, see
        :class:`~scsiameseclu.nn.AdaptiveFusion`. For comparison: their ``"mean"``, or ``"expression"`` or ``"graph"``
        alone.
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
        Whether graph neighbours are spared by the cell-level correlation, which pushes all other pairs of cells apart.
    loss_weights
        Weights that differ from the defaults of :class:`LossWeights`.
    n_proteins, protein_likelihood
        Number of surface proteins, none by default; see :class:`~scsiameseclu.nn.ProteinBranch`.
    protein_share
        Share of the proteins in the space of the first partition.
    extra_payload_autotune
        Hand embedding, batch and label of every cell to the callbacks of :mod:`scvi.autotune`.
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
        """Create the clustering head (again), with centres still to be placed, and return it."""
        # Asked for first: the module has no single device while the new part is elsewhere.
        device = self.device
        self.head = ClusterHead(n_clusters, self.n_latent, **self._head_options).to(device)
        return self.head

    def forward(self, tensors: dict[str, Any], *args: Any, compute_loss: bool = True, **kwargs: Any) -> Any:
        """Pass a batch through; for a loss, the likelihood takes the place of the distribution of the counts."""
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
            Covariates.
        second
            The same for the second view. If given, both views are corrupted.
        n_samples
            Accepted for the scvi-tools signature; the embedding is deterministic.
        protein
            Standardised proteins, ``(batch, n_proteins)``.

        Returns
        -------
        ``z_expression``, ``z_graph``, ``z``, ``gate``, each ``(batch, n_latent)``; those of view 2, if there is one,
        under ``second``.
        """
        first = self._encoder_inputs(
            second is not None, x, library, rep, neighbor_rep, weight, categories, cont, protein
        )
        if second is None:
            return self._embed(**first)
        # One pass for both views: as many operations as for one of them.
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
        """What the encoders read of one view: scaled, corrupted where asked for, neighbours mixed."""
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
        """Both branches and their fusion; arguments are those of :meth:`_encoder_inputs`."""
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
        """Decode embeddings ``(batch, n_latent)``.

        Without ``counts``: the distribution ``px`` of the counts of all genes; ``transform_batch`` replaces the batch
        of every cell. With ``counts``: their negative log-likelihood ``nll`` per embedding gene and ``others_nll`` per
        other gene (see :meth:`~scsiameseclu.nn.CountDecoder.negative_log_likelihood`), or nothing if that loss is
        switched off. In training the other genes, from which no gradient reaches the embedding, are evaluated on the
        first quarter of the batch's cells only, which are in random order: the same loss in the mean, with more noise,
        at a quarter of the cost.
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

        A space in which distances mean something: the embedding's own axes are arbitrary, and decorrelation has made
        them equally wide.
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
            Columns of the genes the embedding is made of, ``(n_embedding_genes,)``. Each weight of a gene belongs to a
            place in this order: genes sorted by name get the same starting weights whatever the order of the columns.
        other_genes
            All other columns, in the same kind of order.
        mean, sd
            Mean and standard deviation of each gene's log-normalised expression, ``(n_genes,)``.
        proportions
            Share of each gene in all counts, ``(n_genes,)``.
        target_sum
            Total of the normalisation.
        rep
            Graph representation of the training cells, ``(n_obs, n_rep)``.
        batch_offsets
            What log-normalised expression is higher by in each batch, ``(n_embedding_genes, n_batch)``.
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
    """Rows of the first, then of the second view: of tensors, and of tensors in dictionaries and lists."""
    if isinstance(first, dict):
        return {key: _joined(value, second[key]) for key, value in first.items()}
    if isinstance(first, list):
        return [_joined(*pair) for pair in zip(first, second, strict=True)]
    return None if first is None else torch.cat([first, second])
