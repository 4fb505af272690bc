"""Read count matrices of any format, one block of cells at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

CHUNK = 4096
_SAMPLE = 200  # number of cells that are read to judge whether a matrix holds counts


def get_counts(adata: AnnData, layer: str | None = None) -> Any:
    """Return the count matrix of ``adata``: ``X``, or ``layers[layer]``.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If ``layer`` is ``None`` and ``X`` is ``None``.
    """
    if layer is not None:
        if layer not in adata.layers:
            raise KeyError(
                f"`layer`: expected a key of adata.layers, found {layer!r}. Available: {layer_names(adata)}."
            )
        return adata.layers[layer]
    if adata.X is None:
        raise ValueError(f"Expected counts in adata.X, found None. Name a layer; available: {layer_names(adata)}.")
    return adata.X


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers. From anndata 0.13 on, ``adata.layers`` has ``X`` under the name None."""
    return [name for name in adata.layers if name is not None]


def row_chunks(counts: Any, size: int = CHUNK, *, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[slice, Any]]:
    """Read counts one block of cells at a time. All functions of this package read counts in this way.

    A block of sparse counts is a CSR matrix in canonical form: the columns of each cell are sorted, and there is one
    entry per cell and gene. If an entry is stored in several parts, the parts are added up. A block of dense counts is
    an array. Counts on disk are read, and dask arrays are computed, one block at a time.

    Blocks may share memory with ``counts``. So the arrays of the blocks are read-only: an operation of scipy that sorts
    or sums in place raises an error, instead of changing the data of the user.

    Parameters
    ----------
    counts
        Counts ``(n_obs, n_vars)``, dense, sparse of any format, backed, memory-mapped or dask.
    size
        Number of cells per block.
    rows
        Distinct row numbers of the cells to read, in ascending order. ``None``: all cells.

    Yields
    ------
    tuple of slice and block
        The slice contains the row numbers of the cells in the block, or their positions in ``rows`` if ``rows`` is
        given.

    Raises
    ------
    ValueError
        If the index arrays of a sparse matrix point outside of the matrix.
    """
    if sparse.issparse(counts):
        counts = as_csr(counts)
    n_rows = counts.shape[0] if rows is None else len(rows)
    for start in range(0, n_rows, size):
        places = slice(start, min(start + size, n_rows))
        if rows is not None:
            block = counts[rows[places]]
        elif sparse.issparse(counts):
            yield places, _locked(_canonical(_csr_rows(counts, places), start))
            continue
        else:
            block = counts[places]
        block = block.compute() if hasattr(block, "compute") else block
        if sparse.issparse(block):
            yield places, _locked(_canonical(as_csr(block), start))
        else:
            dense = np.asarray(block).view()
            dense.flags.writeable = False
            yield places, dense


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """Convert a sparse matrix to a new CSR matrix object. If ``matrix`` is CSR, both objects share their arrays.

    The entries are not sorted. Row pointers and column numbers get the same integer type, because compiled routines of
    scipy refuse arrays of different integer types.

    Parameters
    ----------
    matrix
        Sparse matrix or array of any format.

    Raises
    ------
    ValueError
        If the row pointers of a CSR matrix, or any index of a matrix in another compressed format, point outside of
        the matrix.
    """
    if matrix.format != "csr":
        check_indices(matrix)
        return sparse.csr_matrix(matrix.tocsr())  # converted once, because selecting rows of other formats is slow
    _check_pointers(matrix)
    indices, pointers = matrix.indices, matrix.indptr
    if indices.dtype not in (np.int32, np.int64) or int(pointers[-1]) > np.iinfo(indices.dtype).max:
        indices = indices.astype(np.int64)
    return _assembled(matrix.data, indices, pointers.astype(indices.dtype, copy=False), matrix.shape)


def canonical(matrix: Any) -> sparse.csr_matrix:
    """Convert a sparse matrix to CSR in canonical form (see :func:`row_chunks`).

    The result may share arrays with ``matrix``.

    Raises
    ------
    ValueError
        If the index arrays point outside of the matrix.
    """
    return _canonical(as_csr(matrix))


