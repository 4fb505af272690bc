"""Read rows of registered arrays by row number, from memory or from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
from anndata.abc import CSCDataset, CSRDataset
from scipy.sparse import issparse

from scsiameseclu.pp._counts import as_csr, canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

RowReader: TypeAlias = "Callable[[NDArray[np.int64]], NDArray[Any]]"


class ArrayRows:
    """Reads rows of an array in memory, ``(len(rows), ...)``. Only the rows are cast, so the array is not copied."""

    def __init__(self, array: NDArray[Any], dtype: DTypeLike) -> None:
        self.array, self.dtype = array, np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given."""
        return self.array[rows].astype(self.dtype, copy=False)


class SparseRows:
    """Reads dense rows of a sparse matrix in memory. A matrix that is not CSR is converted to CSR once."""

    def __init__(self, matrix: Any, dtype: DTypeLike) -> None:
        # Selecting rows of a CSC matrix reads the whole matrix.
        self.matrix, self.dtype = as_csr(matrix), np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given."""
        return self.matrix[rows].astype(self.dtype, copy=False).toarray()


class StoredRows:
    """Reads dense rows of an array or a CSR matrix on disk.

    HDF5 only reads distinct rows in ascending order. scvi-tools sorts the requested row numbers without a warning, so
    the rows come back in another order. This class reads each row once in ascending order, and then restores the
    requested order.
    """

    def __init__(self, stored: Any, dtype: DTypeLike) -> None:
        self.stored, self.dtype = stored, np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given. A repeated row is read once."""
        unique, position = np.unique(rows, return_inverse=True)
        block = self.stored[unique]
        dense = canonical(block).toarray() if issparse(block) else np.asarray(block)
        return dense[position].astype(self.dtype, copy=False)


def row_reader(data: Any, dtype: DTypeLike) -> RowReader | None:
    """Create a function that reads rows of ``data`` as a dense array of ``dtype``.

    Parameters
    ----------
    data
        Registered array: a numpy array, a pandas data frame, a scipy sparse matrix, or an HDF5 array of a backed
        AnnData.
    dtype
        Type of the rows.

    Returns
    -------
    RowReader or None
        The function, or ``None`` for other kinds of data, such as dask arrays.
    """
    if isinstance(data, np.ndarray):
        return ArrayRows(data, dtype)
    if isinstance(data, pd.DataFrame):
        return ArrayRows(data.to_numpy(), dtype)
    if issparse(data):
        return SparseRows(data, dtype)
    if isinstance(data, h5py.Dataset | CSRDataset) and not isinstance(data, CSCDataset):
        return StoredRows(data, dtype)
    return None


def row_numbers(indexes: int | list[int] | slice | NDArray[Any], n_obs: int) -> NDArray[np.int64]:
    """Convert an index of a data set (number, list, slice, mask) to row numbers of at least 0, int64 ``(n,)``."""
    if isinstance(indexes, slice):
        return np.arange(*indexes.indices(n_obs))
    rows = np.atleast_1d(np.asarray(indexes))
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    rows = rows.astype(np.int64, copy=False)
    return np.where(rows < 0, rows + n_obs, rows) if rows.size and rows.min() < 0 else rows
