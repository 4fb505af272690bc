"""Plots of training, embedding and confidence. Every function returns its matplotlib figure and never shows it."""

from scsiameseclu.pl._confidence import confidence
from scsiameseclu.pl._embedding import embedding
from scsiameseclu.pl._training import training_curves

__all__ = ["confidence", "embedding", "training_curves"]
