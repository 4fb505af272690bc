"""Gene statistics of log-normalised counts, one block of cells at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu.nn import NORMALISED_TOTAL
from scsiameseclu.pp import highly_variable
from scsiameseclu.pp._counts import row_chunks, totals


@dataclass(frozen=True)
class ExpressionStatistics:
    """Mean and spread of log-normalised expression over the cells.

    Attributes
    ----------
    mean, sd
        Per gene, float64 ``(n_genes,)``; population standard deviation.
    dispersion_mean, dispersion_variance
        Mean and variance of normalised expression before the logarithm, float64 ``(n_genes,)``: what highly variable genes
        are chosen by.
    proportions
        Share of each gene in all counts, float64 ``(n_genes,)``, sum 1.
    target_sum
        Numerator of the normalisation ``target_sum * counts / size``: 10,000 for library sizes, and the equivalent of
        it for size factors in any other unit.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    dispersion_mean: NDArray[np.float64]
    dispersion_variance: NDArray[np.float64]
    proportions: NDArray[np.float64]
    target_sum: float

    @classmethod
    def from_counts(cls, counts: Any, size_factors: NDArray[Any] | None = None) -> "ExpressionStatistics":
        """Compute from a count matrix ``(n_obs, n_genes)``, dense or sparse, and size factors ``(n_obs,)``."""
        library, per_gene = totals(counts)
        sizes = library if size_factors is None else np.asarray(size_factors, dtype=np.float64).ravel()
        nonzero = (library > 0) & (sizes > 0)
        target_sum = NORMALISED_TOTAL * float(np.median(sizes[nonzero] / library[nonzero]))
        n_obs, n_vars = counts.shape
        raw, logged = np.zeros((2, n_vars)), np.zeros((2, n_vars))
        for rows, block in row_chunks(counts):
            factors = np.divide(target_sum, sizes[rows], out=np.zeros(sizes[rows].size), where=sizes[rows] > 0)
            values = sparse.csr_matrix(block, dtype=np.float64).multiply(factors[:, None]).tocsr()
            raw += _sums(values)
            logged += _sums(values.log1p())
        (mean, variance), (log_mean, log_variance) = (_moments(sums, n_obs) for sums in (raw, logged))
        return cls(log_mean, np.sqrt(log_variance), mean, variance, per_gene / per_gene.sum(), target_sum)

    def most_variable(self, n_genes: int) -> NDArray[np.int64]:
        """Columns, ascending, of the ``n_genes`` most variable genes (:func:`~scsiameseclu.pp.highly_variable`)."""
        if n_genes >= len(self.mean):
            return np.arange(len(self.mean))
        return highly_variable(self.dispersion_mean, self.dispersion_variance, n_genes)


def _sums(values: sparse.csr_matrix) -> NDArray[np.float64]:
    """Sums and sums of squares per column, ``(2, n_genes)``."""
    return np.stack([np.asarray(part.sum(axis=0)).ravel() for part in (values, values.multiply(values))])


def _moments(sums: NDArray[np.float64], n_obs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = sums[0] / n_obs
    return mean, np.maximum(sums[1] / n_obs - mean**2, 0.0)
