"""Scores of clusterings, confidences and embeddings. Training does not use these scores."""

from scsiameseclu.metrics._calibration import expected_calibration_error, reliability_curve
from scsiameseclu.metrics._clustering import clustering_metrics, rare_type_recall
from scsiameseclu.metrics._latent import effective_rank, mean_pairwise_cosine

__all__ = [
    "clustering_metrics",
    "effective_rank",
    "expected_calibration_error",
    "mean_pairwise_cosine",
    "rare_type_recall",
    "reliability_curve",
]
