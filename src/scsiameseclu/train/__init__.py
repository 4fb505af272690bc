"""Training: schedule, first partition, training plan and runner."""

from scsiameseclu.train._hooks import NonFiniteLossError
from scsiameseclu.train._partition import NClustersResult, choose_n_clusters, initial_partition
from scsiameseclu.train._plan import SiameseTrainingPlan
from scsiameseclu.train._resume import ResumeCheckpoint
from scsiameseclu.train._runner import SiameseTrainRunner
from scsiameseclu.train._schedule import Schedule, default_batch_size, learning_rate

__all__ = [
    "NClustersResult",
    "NonFiniteLossError",
    "ResumeCheckpoint",
    "Schedule",
    "SiameseTrainRunner",
    "SiameseTrainingPlan",
    "choose_n_clusters",
    "default_batch_size",
    "initial_partition",
    "learning_rate",
]
