"""Refuse matrices that cannot be counts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._counts import row_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def check_counts(
    counts: Any,
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    *,
    non_integer: str = "warn",
    advice: Callable[[], str] | None = None,
) -> None:
    """Check that a matrix can hold raw counts.

    Parameters
    ----------
    counts
        Matrix ``(n_obs, n_vars)``, dense, CSR, CSC or backed, of any numeric dtype.
    obs_names, var_names
        Names of cells and genes, for error messages. ``None``: row and column numbers.
    non_integer
        What to do if values are not whole numbers: ``"warn"``, ``"raise"`` or ``"ignore"``.
    advice
        Function that returns a sentence for the message about values that are not whole numbers. The sentence says
        where whole numbers can be found.

    Raises
    ------
    ValueError
        If values are negative, NaN or infinite. The message names the first such cell and gene.
        Also if values are complex, masked or not numbers, if all values are 0, or if the matrix has no cells or no
        genes.

    Warns
    -----
    UserWarning
        If values are not whole numbers and ``non_integer="warn"``.
    """
    check_shape(counts)
    checked = [check_block(block, rows.start, obs_names, var_names) for rows, block in row_chunks(counts)]
    check_totals(*zip(*checked, strict=True), non_integer=non_integer, advice=advice)


def check_shape(counts: Any) -> None:
    """Refuse matrices without cells or genes, masked matrices, and matrices of values other than real numbers.

    Raises
    ------
    ValueError
        If the matrix is such a matrix.
    """
    if 0 in counts.shape:
        raise ValueError(f"Expected counts of at least one cell and one gene, found shape {tuple(counts.shape)}.")
    if counts.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected real numeric counts, found dtype {counts.dtype}. Convert the counts, for instance to float32."
        )
    if np.ma.isMaskedArray(counts):
        raise ValueError(
            "Expected a plain array of counts, found a masked array. Fill in the masked values, or leave out these "
            "cells or genes."
        )


def check_block(
    block: Any, first_row: int, obs_names: Sequence[str] | None, var_names: Sequence[str] | None
) -> tuple[bool, bool]:
    """Refuse a block of cells with impossible counts.

    Returns
    -------
    tuple of bool
        Whether any count is above 0, and whether all counts are whole numbers.

    Raises
    ------
    ValueError
        If values are negative, NaN or infinite. The message names the first such cell and gene.
    """
    values = block.data if sparse.issparse(block) else block
    if values.size == 0:
        return False, True
    if not (values.min() >= 0 and values.max() < np.inf):  # also finds NaN, because comparisons with NaN are False
        _raise_offence(block, first_row, obs_names, var_names)
    whole = values.dtype.kind in "iub" or bool(np.array_equal(values, np.rint(values)))
    return bool(values.any()), whole


def check_totals(
    any_count: Sequence[bool],
    whole: Sequence[bool],
    *,
    non_integer: str,
    advice: Callable[[], str] | None = None,
    stacklevel: int = 3,
) -> None:
    """Refuse counts that are all 0, and warn of values that are not whole numbers.

    ``any_count`` and ``whole`` are the results of :func:`check_block` for all blocks.
    """
    if not any(any_count):
        raise ValueError("Expected counts, found only zeros. Check which matrix or layer holds the raw counts.")
    if not all(whole) and non_integer != "ignore":
        where = "Name the layer with raw counts." if advice is None else advice()
        message = f"Expected raw integer counts, found values that are not whole numbers. {where}"
        if non_integer == "raise":
            raise ValueError(message)
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


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