def canonical_copy(matrix: Any) -> Any:
    """Copy a matrix. The copy of a sparse matrix is CSR in canonical form (see :func:`row_chunks`).

    Parameters
    ----------
    matrix
        Dense array, or sparse matrix of any format, in memory.
    """
    if not sparse.issparse(matrix):
        return np.array(matrix)
    kept = canonical(matrix)
    return kept.copy() if matrix.format == "csr" and np.may_share_memory(kept.data, matrix.data) else kept


def _assembled(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Create a CSR matrix from its three arrays. Unlike the constructor of scipy, this function copies no array."""
    matrix = sparse.csr_matrix(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def _csr_rows(matrix: sparse.csr_matrix, rows: slice) -> sparse.csr_matrix:
    """Rows of a CSR matrix. Unlike slicing, the function does not copy the entries."""
    first, last = int(matrix.indptr[rows.start]), int(matrix.indptr[rows.stop])
    pointers = matrix.indptr[rows.start : rows.stop + 1] - matrix.indptr[rows.start]
    # The pointers of a block fit into the type of the column numbers. Pointers of a memory-mapped file are converted to
    # a plain array.
    pointers = np.asarray(pointers, dtype=matrix.indices.dtype)
    shape = (rows.stop - rows.start, matrix.shape[1])
    return _assembled(matrix.data[first:last], matrix.indices[first:last], pointers, shape)


def _canonical(block: sparse.csr_matrix, first_row: int = 0) -> sparse.csr_matrix:
    """Return the block itself if it is in canonical form, otherwise a canonical copy.

    Raises
    ------
    ValueError
        If a column number is negative, or not below the number of genes.
    """
    n_columns = block.shape[1]
    if block.has_canonical_format:  # scipy examines the arrays, because the block is a new object
        filled = np.flatnonzero(np.diff(block.indptr))
        ends = block.indices[block.indptr[filled]], block.indices[block.indptr[filled + 1] - 1]  # columns are sorted
        _check_columns(np.concatenate(ends), n_columns, "column", first_row)
        return block
    _check_columns(block.indices[: block.indptr[-1]], n_columns, "column", first_row)
    # Entries that are stored in parts are added up. The sum may exceed a narrow integer type, and in a boolean matrix
    # True + True would be True.
    data = block.data.astype(np.int64) if block.data.dtype.kind in "bui" else block.data.copy()
    copy = _assembled(data, block.indices.copy(), block.indptr.copy(), block.shape)
    copy.sum_duplicates()
    return copy


def _locked(block: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a matrix with read-only views of the arrays of the block."""
    data, indices, pointers = block.data.view(), block.indices.view(), block.indptr.view()
    for view in (data, indices, pointers):
        view.flags.writeable = False
    locked = _assembled(data, indices, pointers, block.shape)
    locked.has_canonical_format = True
    return locked


def check_indices(matrix: Any) -> None:
    """Refuse a CSR or CSC matrix whose index arrays point outside of the matrix. Other kinds of data are accepted.

    The function is called before a matrix is given to another package, whose compiled code would read or write outside
    of the arrays.

    Raises
    ------
    ValueError
        If a pointer, row number or column number is outside of its valid range.
    """
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    _check_pointers(matrix)
    what, n_allowed = ("column", matrix.shape[1]) if matrix.format == "csr" else ("row", matrix.shape[0])
    _check_columns(matrix.indices[: matrix.indptr[-1]], n_allowed, what)


def _check_pointers(matrix: Any) -> None:
    """Refuse pointers that are not ascending from 0 within the arrays of a CSR or CSC matrix."""
    pointers, n_major = matrix.indptr, matrix.shape[0 if matrix.format == "csr" else 1]
    stored = min(len(matrix.data), len(matrix.indices))
    fits = len(pointers) == n_major + 1 and pointers[0] == 0 and pointers[-1] <= stored
    if not fits or (np.diff(pointers) < 0).any():
        raise ValueError(
            f"Expected {n_major + 1} ascending pointers from 0 to at most {stored} stored entries in the "
            f"{matrix.format.upper()} matrix of the counts, found other pointers: the matrix is damaged. Read or build "
            "the matrix again."
        )


def _check_columns(numbers: Any, n_allowed: int, what: str, first_row: int = 0) -> None:
    """Refuse row or column numbers outside of a matrix, because compiled code would access memory outside of it."""
    if numbers.size == 0:
        return
    lowest, highest = int(numbers.min()), int(numbers.max())
    if lowest < 0 or highest >= n_allowed:
        found = lowest if lowest < 0 else highest
        raise ValueError(
            f"Expected {what} numbers from 0 to {n_allowed - 1} in the sparse counts, found {found} (in the block that "
            f"begins at row {first_row}): the matrix is damaged, or belongs to other genes. Read or build the matrix "
            "again."
        )


def name_order(names: Sequence[str]) -> NDArray[np.int64]:
    """Column numbers that sort genes by name. Genes of the same name keep their order.

    Results that are computed from genes in this order (sums, random starting weights, random corruption) do not depend
    on the order of the columns in a file.

    Parameters
    ----------
    names
        Names of the genes, length ``n_vars``.

    Returns
    -------
    numpy.ndarray
        Column numbers, int64 ``(n_vars,)``.
    """
    return np.argsort(np.asarray(names, dtype=np.str_), kind="stable").astype(np.int64)


def cell_totals(block: Any) -> NDArray[np.float64]:
    """Total counts of each cell of a block, float64 ``(n,)``."""
    return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()


def block_totals(block: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Total counts of each cell and of each gene of a block, float64 ``(n,)`` and ``(n_vars,)``."""
    return cell_totals(block), np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()


def totals(counts: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Total counts per cell and per gene, float64.

    The counts are read block by block, because the sums of scipy copy all values of a matrix to float64.
    """

    def sums(chunk: tuple[slice, Any]) -> tuple[slice, Any, Any]:
        return chunk[0], *block_totals(chunk[1])

    per_cell, per_gene = np.zeros(counts.shape[0]), np.zeros(counts.shape[1])
    for rows, of_cells, of_genes in in_threads(sums, row_chunks(counts)):
        per_cell[rows] = of_cells
        per_gene += of_genes
    return per_cell, per_gene


def as_argument(layer: str | None, name: str = "layer") -> str:
    """Argument with which the user chooses a layer, or ``X`` (``None``)."""
    return f"no {name}" if layer is None else f"{name}={layer!r}"


def where_counts_are(adata: AnnData, remedy: Callable[[str | None], str] = as_argument) -> str:
    """Describe which matrices of an AnnData hold whole numbers, judged by their first 200 cells.

    Parameters
    ----------
    adata
        Cells.
    remedy
        Function that returns what the user has to type to choose a layer, or ``X`` (``None``). By default, the argument
        ``layer``.

    Returns
    -------
    str
        A sentence for an error message.
    """
    places = [
        f"layers[{name!r}] ({remedy(name)})"
        for name, matrix in adata.layers.items()
        if name is not None and _looks_like_counts(matrix)
    ]
    if adata.X is not None and _looks_like_counts(adata.X):
        places.append(f"X ({remedy(None)})")
    if adata.raw is not None and _looks_like_counts(adata.raw.X):
        places.append("raw (adata.raw.to_adata() has these numbers in X)")
    if not places:
        return "Neither the layers nor raw hold whole numbers: use the file that the values were computed from."
    return f"Whole numbers are in {' and '.join(places)}."


def _looks_like_counts(matrix: Any) -> bool:
    """Whether the first cells have only whole numbers of at least 0, and at least one positive number."""
    block = matrix[:_SAMPLE]
    block = block.compute() if hasattr(block, "compute") else block
    values = np.asarray(block.data if sparse.issparse(block) else block)
    if values.dtype.kind not in "iubf" or not values.any():
        return False
    return bool(values.min() >= 0 and np.array_equal(values, np.rint(values)))


def repeated_genes(names: pd.Index, instead: str = "Call adata.var_names_make_unique() first.") -> str | None:
    """Error message about gene names that occur more than once; None if all names are unique."""
    if names.is_unique:
        return None
    twice = names[names.duplicated()].unique()
    shown = ", ".join(map(str, twice[:3])) + (", ..." if len(twice) > 3 else "")
    return f"Expected unique gene names, found {len(twice)} more than once ({shown}). {instead}"
