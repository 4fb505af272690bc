"""Plots of training, embedding, clusters, confidence and agreement.

The figures are shown, saved and returned as in scanpy.
"""

from scsiameseclu.pl._abundance import abundance
from scsiameseclu.pl._annotation import annotation_overlap
from scsiameseclu.pl._cluster_tree import cluster_tree
from scsiameseclu.pl._confidence import confidence
from scsiameseclu.pl._embedding import embedding
from scsiameseclu.pl._latent import latent_correlation
from scsiameseclu.pl._marker_dotplot import marker_dotplot
from scsiameseclu.pl._n_clusters import n_clusters_search
from scsiameseclu.pl._out_of_reference import out_of_reference
from scsiameseclu.pl._query_on_reference import query_on_reference
from scsiameseclu.pl._reliability import reliability
from scsiameseclu.pl._sankey import sankey
from scsiameseclu.pl._split_evidence import split_evidence
from scsiameseclu.pl._stability import stability
from scsiameseclu.pl._training import training_curves

__all__ = [
    "abundance",
    "annotation_overlap",
    "cluster_tree",
    "confidence",
    "embedding",
    "latent_correlation",
    "marker_dotplot",
    "n_clusters_search",
    "out_of_reference",
    "query_on_reference",
    "reliability",
    "sankey",
    "split_evidence",
    "stability",
    "training_curves",
]
