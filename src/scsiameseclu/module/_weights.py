"""Weights of the loss terms."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class LossWeights:
    """One weight per loss term; 0 switches a term off and skips its computation.

    Terms of the paper (Xu et al., IJCAI 2025) whose benefit has not been measured yet are off by default.

    Attributes
    ----------
    reconstruction
        Negative log-likelihood of the counts, per cell and gene.
    cell_correlation
        Cell-level cross-correlation of the two views, neighbours counted as positives. Off by default.
    latent_correlation
        Latent-level cross-correlation of the two views, within each branch.
    cross_correlation
        Latent-level cross-correlation between the expression and the graph branch, across the two views.
    propagation
        Jensen-Shannon divergence between the graph embedding with and without its neighbours. Off by default.
    protein
        Negative log-likelihood of the proteins, per cell and protein; without effect where there are none.
    clustering
        KL divergence from the transport target to the soft assignment (clustering phase only).
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
        """Build from a mapping of the weights that differ from the defaults.

        Raises
        ------
        ValueError
            If a name is unknown, or a weight negative or not finite.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(weights or {}) - set(known))
        if unknown:
            raise ValueError(f"Expected loss terms among {known}, found {unknown}.")
        return cls(**{name: float(weight) for name, weight in (weights or {}).items()})
