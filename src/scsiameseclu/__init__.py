"""Siamese graph clustering of single-cell counts with optimal transport, on scvi-tools."""

from importlib.metadata import PackageNotFoundError, version

from scsiameseclu import metrics, pl, pp, tl
from scsiameseclu.data import datasets
from scsiameseclu.model import SCSiameseClu

try:
    __version__ = version("scsiameseclu")
except PackageNotFoundError:  # run from a source folder that is not installed
    __version__ = "0+unknown"

__all__ = ["SCSiameseClu", "__version__", "datasets", "metrics", "pl", "pp", "tl"]
