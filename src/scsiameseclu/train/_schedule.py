"""Default length of training, batch size and learning rate."""

import math
from dataclasses import dataclass

PRETRAIN_CELLS = 100_000
CLUSTER_CELLS = 24_000
MANY_CLUSTER_CELLS = 60_000
_PRETRAIN_RANGE = (3, 100)
_CLUSTER_RANGE = (6, 24)
_LEAST_CLUSTER = 3
_MIN_STEPS = 500

BASE_BATCH = 256
BASE_LEARNING_RATE = 1e-3
MAX_LEARNING_RATE = 4e-3
MAX_BATCH = 8192


def learning_rate(n_cells_per_step: int) -> float:
    """Default learning rate for a number of cells per training step.

    The learning rate is 0.001 for up to 256 cells per step. For more cells it grows with the square root of the number,
    up to 0.004. With the square root, the noise in Adam's steps does not change as the batch grows (Malladi et al.,
    NeurIPS 2022). The upper bound has not been tuned.

    Parameters
    ----------
    n_cells_per_step
        Batch size times the number of processes.

    Returns
    -------
    The learning rate.
    """
    return min(BASE_LEARNING_RATE * math.sqrt(max(n_cells_per_step / BASE_BATCH, 1.0)), MAX_LEARNING_RATE)


def default_batch_size(n_obs: int, n_devices: int = 1) -> int:
    """Default number of cells per batch on each GPU.

    The batch size is 256, doubled as often as the training still has at least 500 steps, and at most 8,192. A step on a
    GPU takes about the same time for all these sizes, so larger batches make training faster.

    Parameters
    ----------
    n_obs
        Number of training cells.
    n_devices
        Number of devices that train together. Each device has its own batches.

    Returns
    -------
    Number of cells per batch.
    """
    visited = n_obs * Schedule.for_cells(n_obs).max_epochs
    most = visited / (_MIN_STEPS * n_devices)
    doublings = math.floor(math.log2(max(most / BASE_BATCH, 1.0)))
    return min(BASE_BATCH * 2**doublings, MAX_BATCH)


@dataclass(frozen=True)
class Schedule:
    """Numbers of epochs of the two training phases.

    Attributes
    ----------
    n_pretrain
        Number of epochs of pretraining, without the clustering loss.
    n_cluster
        Number of epochs of the clustering phase, with the clustering loss.
    """

    n_pretrain: int
    n_cluster: int

    @property
    def max_epochs(self) -> int:
        """Total number of epochs."""
        return self.n_pretrain + self.n_cluster

    @classmethod
    def for_cells(cls, n_obs: int, max_epochs: int | None = None) -> "Schedule":
        """Compute the numbers of epochs for a number of training cells.

        In an epoch, training visits every training cell once. By default, pretraining visits about 100,000 cells, but
        has at least 3 and at most 100 epochs. The clustering phase visits about 24,000 cells, but has at least 6 and at
        most 24 epochs. If 6 epochs would visit more than 60,000 cells, the clustering phase visits about 60,000 cells,
        but has at least 3 epochs.

        Parameters
        ----------
        n_obs
            Number of training cells.
        max_epochs
            Total number of epochs. The epochs are divided in the proportion of the default schedule, with at least one
            epoch for each phase. A single epoch is an epoch of pretraining. With None, the default schedule is used.

        Returns
        -------
        The schedule.

        Raises
        ------
        ValueError
            If ``max_epochs`` is not a whole number, or is below 1.
        """
        pretrain = _clipped(PRETRAIN_CELLS, n_obs, _PRETRAIN_RANGE)
        fewest = _clipped(MANY_CLUSTER_CELLS, n_obs, (_LEAST_CLUSTER, _CLUSTER_RANGE[0]))
        cluster = _clipped(CLUSTER_CELLS, n_obs, (fewest, _CLUSTER_RANGE[1]))
        if max_epochs is None:
            return cls(pretrain, cluster)
        if not isinstance(max_epochs, int) or max_epochs < 1:
            raise ValueError(f"Expected max_epochs as a whole number of at least 1, found {max_epochs}.")
        if max_epochs == 1:
            return cls(1, 0)
        share = round(max_epochs * pretrain / (pretrain + cluster))
        n_pretrain = min(max(share, 1), max_epochs - 1)
        return cls(n_pretrain, max_epochs - n_pretrain)


def _clipped(n_visits: int, n_obs: int, bounds: tuple[int, int]) -> int:
    """Number of epochs that visit about ``n_visits`` cells, limited to ``bounds``."""
    return min(max(math.ceil(n_visits / max(n_obs, 1)), bounds[0]), bounds[1])
