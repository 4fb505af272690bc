"""Rows of registered arrays by number, from memory or from disk."""

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
    """Rows of an array in memory, ``(len(rows), ...)``, cast after the look-up: the array itself is not copied."""

    def __init__(self, array: NDArray[Any], dtype: DTypeLike) -> None:
        self.array, self.dtype = array, np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given."""
        return self.array[rows].astype(self.dtype, copy=False)


class SparseRows:
    """Dense rows of a sparse matrix in memory; a matrix of another format than CSR is converted once."""

    def __init__(self, matrix: Any, dtype: DTypeLike) -> None:
        # Cutting rows out of a CSC matrix reads all of it.
        self.matrix, self.dtype = as_csr(matrix), np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given."""
        return self.matrix[rows].astype(self.dtype, copy=False).toarray()


class StoredRows:
    """Dense rows of an array or a CSR matrix on disk.

    HDF5 reads rows in ascending order without repetition only, and scvi-tools sorts the numbers it is asked for, which
    permutes the rows without a word. Here every row is read once, in order, and put where it was asked for.
    """

    def __init__(self, stored: Any, dtype: DTypeLike) -> None:
        self.stored, self.dtype = stored, np.dtype(dtype)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Look up rows, in the order given; each is read once."""
        unique, position = np.unique(rows, return_inverse=True)
        block = self.stored[unique]
        dense = canonical(block).toarray() if issparse(block) else np.asarray(block)
        return dense[position].astype(self.dtype, copy=False)


def row_reader(data: Any, dtype: DTypeLike) -> RowReader | None:
    """How to read rows of ``data`` as a dense array of ``dtype``; None for a kind of data unknown here (dask, for one).

    Parameters
    ----------
    data
        Registered array: numpy, pandas, scipy, or HDF5 as anndata leaves it when backed.
    dtype
        Type of the rows.
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
    """Row numbers, int64 ``(n,)``, from whatever indexes a data set accepts."""
    if isinstance(indexes, slice):
        return np.arange(*indexes.indices(n_obs))
    rows = np.atleast_1d(np.asarray(indexes))
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    rows = rows.astype(np.int64, copy=False)
    return np.where(rows < 0, rows + n_obs, rows) if rows.size and rows.min() < 0 else rows
