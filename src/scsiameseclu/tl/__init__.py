"""Tools: complete steps of an analysis in one call."""

from scsiameseclu.tl._annotate import annotate
from scsiameseclu.tl._classify import classify
from scsiameseclu.tl._cluster import cluster
from scsiameseclu.tl._export import export
from scsiameseclu.tl._map import map
from scsiameseclu.tl._map_atlas import map_atlas
from scsiameseclu.tl._marker_overlap import marker_overlap
from scsiameseclu.tl._markers import markers
from scsiameseclu.tl._stability import StabilityResult, stability
from scsiameseclu.tl._subcluster import subcluster

__all__ = [
    "StabilityResult",
    "annotate",
    "classify",
    "cluster",
    "export",
    "map",
    "map_atlas",
    "marker_overlap",
    "markers",
    "stability",
    "subcluster",
]
