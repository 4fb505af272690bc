"""Neural network parts: plain ``torch`` modules that know neither AnnData nor Lightning."""

from scsiameseclu.nn._augment import ExpressionAugmentation, perturb_edges
from scsiameseclu.nn._covariates import CovariateScaler
from scsiameseclu.nn._decoder import CountDecoder
from scsiameseclu.nn._encoders import (
    ExpressionEncoder,
    ExpressionScaler,
    GraphEncoder,
    RepresentationScaler,
)
from scsiameseclu.nn._fusion import AdaptiveFusion, FixedFusion, build_fusion
from scsiameseclu.nn._head import ClusterHead
from scsiameseclu.nn._protein import ProteinBranch

__all__ = [
    "AdaptiveFusion",
    "ClusterHead",
    "CountDecoder",
    "CovariateScaler",
    "ExpressionAugmentation",
    "ExpressionEncoder",
    "ExpressionScaler",
    "FixedFusion",
    "GraphEncoder",
    "ProteinBranch",
    "RepresentationScaler",
    "build_fusion",
    "perturb_edges",
]
