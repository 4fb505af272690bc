"""Scores that compare a clustering with known labels; never used in training."""

from scsiameseclu.metrics._clustering import clustering_metrics

__all__ = ["clustering_metrics"]
