"""Tools: whole analyses in one call."""

from scsiameseclu.tl._annotate import annotate
from scsiameseclu.tl._classify import classify
from scsiameseclu.tl._cluster import cluster

__all__ = ["annotate", "classify", "cluster"]
