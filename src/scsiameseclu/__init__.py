"""Cluster single cells from raw counts with an scvi-tools model.

Submodules and the model are imported on first use. So the command line answers at once, and plotting or scoring does
not import torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scsiameseclu import datasets, hub, losses, metrics, module, nn, ot, pl, pp, presets, sklearn, tl, train
    from scsiameseclu.model import SCSiameseClu

__all__ = [
    "SCSiameseClu",
    "datasets",
    "hub",
    "losses",
    "metrics",
    "module",
    "nn",
    "ot",
    "pl",
    "pp",
    "presets",
    "sklearn",
    "tl",
    "train",
]

try:
    __version__ = version("scsiameseclu")
except PackageNotFoundError:  # a source folder that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name == "SCSiameseClu":
        return import_module("scsiameseclu.model").SCSiameseClu
    if name in __all__:
        return import_module(f"scsiameseclu.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
