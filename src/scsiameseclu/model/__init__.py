"""The user-facing model."""

from scsiameseclu.model._siamese_clu import SCSiameseClu

__all__ = ["SCSiameseClu"]
