"""Data sets for examples and tests: no download, integer counts, known types."""

from scsiameseclu.datasets._blood import pbmc3k, pbmc68k_reduced
from scsiameseclu.datasets._synthetic import synthetic

__all__ = ["pbmc3k", "pbmc68k_reduced", "synthetic"]
