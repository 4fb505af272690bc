"""Bundled data sets and marker genes for examples, tests and annotation. Nothing is downloaded."""

from scsiameseclu.datasets._blood import pbmc3k, pbmc68k_reduced
from scsiameseclu.datasets._markers import marker_sets, marker_sources
from scsiameseclu.datasets._synthetic import synthetic

__all__ = ["marker_sets", "marker_sources", "pbmc3k", "pbmc68k_reduced", "synthetic"]
