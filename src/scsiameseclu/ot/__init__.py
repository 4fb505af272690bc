"""Optimal transport between cells and clusters: entropic in the log domain, and exact by POT."""

from scsiameseclu.ot._exact import ExactResult, exact_transport
from scsiameseclu.ot._marginals import ema_marginals, estimate_marginals
from scsiameseclu.ot._sinkhorn import SinkhornResult, sinkhorn, target_from_duals
from scsiameseclu.ot._transport import transport_to_masses

__all__ = [
    "ExactResult",
    "SinkhornResult",
    "ema_marginals",
    "estimate_marginals",
    "exact_transport",
    "sinkhorn",
    "target_from_duals",
    "transport_to_masses",
]
