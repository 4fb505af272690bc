"""Gene statistics of log-normalised counts, one block of cells at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu.nn import NORMALISED_TOTAL
from scsiameseclu.pp._counts import row_chunks, totals


@dataclass(frozen=True)
class ExpressionStatistics:
    """Mean and spread of log-normalised expression over the cells.

    Attributes
    ----------
    mean, sd
        Per gene, float64 ``(n_genes,)``; population standard deviation.
    proportions
        Share of each gene in all counts, float64 ``(n_genes,)``, sum 1.
    target_sum
        Numerator of the normalisation ``target_sum * counts / size``: 10,000 for library sizes, and the equivalent of
        it for size factors in any other unit.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    proportions: NDArray[np.float64]
    target_sum: float

    @classmethod
    def from_counts(cls, counts: Any, size_factors: NDArray[Any] | None = None) -> "ExpressionStatistics":
        """Compute from a count matrix ``(n_obs, n_genes)``, dense or sparse, and size factors ``(n_obs,)``."""
        library, per_gene = totals(counts)
        sizes = library if size_factors is None else np.asarray(size_factors, dtype=np.float64).ravel()
        nonzero = (library > 0) & (sizes > 0)
        target_sum = NORMALISED_TOTAL * float(np.median(sizes[nonzero] / library[nonzero]))
        total, squares = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for rows, block in row_chunks(counts):
            factors = np.divide(target_sum, sizes[rows], out=np.zeros(sizes[rows].size), where=sizes[rows] > 0)
            values = sparse.csr_matrix(block, dtype=np.float64).multiply(factors[:, None]).tocsr().log1p()
            total += np.asarray(values.sum(axis=0)).ravel()
            squares += np.asarray(values.multiply(values).sum(axis=0)).ravel()
        mean = total / counts.shape[0]
        sd = np.sqrt(np.maximum(squares / counts.shape[0] - mean**2, 0.0))
        return cls(mean, sd, per_gene / per_gene.sum(), target_sum)
