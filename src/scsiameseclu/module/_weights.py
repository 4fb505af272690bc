"""Weights of the loss terms."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms. Weight 0 switches a term off, and the term is not computed.

    Some terms of the paper (Xu et al., IJCAI 2025) are off by default.

    Attributes
    ----------
    reconstruction
        Weight of the negative log-likelihood of the counts, mean per cell and gene.
    cell_correlation
        Weight of the cell-level cross-correlation loss between the two views. Off by default.
    latent_correlation
        Weight of the latent-level cross-correlation loss between the two views of the same encoder.
    cross_correlation
        Weight of the latent-level cross-correlation loss between the expression encoder in one view and the graph
        encoder in the other view.
    propagation
        Weight of the Jensen-Shannon divergence between the graph embeddings of a cell with and without its neighbours.
        Off by default.
    protein
        Weight of the negative log-likelihood of the proteins, mean per cell and protein. Without proteins the weight
        has no effect.
    clustering
        Weight of the KL divergence of the soft assignment from its target. Only used in the clustering phase.
    """

    reconstruction: float = 1.0
    cell_correlation: float = 0.0
    latent_correlation: float = 0.4
    cross_correlation: float = 0.2
    propagation: float = 0.0
    clustering: float = 1.0
    protein: float = 0.2

    def __post_init__(self) -> None:
        """Refuse weights that are negative or not finite."""
        for name, weight in asdict(self).items():
            if not (math.isfinite(weight) and weight >= 0.0):
                raise ValueError(f"Expected a finite loss weight of at least 0, found {name}={weight}.")

    @classmethod
    def from_mapping(cls, weights: Mapping[str, float] | None) -> "LossWeights":
        """Build the weights from a mapping of the weights that differ from the defaults.

        Raises
        ------
        ValueError
            If a name is unknown, or a weight is negative or not finite.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(weights or {}) - set(known))
        if unknown:
            raise ValueError(f"Expected loss terms among {known}, found {unknown}.")
        return cls(**{name: float(weight) for name, weight in (weights or {}).items()})
