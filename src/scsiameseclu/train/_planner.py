"""Devices of a training, and default settings that depend on the devices."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Self

from scvi.train import TrainingPlan

from scsiameseclu._compat import parse_device_args
from scsiameseclu.data._device import fits_on
from scsiameseclu.train._schedule import BASE_BATCH, default_batch_size, learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from scvi.data import AnnDataManager

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class DevicePlan:
    """The devices of a training, and the settings that depend on them.

    Attributes
    ----------
    device
        The device of this process, or the first of several devices.
    n_devices
        Number of devices that train together. Each device has its own batches.
    is_distributed
        Whether several processes train together.
    """

    device: torch.device
    n_devices: int = 1
    is_distributed: bool = False

    @classmethod
    def of(cls, accelerator: str, devices: int | list[int] | str, strategy: Any = None) -> Self:
        """Interpret the arguments of a training as scvi-tools and Lightning do.

        Parameters
        ----------
        accelerator, devices
            As in scvi-tools. ``"auto"`` means one device, ``2``, ``"2"``, ``[0, 1]`` and ``"0,1"`` mean two devices,
            and ``-1`` means all devices.
        strategy
            Strategy of :class:`lightning.pytorch.Trainer`. For several devices, Lightning uses DDP by default.
        """
        _, parsed, device = parse_device_args(accelerator, devices, return_device="torch")
        n_devices = len(parsed) if isinstance(parsed, list) else int(parsed)
        return cls(device, n_devices, n_devices > 1 or "ddp" in str(strategy))

    def batch_size(self, n_train: int) -> int:
        """Default number of cells per batch on each device, for ``n_train`` training cells."""
        return default_batch_size(n_train, self.n_devices) if self.device.type == "cuda" else BASE_BATCH

    def learning_rate(self, batch_size: int) -> float:
        """Default learning rate for batches of ``batch_size`` cells on each device."""
        return learning_rate(batch_size * self.n_devices)

    def drops_last(self, n_train: int, batch_size: int) -> bool:
        """Whether the last, incomplete batch of an epoch is dropped by default.

        An incomplete batch is kept if it is the only batch. It is also kept in a distributed run, where the processes
        divide the cells and may have no complete batch.
        """
        return n_train > batch_size and not self.is_distributed

    def holds_data(self, manager: AnnDataManager, wanted: bool | Literal["auto"], loads_elsewhere: bool) -> bool:
        """Whether the data are copied to the device before training.

        Parameters
        ----------
        manager
            Manager of the data.
        wanted
            Setting ``on_device`` of the user. With ``"auto"``, the data are copied to a GPU with enough free memory.
        loads_elsewhere
            Whether batches are formed by workers or in pinned memory.

        Raises
        ------
        ValueError
            If ``wanted`` is True in a run with several processes, workers or pinned memory.
        """
        elsewhere = self.is_distributed or loads_elsewhere
        if wanted == "auto":
            return not elsewhere and fits_on(self.device, manager)
        if wanted and elsewhere:
            raise ValueError(
                "Expected one process, no workers and no pinned memory with on_device=True, found several processes, "
                "workers or pinned memory; leave out on_device."
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


def check_plan_options(plan: type[TrainingPlan], options: Mapping[str, Any]) -> None:
    """Refuse further arguments of a training plan that the training plan of scvi-tools does not have.

    scvi-tools would pass such arguments to the loss of the module, which takes none.

    Parameters
    ----------
    plan
        Class of the training plan.
    options
        Arguments that ``plan`` does not name itself.

    Raises
    ------
    TypeError
        If an argument is unknown; the message lists the known arguments.
    """
    own, inherited = (signature(each.__init__).parameters for each in (plan, TrainingPlan))
    unknown = sorted(set(options) - set(inherited))
    if unknown:
        known = sorted({*own, *inherited} - {"self", "module", "new_cells", "kwargs", "loss_kwargs"})
        raise TypeError(f"Expected arguments of {plan.__name__}, found {unknown}. Arguments: {', '.join(known)}.")
