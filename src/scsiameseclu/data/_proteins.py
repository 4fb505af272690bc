"""Surface proteins as they were measured: values, and what was not measured."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scsiameseclu.pp._counts import canonical, get_counts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MIN_CELLS_UNMEASURED = 20
"""Cells of a batch from which on a protein that is 0 in all of them counts as not measured."""


def read_proteins(protein: AnnData, layer: str | None) -> tuple[NDArray[np.float32], bool | None]:
    """Protein values, a new dense float32 array, and whether they are counts (whole numbers of at least 0).

    Without any measured value (all NaN, as in a query of RNA alone), that is unknown: ``None``.

    Raises
    ------
    ValueError
        If a value is infinite, or all that were measured are 0.
    """
    raw = get_counts(protein, layer)
    values = np.array(canonical(raw).toarray() if sparse.issparse(raw) else raw, dtype=np.float32)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ValueError(
            f"Expected finite protein values, or NaN where not measured, found {values[row, column]} in cell "
            f"{protein.obs_names[row]!r}, protein {protein.var_names[column]!r}."
        )
    measured = values[~np.isnan(values)]
    if measured.size == 0:
        return values, None
    if not measured.any():
        raise ValueError("Expected protein values, found only zeros. Check which matrix or layer holds them.")
    return values, bool(measured.min() >= 0 and np.array_equal(measured, np.rint(measured)))


def blank_unmeasured(values: NDArray[np.float32], batch: pd.Series | None) -> None:
    """Write NaN for proteins that are 0 in all cells of a batch, in place."""
    groups = (
        [np.arange(len(values))]
        if batch is None
        else list(batch.reset_index(drop=True).groupby(batch.to_numpy()).indices.values())
    )
    n_blank = 0
    for rows in groups:
        if len(rows) >= MIN_CELLS_UNMEASURED:
            empty = ~np.nan_to_num(values[rows]).any(axis=0)
            values[np.ix_(rows, np.flatnonzero(empty))] = np.nan
            n_blank += int(empty.sum())
    if n_blank:
        logger.info("%d protein(s) are 0 in all cells of a batch and taken as not measured there.", n_blank)
