"""Clusters of embedded cells: candidate partitions, their ranking, number of clusters, tree, and probabilities."""

from scsiameseclu.partition._discriminant import Discriminant, fit_discriminant
from scsiameseclu.partition._judges import partition_cells
from scsiameseclu.partition._n_clusters import NClustersResult, choose_n_clusters
from scsiameseclu.partition._space import Space

__all__ = ["Discriminant", "NClustersResult", "Space", "choose_n_clusters", "fit_discriminant", "partition_cells"]
