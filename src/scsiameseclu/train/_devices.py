"""How many devices a training runs on."""

from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

_ACCELERATORS = {"cpu": CPUAccelerator, "cuda": CUDAAccelerator, "gpu": CUDAAccelerator, "mps": MPSAccelerator}


def n_devices(accelerator: str, devices: int | list[int] | str) -> int:
    """Number of devices that are asked for, read as Lightning reads them.

    Parameters
    ----------
    accelerator
        Kind of device, not ``"auto"``.
    devices
        A number (-1: all there are), a list of numbers, or either as text: ``"2"``, ``"0,1"``, ``"-1"``. ``"auto"`` is
        one device, as in scvi-tools.
    """
    if devices == "auto":
        return 1
    if accelerator not in _ACCELERATORS:  # kinds this package was never tried on
        return len(devices) if isinstance(devices, list) else max(int(devices), 1)
    found = _ACCELERATORS[accelerator].parse_devices(devices)
    return found if isinstance(found, int) else len(found or [])
