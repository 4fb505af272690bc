"""One pass over counts: check them, sum them up, and whatever else is to be made of every block of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.pp._check_counts import check_block, check_shape, check_totals
from scsiameseclu.pp._counts import row_chunks
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_LARGEST_WEIGHT = 2**16


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums of counts that tell cells from others; exact for whole numbers, whatever the format of the matrix.

    Parameters
    ----------
    per_cell, per_gene
        float64: totals.
    weighted
        float64 ``(n_obs,)``: totals with a fixed random whole weight for every gene, which change if counts move from
        one gene to another.
    """

    per_cell: NDArray[np.float64]
    per_gene: NDArray[np.float64]
    weighted: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        counts: Any,
        *,
        rows: NDArray[np.int64] | None = None,
        visit: Callable[[slice, Any, NDArray[np.float64]], None] | None = None,
    ) -> CellSums:
        """Sum up counts.

        Parameters
        ----------
        counts
            Shape ``(n_obs, n_vars)``: dense, sparse, backed or dask.
        rows
            Rows to read, ascending; all by default.
        visit
            Called for every block of cells with their places, counts and totals; on several threads.
        """
        return _read(counts, rows, visit, None)[0]

    @classmethod
    def of_checked(
        cls,
        counts: Any,
        obs_names: Sequence[str],
        var_names: Sequence[str],
        *,
        advice: Callable[[], str] | None = None,
        visit: Callable[[slice, Any, NDArray[np.float64]], None] | None = None,
    ) -> CellSums:
        """Sum up counts, and refuse on the way what :func:`~scsiameseclu.pp.check_counts` refuses.

        Raises
        ------
        ValueError
            If the counts are not valid.

        Warns
        -----
        UserWarning
            If values are not whole numbers.
        """
        check_shape(counts)
        sums, checked = _read(counts, None, visit, (obs_names, var_names))
        check_totals(*zip(*checked, strict=True), non_integer="warn", advice=advice, stacklevel=4)
        return sums


def _read(
    counts: Any,
    rows: NDArray[np.int64] | None,
    visit: Callable[[slice, Any, NDArray[np.float64]], None] | None,
    names: tuple[Sequence[str], Sequence[str]] | None,
) -> tuple[CellSums, list[tuple[bool, bool]]]:
    n_obs, n_vars = counts.shape[0] if rows is None else len(rows), counts.shape[1]
    weights = np.random.default_rng(0).integers(1, _LARGEST_WEIGHT, n_vars).astype(np.float64)
    per_cell, weighted, per_gene = np.zeros(n_obs), np.zeros(n_obs), np.zeros(n_vars)

    def summed(chunk: tuple[slice, Any]) -> tuple[slice, NDArray[np.float64], Any, Any, tuple[bool, bool]]:
        places, block = chunk
        found = (True, True) if names is None else check_block(block, places.start, *names)
        of_cells, of_genes = (np.asarray(block.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        if visit is not None:
            visit(places, block, of_cells)
        return places, of_cells, np.asarray(block @ weights).ravel(), of_genes, found

    checked = []
    for places, of_cells, of_weights, of_genes, found in in_threads(summed, row_chunks(counts, rows=rows)):
        per_cell[places], weighted[places] = of_cells, of_weights
        per_gene += of_genes
        checked.append(found)
    return CellSums(per_cell, per_gene, weighted), checked
