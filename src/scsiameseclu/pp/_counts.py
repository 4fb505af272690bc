"""Reading and checking count matrices of any kind, a block of cells at a time."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

CHUNK = 4096


def get_counts(adata: AnnData, layer: str | None = None) -> Any:
    """The count matrix of ``adata``: ``X``, or ``layers[layer]``.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If ``X`` is asked for and empty.
    """
    if layer is not None:
        if layer not in adata.layers:
            raise KeyError(
                f"`layer`: expected a key of adata.layers, found {layer!r}. Available: {list(adata.layers)}."
            )
        return adata.layers[layer]
    if adata.X is None:
        raise ValueError(f"Expected counts in adata.X, found None. Name a layer; available: {list(adata.layers)}.")
    return adata.X


def row_chunks(counts: Any, size: int = CHUNK) -> Iterator[tuple[slice, Any]]:
    """Yield ``(rows, block)``: a CSR matrix for sparse counts, an array for dense ones, read from disk if backed.

    Blocks of data in memory may share it: they are to be read, not written.
    """
    if sparse.issparse(counts) and counts.format != "csr":
        counts = counts.tocsr()  # rows of other formats are slow to cut; memory stays linear
    for start in range(0, counts.shape[0], size):
        rows = slice(start, min(start + size, counts.shape[0]))
        if sparse.issparse(counts):
            yield rows, _csr_rows(counts, rows)
        else:
            block = counts[rows]
            yield rows, sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)


def _csr_rows(matrix: Any, rows: slice) -> sparse.csr_matrix:
    """Rows of a CSR matrix, without the copy that slicing makes."""
    first, last = int(matrix.indptr[rows.start]), int(matrix.indptr[rows.stop])
    block = sparse.csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
    # Given to the constructor, they would be copied.
    block.data, block.indices = matrix.data[first:last], matrix.indices[first:last]
    block.indptr = matrix.indptr[rows.start : rows.stop + 1] - matrix.indptr[rows.start]
    return block


def totals(counts: Any) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Sums per cell and per gene, float64; by blocks, because scipy's sums copy all values of a matrix to float64."""

    def sums(chunk: tuple[slice, Any]) -> tuple[slice, Any, Any]:
        rows, block = chunk
        of_cells, of_genes = (np.asarray(block.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        return rows, of_cells, of_genes

    per_cell, per_gene = np.zeros(counts.shape[0]), np.zeros(counts.shape[1])
    for rows, of_cells, of_genes in in_threads(sums, row_chunks(counts)):
        per_cell[rows] = of_cells
        per_gene += of_genes
    return per_cell, per_gene


def check_counts(
    counts: Any,
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    *,
    non_integer: str = "warn",
) -> None:
    """Refuse matrices that cannot be counts.

    Parameters
    ----------
    counts
        Shape ``(n_obs, n_vars)``: dense, CSR, CSC or backed; any numeric dtype.
    obs_names, var_names
        Names to use in messages. Default: row and column numbers.
    non_integer
        What to do about values that are not whole numbers: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Raises
    ------
    ValueError
        If values are negative, NaN, infinite or not numeric (naming the first cell and gene), if all are 0, or if the matrix has
        no cells or no genes.

    Warns
    -----
    UserWarning
        If values are not whole numbers and ``non_integer="warn"``.
    """
    if 0 in counts.shape:
        raise ValueError(f"Expected counts of at least one cell and one gene, found shape {tuple(counts.shape)}.")
    if not (np.issubdtype(counts.dtype, np.number) or np.issubdtype(counts.dtype, np.bool_)):
        raise ValueError(f"Expected numeric counts, found dtype {counts.dtype}. Convert them, for instance to float32.")
    any_count, all_integer = False, True
    for rows, block in row_chunks(counts):
        values = block.data if sparse.issparse(block) else block
        if values.size == 0:
            continue
        if not (values.min() >= 0 and values.max() < np.inf):  # also true for NaN, which fails every comparison
            _raise_offence(block, rows.start, obs_names, var_names)
        any_count = any_count or bool(values.any())
        all_integer = all_integer and (values.dtype.kind in "iub" or bool(np.array_equal(values, np.rint(values))))
    if not any_count:
        raise ValueError("Expected counts, found only zeros. Check which matrix or layer holds the raw counts.")
    if not all_integer and non_integer != "ignore":
        message = (
            "Expected raw integer counts, found values that are not whole numbers. Name the layer with raw counts."
        )
        if non_integer == "raise":
            raise ValueError(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def _raise_offence(
    block: Any, first_row: int, obs_names: Sequence[str] | None, var_names: Sequence[str] | None
) -> None:
    entries = sparse.coo_matrix(block)
    bad = ~(np.isfinite(entries.data) & (entries.data >= 0))
    rows, columns, values = entries.row[bad], entries.col[bad], entries.data[bad]
    first = np.lexsort((columns, rows))[0]
    row, column = int(rows[first]) + first_row, int(columns[first])
    cell = f"row {row}" if obs_names is None else repr(str(obs_names[row]))
    gene = f"column {column}" if var_names is None else repr(str(var_names[column]))
    raise ValueError(
        f"Expected finite counts of at least 0, found {values[first]} in cell {cell}, gene {gene}. "
        "Name the layer with raw counts, or repair the matrix."
    )
