"""What a training runs on, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from scsiameseclu._compat import parse_device_args
from scsiameseclu.data._device import fits_on
from scsiameseclu.train._schedule import BASE_BATCH, default_batch_size, learning_rate

if TYPE_CHECKING:
    import torch
    from scvi.data import AnnDataManager

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class DevicePlan:
    """The devices of a training, and the settings that depend on them.

    Attributes
    ----------
    device
        The device of this process, or the first one.
    n_devices
        Devices that train together, each on batches of its own.
    is_distributed
        Whether several processes train.
    """

    device: torch.device
    n_devices: int = 1
    is_distributed: bool = False

    @classmethod
    def of(cls, accelerator: str, devices: int | list[int] | str, strategy: Any = None) -> Self:
        """Read the arguments of a training as scvi-tools and Lightning do.

        Parameters
        ----------
        accelerator, devices
            As in scvi-tools: ``"auto"`` is one device; ``2``, ``"2"``, ``[0, 1]`` and ``"0,1"`` are two; ``-1`` are
            all there are.
        strategy
            Strategy of :class:`lightning.pytorch.Trainer`. Lightning chooses DDP for several devices without being
            told.
        """
        _, parsed, device = parse_device_args(accelerator, devices, return_device="torch")
        n_devices = len(parsed) if isinstance(parsed, list) else int(parsed)
        return cls(device, n_devices, n_devices > 1 or "ddp" in str(strategy))

    def batch_size(self, n_train: int) -> int:
        """Cells per batch, on each device, for this number of training cells, unless the user says otherwise."""
        return default_batch_size(n_train, self.n_devices) if self.device.type == "cuda" else BASE_BATCH

    def learning_rate(self, batch_size: int) -> float:
        """Learning rate for batches of this size on each device, unless the user says otherwise."""
        return learning_rate(batch_size * self.n_devices)

    def drops_last(self, n_train: int, batch_size: int) -> bool:
        """Whether the last, incomplete batch of an epoch is left out, unless the user says otherwise.

        Not where it is the only one. Processes share the cells, so that none of them may have a full batch.
        """
        return n_train > batch_size and not self.is_distributed

    def holds_data(self, manager: AnnDataManager, wanted: bool | Literal["auto"], loads_elsewhere: bool) -> bool:
        """Whether the data are copied to the device before training.

        Parameters
        ----------
        manager
            Manager of the data.
        wanted
            What the user says; ``"auto"``: on a GPU with room for them.
        loads_elsewhere
            Whether batches are formed by workers or in pinned memory.

        Raises
        ------
        ValueError
            If the user says so, and several processes, workers or pinned memory stand in the way.
        """
        elsewhere = self.is_distributed or loads_elsewhere
        if wanted == "auto":
            return not elsewhere and fits_on(self.device, manager)
        if wanted and elsewhere:
            raise ValueError(
                "Expected one process, no workers and no pinned memory with data held on a device, found some of "
                "these; leave out on_device."
            )
        return bool(wanted)


def check_precision(precision: int | str | None) -> None:
    """Refuse a precision of Lightning that changes the dtype of the weights.

    Counts, cell graph and targets are float32. Lightning's mixed precisions keep float32 weights.

    Parameters
    ----------
    precision
        Argument of :class:`lightning.pytorch.Trainer`; None is its default.

    Raises
    ------
    ValueError
        If the precision is none that this package trains in.
    """
    # Lightning reads 32, "32" and "32-true" as the same precision, and "bf16" and "16" as mixed ones.
    if precision is not None and str(precision) not in (*_PRECISIONS, "32", "bf16", "16"):
        raise ValueError(
            f"Expected precision {', '.join(map(repr, _PRECISIONS[:-1]))} or {_PRECISIONS[-1]!r}, found {precision!r}: "
            "weights and counts are float32. Leave precision out for full precision."
        )
