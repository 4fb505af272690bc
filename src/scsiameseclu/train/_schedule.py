"""How long to train: by cells visited, not by epochs."""

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
    """Learning rate for the cells of a step: 0.001 up to 256, above growing with the square root, at most 0.004.

    The square root keeps the size of the noise in Adam's steps as the batch grows (Malladi et al., NeurIPS 2022). The
    bound has not been tuned.

    Parameters
    ----------
    n_cells_per_step
        Batch size times the number of processes.
    """
    return min(BASE_LEARNING_RATE * math.sqrt(max(n_cells_per_step / BASE_BATCH, 1.0)), MAX_LEARNING_RATE)


def default_batch_size(n_obs: int, n_devices: int = 1) -> int:
    """Cells per batch on each GPU: 256, doubled as long as 500 steps or more are left, at most 8,192.

    A step on a GPU takes about the same time for any of these sizes. 5,000 cells in batches of 256 get about 500 steps,
    too.

    Parameters
    ----------
    n_obs
        Number of training cells.
    n_devices
        Devices that train together, each on a batch of its own.
    """
    visited = n_obs * Schedule.for_cells(n_obs).max_epochs
    most = visited / (_MIN_STEPS * n_devices)
    doublings = math.floor(math.log2(max(most / BASE_BATCH, 1.0)))
    return min(BASE_BATCH * 2**doublings, MAX_BATCH)


@dataclass(frozen=True)
class Schedule:
    """Epochs of the two training phases.

    Attributes
    ----------
    n_pretrain
        Epochs of representation learning.
    n_cluster
        Epochs with the clustering loss added.
    """

    n_pretrain: int
    n_cluster: int

    @property
    def max_epochs(self) -> int:
        """Epochs in all."""
        return self.n_pretrain + self.n_cluster

    @classmethod
    def for_cells(cls, n_obs: int, max_epochs: int | None = None) -> "Schedule":
        """Plan the phases for a number of training cells.

        Parameters
        ----------
        n_obs
            Number of training cells.
        max_epochs
            Total number of epochs, split in the proportion of the default schedule with at least one epoch each (a
            single epoch is all pretraining). None: about 100,000 cells visited before clustering (3 to 100 epochs),
            and about 24,000 during clustering (6 to 24 epochs), or 60,000 where six epochs would visit more than
            these (3 to 5 epochs).

        Raises
        ------
        ValueError
            If ``max_epochs`` is no whole number, or below 1.
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
    """Epochs after which about ``n_visits`` cells have been visited, within bounds."""
    return min(max(math.ceil(n_visits / max(n_obs, 1)), bounds[0]), bounds[1])
