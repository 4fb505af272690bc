"""Check counts, sum up counts and call a function for every block of cells, in one pass over the matrix."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.pp._check_counts import check_block, check_shape, check_totals
from scsiameseclu.pp._counts import block_totals, row_chunks
from scsiameseclu.pp._gene_moments import GeneMoments, moment_sums, positive
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_LARGEST_WEIGHT = 2**16

logger = logging.getLogger(__name__)


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

    def normalisation(
        self, counts: Any, size_factors: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], float, GeneMoments]:
        """How the counts are normalised, ``target_sum * counts / size``, and the moments of the genes after that.

        Parameters
        ----------
        counts
            The counts that were summed up. There is another pass over the counts if size factors are given, or if the
            moments were not asked for.
        size_factors
            Positive size factors, ``(n_obs,)``, or ``None``: total counts.

        Returns
        -------
        Sizes of the cells, float64 ``(n_obs,)``, the target sum, and the moments. The target sum is 10,000 for total
        counts. For size factors, the target sum is chosen so that the median cell has a normalised total of 10,000.
        """
        if size_factors is None:
            sizes, target_sum = positive(self.per_cell), TARGET_SUM
            moments = GeneMoments.of(counts, target_sum / sizes) if self.moments is None else self.moments
            return sizes, target_sum, moments
        ratio = self.per_cell / size_factors
        target_sum = TARGET_SUM / float(np.median(ratio[ratio > 0])) if (ratio > 0).any() else TARGET_SUM
        return size_factors, target_sum, GeneMoments.of(counts, target_sum / size_factors)

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
        if n_empty := int((sums.per_cell == 0).sum()):
            logger.warning(
                "%d of %d cells have no counts, such as %r. Their clusters mean nothing: leave out these cells, for "
                "instance with sc.pp.filter_cells(adata, min_counts=1).",
                n_empty,
                len(sums.per_cell),
                str(obs_names[int(sums.per_cell.argmin())]),
            )
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

    def summed(chunk: tuple[slice, Any]) -> tuple[slice, tuple[Any, ...], tuple[bool, bool]]:
        places, block = chunk
        found = (True, True) if names is None else check_block(block, places.start, *names)
        of_cells, of_genes = block_totals(block)
        if visit is not None:
            visit(places, block, of_cells)
        of_moments = moment_sums(block, TARGET_SUM / positive(of_cells)) if with_moments else None
        return places, (of_cells, np.asarray(block @ weights).ravel(), of_genes, of_moments), found

    checked = []
    for places, (of_cells, of_weights, of_genes, of_moments), found in in_threads(
        summed, row_chunks(counts, rows=rows)
    ):
        per_cell[places], weighted[places] = of_cells, of_weights
        per_gene += of_genes
        if of_moments is not None:
            moments += of_moments
        checked.append(found)
    of_all_genes = GeneMoments.from_sums(moments, n_obs) if with_moments else None
    return CellSums(per_cell, per_gene, weighted, of_all_genes), checked
