"""The two encoders of the Siamese network (expression and cell graph) and the scaling of their inputs."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.nn._layers import hidden_stack

_EPS = 1e-8


class ExpressionScaler(nn.Module):
    r"""Turn counts into the standardised expression that the encoder reads.

    For cell :math:`i` with counts :math:`c_{ig}` and library size (or size factor) :math:`s_i`,

    .. math::
        x_{ig} = \mathrm{clip}\bigl(w_g\,(\log(1 + t\,c_{ig} / s_i) - m_g - o_{g b_i}),\ \pm x_{\max}\bigr)

    with mean :math:`m_g` and weight :math:`w_g` of gene :math:`g`, a target sum :math:`t`, and the offset
    :math:`o_{gb}` of the gene in the batch :math:`b` of the cell
    (:func:`~scsiameseclu.data._statistics.batch_offsets`). The offset of a batch that is new to the model is 0. All
    these statistics come from the training cells. They are stored as buffers and saved with the weights, so that new
    cells are scaled in the same way.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_batch
        Number of batches.
    clip
        Bound :math:`x_{\max}` of the absolute value.
    """

    mean: Tensor
    weight: Tensor
    target_sum: Tensor
    offset: Tensor

    def __init__(self, n_genes: int, n_batch: int = 1, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        # Batches are the last dimension, because scvi-tools appends the batches of a query to the last dimension.
        self.register_buffer("offset", torch.zeros(n_genes, max(n_batch, 1)))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("weight", torch.ones(n_genes))
        self.register_buffer("target_sum", torch.tensor(TARGET_SUM))

    @torch.no_grad()
    def fit(self, mean: Tensor, sd: Tensor, target_sum: float) -> None:
        r"""Store the statistics of the training cells.

        Parameters
        ----------
        mean, sd
            Mean and standard deviation of each gene's log-normalised expression, shape ``(n_genes,)``.
        target_sum
            Numerator of the normalisation: 10,000 times the typical ratio of size factor and library
            size.

        Notes
        -----
        The weight is :math:`1 / (\sqrt{sd_g}\, s)` with one :math:`s` for all genes, chosen so that the whole matrix
        has unit variance. This weight is a compromise between z-scores, which inflate noisy genes, and no scaling.
        Genes that do not vary get weight 0.
        """
        variable = sd > _EPS
        overall = sd[variable].mean().sqrt() if bool(variable.any()) else torch.ones(())
        self.mean.copy_(mean)
        self.weight.copy_(torch.where(variable, 1.0 / (sd.clamp_min(_EPS).sqrt() * overall), 0.0))
        self.target_sum.fill_(target_sum)

    def forward(self, counts: Tensor, library: Tensor, batch: Tensor | None = None) -> Tensor:
        """Scale counts of shape ``(batch, n_genes)``.

        Parameters
        ----------
        counts
            Counts, ``(batch, n_genes)``.
        library
            Library sizes, ``(batch, 1)``.
        batch
            Codes of the batches of the cells, int64 ``(batch, 1)``. With None, no offset is subtracted.

        Returns
        -------
        Scaled expression, float32 ``(batch, n_genes)``.
        """
        # A cell without counts has library 0 and stays at log1p(0). The operations work in place to save memory.
        scaled = (counts * (self.target_sum / library.clamp_min(_EPS))).log1p_()
        centre = self.mean
        if batch is not None and self.offset.shape[1] > 1:
            centre = centre + self.offset.T.index_select(0, batch.flatten().long())
        return scaled.sub_(centre).mul_(self.weight).clamp_(-self.clip, self.clip)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the state. Models of early versions have no offsets and get offsets of 0."""
        state_dict.setdefault(f"{prefix}offset", torch.zeros_like(self.offset))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def standardise(self, proportions: Tensor) -> Tensor:
        """Z-score expression given as proportions ``(batch, n_genes)``, up to one factor common to all genes."""
        # The weight is proportional to 1 / sqrt(sd), so the square of the weight is proportional to 1 / sd.
        return (torch.log1p(proportions * TARGET_SUM) - self.mean) * self.weight.square()


class RepresentationScaler(nn.Module):
    """Centre the graph representation and divide it by one number, so that the mean variance of its axes is 1.

    The relative sizes of the axes are kept. The representation may have any unit: PCA scores, the latent space of
    another model, or spatial coordinates.

    Parameters
    ----------
    n_rep
        Width of the representation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_rep: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_rep))
        self.register_buffer("scale", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, rep: Tensor) -> None:
        """Store centre and scale of the training cells' representation, ``(n_obs, n_rep)``."""
        self.mean.copy_(rep.mean(dim=0))
        self.scale.copy_(rep.var(dim=0, unbiased=False).mean().sqrt().clamp_min(_EPS))

    def forward(self, rep: Tensor) -> Tensor:
        """Scale representations of shape ``(..., n_rep)``."""
        return (rep - self.mean) / self.scale


