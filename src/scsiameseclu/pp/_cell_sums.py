"""Check counts, sum up counts and call a function for every block of cells, in one pass over the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.pp._check_counts import check_block, check_shape, check_totals
from scsiameseclu.pp._counts import row_chunks
from scsiameseclu.pp._gene_moments import GeneMoments, moment_sums, positive
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_LARGEST_WEIGHT = 2**16


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums of counts that show whether two matrices hold the same cells.

    The sums of whole numbers are exact, so they do not depend on the format of the matrix.

    Parameters
    ----------
    per_cell
        Total counts of each cell, float64 ``(n_obs,)``.
    per_gene
        Total counts of each gene, float64 ``(n_vars,)``.
    weighted
        Weighted totals of each cell, float64 ``(n_obs,)``. The weight of each gene is a fixed random whole number. So
        the total changes if counts move from one gene to another.
    moments
        Moments of the genes, with the counts of each cell normalised by its total counts, if they were asked for.
    """

    per_cell: NDArray[np.float64]
    per_gene: NDArray[np.float64]
    weighted: NDArray[np.float64]
    moments: GeneMoments | None = None

    @classmethod
    def of(
        cls,
        counts: Any,
        *,
        rows: NDArray[np.int64] | None = None,
        with_moments: bool = False,
    ) -> CellSums:
        """Sum up counts.

        Parameters
        ----------
        counts
            Counts ``(n_obs, n_vars)``, dense, sparse, backed or dask.
        rows
            Row numbers of the cells to read, in ascending order. ``None``: all cells.
        with_moments
            Whether to compute the moments of the genes.
        """
        return _read(counts, rows, None, None, with_moments)[0]

    @classmethod
    def of_checked(
        cls,
        counts: Any,
        obs_names: Sequence[str],
        var_names: Sequence[str],
        *,
        advice: Callable[[], str] | None = None,
        visit: Callable[[slice, Any, NDArray[np.float64]], None] | None = None,
        with_moments: bool = False,
    ) -> CellSums:
        """Sum up counts, and check them as :func:`~scsiameseclu.pp.check_counts` does.

        Parameters
        ----------
        counts
            Counts ``(n_obs, n_vars)``, dense, sparse, backed or dask.
        obs_names, var_names
            Names of cells and genes, for error messages.
        advice
            As for :func:`~scsiameseclu.pp.check_counts`.
        visit
            Function that is called for every block of cells, with a slice of positions, the counts and the total counts
            of these cells. Several threads call the function.
        with_moments
            Whether to compute the moments of the genes.

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
        sums, checked = _read(counts, None, visit, (obs_names, var_names), with_moments)
        check_totals(*zip(*checked, strict=True), non_integer="warn", advice=advice, stacklevel=4)
        return sums


def _read(
    counts: Any,
    rows: NDArray[np.int64] | None,
    visit: Callable[[slice, Any, NDArray[np.float64]], None] | None,
    names: tuple[Sequence[str], Sequence[str]] | None,
    with_moments: bool,
) -> tuple[CellSums, list[tuple[bool, bool]]]:
    n_obs, n_vars = counts.shape[0] if rows is None else len(rows), counts.shape[1]
    weights = np.random.default_rng(0).integers(1, _LARGEST_WEIGHT, n_vars).astype(np.float64)
    per_cell, weighted, per_gene = np.zeros(n_obs), np.zeros(n_obs), np.zeros(n_vars)

    moments = np.zeros((4, n_vars))

    def summed(chunk: tuple[slice, Any]) -> tuple[slice, tuple[NDArray[np.float64], ...], tuple[bool, bool]]:
        places, block = chunk
        found = (True, True) if names is None else check_block(block, places.start, *names)
        of_cells, of_genes = (np.asarray(block.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        if visit is not None:
            visit(places, block, of_cells)
        of_moments = moment_sums(block, TARGET_SUM / positive(of_cells)) if with_moments else moments
        return places, (of_cells, np.asarray(block @ weights).ravel(), of_genes, of_moments), found

    checked = []
    for places, (of_cells, of_weights, of_genes, of_moments), found in in_threads(
        summed, row_chunks(counts, rows=rows)
    ):
        per_cell[places], weighted[places] = of_cells, of_weights
        per_gene += of_genes
        if with_moments:
            moments += of_moments
        checked.append(found)
    of_all_genes = GeneMoments.from_sums(moments, n_obs) if with_moments else None
    return CellSums(per_cell, per_gene, weighted, of_all_genes), checked
