"""Mean and spread of the normalised counts of each gene, and of their logarithms, from blocks of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._counts import row_chunks
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GeneMoments:
    """Moments of the genes over the cells.

    Parameters
    ----------
    mean, variance
        Mean and sample variance of the normalised counts, float64 ``(n_vars,)``.
    log_mean, log_variance
        Mean and sample variance of the log-normalised counts, float64 ``(n_vars,)``. The variance of a constant gene
        is 0.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    log_mean: NDArray[np.float64]
    log_variance: NDArray[np.float64]

    @classmethod
    def from_sums(cls, sums: NDArray[np.float64], n_obs: int) -> GeneMoments:
        """Compute the moments from the total of :func:`moment_sums` over all blocks of ``n_obs`` cells."""
        means = sums[[0, 2]] / n_obs
        variances = np.maximum(sums[[1, 3]] - n_obs * means**2, 0) / max(n_obs - 1, 1)
        # By rounding, constant genes have a variance of about 1e-16 times the square of their mean.
        variances[variances <= 1e-12 * means**2] = 0
        return cls(means[0], variances[0], means[1], variances[1])

    @classmethod
    def of(cls, counts: Any, factors: NDArray[np.float64]) -> GeneMoments:
        """Compute the moments in one pass over the counts.

        Parameters
        ----------
        counts
            Counts ``(n_obs, n_vars)``, dense, sparse, backed or dask.
        factors
            Factor from the counts of each cell to normalised counts, ``(n_obs,)``.
        """
        sums = np.zeros((4, counts.shape[1]))
        blocks = ((block, factors[rows]) for rows, block in row_chunks(counts))
        for part in in_threads(lambda item: moment_sums(*item), blocks):
            sums += part
        return cls.from_sums(sums, counts.shape[0])


def moment_sums(block: Any, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over a block of cells of normalised counts, their squares, their logarithms, and the squares of these.

    Parameters
    ----------
    block
        Counts ``(n, n_vars)``, an array or CSR.
    factors
        Factor from the counts of each cell to normalised counts, ``(n,)``.

    Returns
    -------
    float64 ``(4, n_vars)``.
    """
    values = normalized(block, factors)
    logged = values.log1p() if sparse.issparse(values) else np.log1p(values)
    parts = []
    for each in (values, logged):
        squares = each.multiply(each) if sparse.issparse(each) else np.square(each)
        parts += [np.asarray(part.sum(axis=0)).ravel() for part in (each, squares)]
    return np.stack(parts)


def normalized(block: Any, factors: NDArray[np.float64], dtype: type[np.floating] = np.float64) -> Any:
    """Multiply the counts of each cell by its factor. The columns of sparse counts keep their order."""
    if sparse.issparse(block):
        data = (block.data * np.repeat(factors, np.diff(block.indptr))).astype(dtype, copy=False)
        return sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)
    return (block * factors[:, None]).astype(dtype, copy=False)


def positive(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace total counts of 0 by 1, so that normalised counts of cells without counts are 0 and not NaN."""
    return np.where(sizes > 0, sizes, 1.0)
