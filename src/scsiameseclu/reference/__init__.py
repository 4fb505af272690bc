"""What belongs to a trained model: the reference, and what the model reads of any cells next to it."""

from scsiameseclu.reference._blocks import CellBlocks
from scsiameseclu.reference._reference import Reference

__all__ = ["CellBlocks", "Reference"]
