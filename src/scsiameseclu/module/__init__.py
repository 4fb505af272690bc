"""The scvi-tools module: inference, generation and loss of one mini-batch."""

from scsiameseclu.module._siamese import SiameseModule
from scsiameseclu.module._weights import LossWeights

__all__ = ["LossWeights", "SiameseModule"]
