"""Training: schedule, first partition, training plan and runner."""

from scsiameseclu.train._partition import NClustersResult, choose_n_clusters, initial_partition
from scsiameseclu.train._plan import NonFiniteLossError, SiameseTrainingPlan
from scsiameseclu.train._resume import ResumeCheckpoint
from scsiameseclu.train._runner import SiameseTrainRunner
from scsiameseclu.train._schedule import Schedule, learning_rate

__all__ = [
    "NClustersResult",
    "NonFiniteLossError",
    "ResumeCheckpoint",
    "Schedule",
    "SiameseTrainRunner",
    "SiameseTrainingPlan",
    "choose_n_clusters",
    "initial_partition",
    "learning_rate",
]
