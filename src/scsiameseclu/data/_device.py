"""Registered data held on a device, where mini-batches are formed without a transfer each."""

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
    """The data of a manager on a device: each registered array is copied when it is first asked for.

    Parameters
    ----------
    manager
        Manager of data in memory.
    device
        Where to hold them.
    representation
        Representation of all cells, then of the landmarks, float32 ``(n_obs + n_landmarks, d)``.
    """

    def __init__(self, manager: AnnDataManager, device: torch.device, representation: NDArray[np.float32]) -> None:
        self.device = device
        self._manager = manager
        self._representation = torch.as_tensor(representation, device=device)
        self._readers: dict[tuple[str, str], DeviceRowReader] = {}

    def batch(self, rows: Tensor | NDArray[np.int64], dtypes: Mapping[str, DTypeLike]) -> dict[str, Tensor]:
        """Rows of registered arrays with their neighbour blocks, as :class:`NeighborDataset` gives them, as tensors.

        Parameters
        ----------
        rows
            Row numbers, int64 ``(n,)``.
        dtypes
            Keys to load and their types.
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
    """Whether it pays to hold data on a device: a GPU that has twice their size free, and data in memory."""
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
    """Rows of an array that is copied to a device once, ``(len(rows), ...)``."""

    def __init__(self, array: NDArray[Any], dtype: DTypeLike, device: torch.device) -> None:
        self.array = _copied(array, device)
        self.dtype = _torch_dtype(dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Look up rows, in the order given, on the device."""
        return self.array[rows].to(self.dtype)


class DeviceSparseRows:
    """Dense rows of a sparse matrix that is copied to a device once, as CSR: only the rows of a batch become dense."""

    def __init__(self, matrix: Any, dtype: DTypeLike, device: torch.device) -> None:
        # The rows are written entry by entry: an entry stored in parts would lose all but one.
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
        # Position of each value: the start of its row plus its number within the row.
        entry = torch.arange(len(row), device=rows.device) + (start - (length.cumsum(0) - length))[row]
        dense = torch.zeros(len(rows), self.n_columns, dtype=self.values.dtype, device=rows.device)
        return dense.index_put_((row, self.columns[entry].long()), self.values[entry])


def device_row_reader(data: Any, dtype: DTypeLike, device: torch.device) -> DeviceRowReader:
    """How to read rows of ``data`` on a device, as tensors of ``dtype``.

    Parameters
    ----------
    data
        Registered array in memory: numpy, pandas or scipy.
    dtype
        Type of the rows.
    device
        Where the data are copied to, once.

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
        f"Expected data in memory to hold on {device}, found {type(data).__name__}. Leave out on_device, or call "
        "adata.to_memory()."
    )


def _copied(array: NDArray[Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # It is read only here, too (memory-mapped files cannot be written).
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(np.ascontiguousarray(array), device=device)


def _torch_dtype(dtype: DTypeLike) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=dtype)).dtype
