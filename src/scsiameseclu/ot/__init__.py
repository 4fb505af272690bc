"""Entropic optimal transport between cells and clusters, in the log domain."""

from scsiameseclu.ot._marginals import ema_marginals, estimate_marginals
from scsiameseclu.ot._sinkhorn import SinkhornResult, sinkhorn, target_from_duals

__all__ = ["SinkhornResult", "ema_marginals", "estimate_marginals", "sinkhorn", "target_from_duals"]
