"""The reference of a trained model, and the tables that the model reads for any cells besides their counts."""

from scsiameseclu.reference._blocks import CellBlocks
from scsiameseclu.reference._reference import Reference

__all__ = ["CellBlocks", "Reference"]