class ExpressionEncoder(nn.Module):
    """Embed standardised expression: hidden layers with covariates, then a linear map.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_latent
        Width of the embedding.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Number of categories of each categorical covariate. The batch comes first.
    n_cont
        Number of continuous covariates.
    dropout_rate
        Dropout probability of the hidden layers.
    """

    def __init__(
        self,
        n_genes: int,
        n_latent: int,
        n_hidden: int = 256,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden = hidden_stack(
            n_genes, n_hidden, n_layers, n_cat_list=n_cat_list, n_cont=n_cont, dropout_rate=dropout_rate
        )
        self.project = nn.Linear(n_hidden, n_latent)

    def forward(self, x: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Map ``(batch, n_genes)`` to ``(batch, n_latent)``."""
        return self.project(self.hidden(x, *categories, cont=cont))


class GraphEncoder(nn.Module):
    """Embed a cell from its ``k`` neighbours.

    The encoder is one graph convolution from the neighbours to the cells of the batch, followed by hidden layers and a
    linear map. The convolution leaves out the cell itself. The expression encoder reads the cell and no neighbour, and
    the graph encoder reads the neighbours and not the cell. The two encoders therefore have to learn to agree. If both
    read the cell, they would agree from the start and learn nothing. Edges of weight 0 (padding, or edges dropped by
    :func:`~scsiameseclu.nn.perturb_edges`) have no effect. For a cell without edges, the encoder reads the cell itself.

    Parameters
    ----------
    n_rep
        Width of the representation in which the neighbours were found.
    n_latent
        Width of the embedding.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_cat_list
        Number of categories of each categorical covariate. The batch comes first.
    n_cont
        Number of continuous covariates.
    convolution
        ``"mean"``: mean of the neighbours, weighted by the edges. ``"attention"``:
        :class:`torch_geometric.nn.GATv2Conv` with the edge weight as edge feature.
    dropout_rate
        Dropout probability of the hidden layers.

    Raises
    ------
    ValueError
        If ``convolution`` is unknown.
    """

    def __init__(
        self,
        n_rep: int,
        n_latent: int,
        n_hidden: int = 256,
        n_layers: int = 1,
        n_cat_list: Sequence[int] = (),
        n_cont: int = 0,
        convolution: Literal["mean", "attention"] = "mean",
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if convolution not in ("mean", "attention"):
            raise ValueError(f"Expected convolution 'mean' or 'attention', found {convolution!r}.")
        self.convolution = convolution
        self.scaler = RepresentationScaler(n_rep)
        if convolution == "attention":
            self.conv = GATv2Conv((n_rep, n_rep), n_rep, heads=1, edge_dim=1, add_self_loops=False)
        self.hidden = hidden_stack(
            n_rep, n_hidden, n_layers, n_cat_list=n_cat_list, n_cont=n_cont, dropout_rate=dropout_rate
        )
        self.project = nn.Linear(n_hidden, n_latent)

    def forward(
        self,
        rep: Tensor,
        neighbor_rep: Tensor,
        edge_weight: Tensor,
        categories: Sequence[Tensor] = (),
        cont: Tensor | None = None,
    ) -> Tensor:
        """Embed the cells of a batch.

        Parameters
        ----------
        rep
            Representation of the cells, ``(batch, n_rep)``.
        neighbor_rep
            Representation of the neighbours, ``(batch, k, n_rep)``.
        edge_weight
            Non-negative edge weights, ``(batch, k)``. 0 means "no edge".
        categories, cont
            Covariates of the cells: integer codes of each categorical covariate, ``(batch, 1)``, and values of the
            continuous covariates, ``(batch, n_cont)``.

        Returns
        -------
        Embedding, ``(batch, n_latent)``.
        """
        return self.embed(self.mix(rep, neighbor_rep, edge_weight), categories, cont)

    def mix(self, rep: Tensor, neighbor_rep: Tensor, edge_weight: Tensor) -> Tensor:
        """Apply the graph convolution. The arguments are those of :meth:`forward`.

        Returns
        -------
        Scaled and mixed representation of the neighbours, ``(batch, n_rep)``.
        """
        total = edge_weight.sum(dim=1, keepdim=True)
        has_edges = total > 0
        weights = edge_weight / total.clamp_min(_EPS)
        # The scaler comes before the mean. In reduced precision, a mean of large values would lose small differences.
        own, others = self.scaler(rep), self.scaler(neighbor_rep)
        if self.convolution == "mean":
            return torch.where(has_edges, torch.bmm(weights.unsqueeze(1), others).squeeze(1), own)
        edges, weights = _block_edges(edge_weight.shape[0], edge_weight.shape[1], rep.device), weights.flatten()
        # Attention would use edges of weight 0, so these edges are removed.
        present = weights > 0
        mixed = self.conv((others.flatten(0, 1), own), edges[:, present], edge_attr=weights[present].unsqueeze(1))
        return torch.where(has_edges, mixed, own)

    def embed(self, mixed: Tensor, categories: Sequence[Tensor] = (), cont: Tensor | None = None) -> Tensor:
        """Map the result of :meth:`mix`, ``(batch, n_rep)``, to embeddings ``(batch, n_latent)``."""
        return self.project(self.hidden(mixed, *categories, cont=cont))


def _block_edges(n_cells: int, k: int, device: torch.device) -> Tensor:
    """Edges from row ``i * k + j`` of the flattened neighbour block to cell ``i``, ``(2, n_cells * k)``."""
    source = torch.arange(n_cells * k, device=device)
    target = torch.div(source, k, rounding_mode="floor") if k else source
    return torch.stack([source, target])
