"""Plots of training, embedding, confidence and agreement, shown, saved or returned as scanpy does."""

from scsiameseclu.pl._annotation import annotation_overlap
from scsiameseclu.pl._cluster_tree import cluster_tree
from scsiameseclu.pl._confidence import confidence
from scsiameseclu.pl._embedding import embedding
from scsiameseclu.pl._latent import latent_correlation
from scsiameseclu.pl._n_clusters import n_clusters_search
from scsiameseclu.pl._reliability import reliability
from scsiameseclu.pl._stability import stability
from scsiameseclu.pl._training import training_curves

__all__ = [
    "annotation_overlap",
    "cluster_tree",
    "confidence",
    "embedding",
    "latent_correlation",
    "n_clusters_search",
    "reliability",
    "stability",
    "training_curves",
]
