"""Preprocessing: checks of counts, representation of cells, and the cell graph."""

from scsiameseclu.pp._check_counts import check_counts
from scsiameseclu.pp._diffusion import ppr_diffusion
from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._knn import knn
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._mapped import read_mapped, write_mapped
from scsiameseclu.pp._memberships import fuzzy_weights
from scsiameseclu.pp._neighbors import neighbor_graph
from scsiameseclu.pp._preprocess import preprocess
from scsiameseclu.pp._projection import Projection, highly_variable
from scsiameseclu.pp._scanpy_graph import graph_from_scanpy

__all__ = [
    "Landmarks",
    "NeighborGraph",
    "Projection",
    "check_counts",
    "fuzzy_weights",
    "graph_from_scanpy",
    "highly_variable",
    "knn",
    "neighbor_graph",
    "ppr_diffusion",
    "preprocess",
    "read_mapped",
    "write_mapped",
]
