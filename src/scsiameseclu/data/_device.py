"""Registered data in the memory of a device, where mini-batches are formed without a transfer per batch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from torch import Tensor

from scsiameseclu._keys import NEIGHBOR_BLOCKS, SIAMESE_KEYS
from scsiameseclu.pp._counts import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike, NDArray
    from scvi.data import AnnDataManager

DeviceRowReader: TypeAlias = "Callable[[Tensor], Tensor]"


class DeviceData:
    """The data of a manager in the memory of a device. Each registered array is copied when it is first used.

    Parameters
    ----------
    manager
        Manager of data in memory.
    device
        Device to copy the data to.
    representation
        Representation of all cells, followed by the representation of the landmarks, float32
        ``(n_obs + n_landmarks, d)``.
    """

    def __init__(self, manager: AnnDataManager, device: torch.device, representation: NDArray[np.float32]) -> None:
        self.device = device
        self._manager = manager
        self._representation = torch.as_tensor(representation, device=device)
        self._readers: dict[tuple[str, str], DeviceRowReader] = {}

    def batch(self, rows: Tensor | NDArray[np.int64], dtypes: Mapping[str, DTypeLike]) -> dict[str, Tensor]:
        """Load rows of registered arrays and their neighbour blocks.

        Parameters
        ----------
        rows
            Row numbers, int64 ``(n,)``.
        dtypes
            Keys to load, with the dtype of each key.

        Returns
        -------
        dict
            The same values as :class:`~scsiameseclu.data._loader.NeighborDataset` returns, as tensors on the device.
        """
        rows = torch.as_tensor(rows).to(self.device)
        batch = {key: self._reader(key, np.dtype(dtype))(rows) for key, dtype in dtypes.items()}
        batch[SIAMESE_KEYS.CELL_INDEX] = rows[:, None]
        for index_key, rep_key in NEIGHBOR_BLOCKS:
            if index_key in batch:
                batch[rep_key] = self._representation[batch[index_key]]
        return batch

    def _reader(self, key: str, dtype: np.dtype[Any]) -> DeviceRowReader:
        if (key, dtype.str) not in self._readers:
            self._readers[key, dtype.str] = device_row_reader(self._manager.get_from_registry(key), dtype, self.device)
        return self._readers[key, dtype.str]


def fits_on(device: torch.device, manager: AnnDataManager) -> bool:
    """Whether to copy the data of a manager to a device.

    The device must be a GPU whose free memory is at least twice the size of the data, and the data must be in memory.
    """
    if device.type != "cuda":
        return False
    size = 0
    for key in manager.data_registry:
        array = manager.get_from_registry(key)
        if issparse(array):
            size += 8 * (array.nnz + array.shape[0])
        elif isinstance(array, np.ndarray | pd.DataFrame):
            size += 8 * array.size
        else:
            return False
    return 2 * size <= torch.cuda.mem_get_info(device)[0]


class DeviceArrayRows:
    """Reads rows of an array, ``(len(rows), ...)``. The array is copied to the device once."""

    def __init__(self, array: NDArray[Any], dtype: DTypeLike, device: torch.device) -> None:
        self.array = _copied(array, device)
        self.dtype = _torch_dtype(dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Look up rows, in the order given, on the device."""
        return self.array[rows].to(self.dtype)


class DeviceSparseRows:
    """Reads dense rows of a sparse matrix. The matrix is copied to the device once, as CSR.

    Only the rows of a mini-batch become dense.
    """

    def __init__(self, matrix: Any, dtype: DTypeLike, device: torch.device) -> None:
        # A matrix may store a count in several parts. Looking up a count finds one part only, so `canonical` adds up
        # the parts first.
        matrix = canonical(matrix)
        self.n_columns = matrix.shape[1]
        self.start = _copied(matrix.indptr.astype(np.int64, copy=False), device)
        self.columns = _copied(matrix.indices.astype(np.int32, copy=False), device)
        self.values = _copied(matrix.data.astype(dtype, copy=False), device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Look up rows, in the order given, on the device."""
        start = self.start[rows]
        length = self.start[rows + 1] - start
        row = torch.repeat_interleave(length)
        # Position of each value in `values`: the start of its row plus its number within the row.
        entry = torch.arange(len(row), device=rows.device) + (start - (length.cumsum(0) - length))[row]
        dense = torch.zeros(len(rows), self.n_columns, dtype=self.values.dtype, device=rows.device)
        return dense.index_put_((row, self.columns[entry].long()), self.values[entry])


def device_row_reader(data: Any, dtype: DTypeLike, device: torch.device) -> DeviceRowReader:
    """Create a function that reads rows of ``data`` on a device, as tensors of ``dtype``.

    Parameters
    ----------
    data
        Registered array in memory: a numpy array, a pandas data frame or a scipy sparse matrix.
    dtype
        Type of the rows.
    device
        Device that the data are copied to once.

    Raises
    ------
    NotImplementedError
        If the data are not in memory.
    """
    if issparse(data):
        return DeviceSparseRows(data, dtype, device)
    if isinstance(data, np.ndarray | pd.DataFrame):
        return DeviceArrayRows(np.asarray(data), dtype, device)
    raise NotImplementedError(
        f"Expected data in memory to copy to {device}, found {type(data).__name__}. Leave out on_device, or call "
        "adata.to_memory()."
    )


def _copied(array: NDArray[Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # Arrays of memory-mapped files are read-only. Torch warns about them, but the tensor is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(np.ascontiguousarray(array), device=device)


def _torch_dtype(dtype: DTypeLike) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=dtype)).dtype
