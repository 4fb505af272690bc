"""Training: schedule, first partition, training plan and runner."""

from scsiameseclu.train._hooks import NonFiniteLossError
from scsiameseclu.train._plan import SiameseTrainingPlan
from scsiameseclu.train._resume import ResumeCheckpoint
from scsiameseclu.train._runner import SiameseTrainRunner
from scsiameseclu.train._schedule import Schedule, default_batch_size, learning_rate

__all__ = [
    "NonFiniteLossError",
    "ResumeCheckpoint",
    "Schedule",
    "SiameseTrainRunner",
    "SiameseTrainingPlan",
    "default_batch_size",
    "learning_rate",
]
