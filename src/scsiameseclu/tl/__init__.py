"""Tools: whole analyses in one call."""

from scsiameseclu.tl._annotate import annotate
from scsiameseclu.tl._cluster import cluster

__all__ = ["annotate", "cluster"]
