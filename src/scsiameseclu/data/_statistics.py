"""Gene statistics of log-normalised counts, computed one block of cells at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.pp import highly_variable
from scsiameseclu.pp._cell_sums import CellSums
from scsiameseclu.pp._counts import cell_totals, row_chunks
from scsiameseclu.pp._gene_moments import GeneMoments, normalized, positive
from scsiameseclu.pp._threads import in_threads

_RIDGE_PAIRS = 10.0


@dataclass(frozen=True)
class ExpressionStatistics:
    """Mean and spread of the expression of each gene over the cells.

    Attributes
    ----------
    mean, sd
        Mean and population standard deviation of log-normalised expression, float64 ``(n_genes,)``.
    dispersion_mean, dispersion_variance
        Mean and population variance of normalised expression before the logarithm, float64 ``(n_genes,)``. Highly
        variable genes are chosen by these values.
    proportions
        Share of each gene in all counts, float64 ``(n_genes,)``. The shares sum to 1.
    target_sum
        Numerator of the normalisation ``target_sum * counts / size``. If the sizes are library sizes, ``target_sum`` is
        10,000. If the sizes are size factors in another unit, ``target_sum`` is the equivalent number.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    dispersion_mean: NDArray[np.float64]
    dispersion_variance: NDArray[np.float64]
    proportions: NDArray[np.float64]
    target_sum: float

    @classmethod
    def from_counts(cls, counts: Any, size_factors: NDArray[Any] | None = None) -> "ExpressionStatistics":
        """Compute the statistics.

        Parameters
        ----------
        counts
            Count matrix ``(n_obs, n_genes)``, dense, sparse or backed.
        size_factors
            Size factors, ``(n_obs,)``. ``None``: total counts of the cells.
        """
        sums = CellSums.of(counts, with_moments=size_factors is None)
        target_sum, moments = TARGET_SUM, sums.moments
        if size_factors is not None:
            sizes = np.asarray(size_factors, dtype=np.float64).ravel()
            target_sum *= float(np.median((sizes / positive(sums.per_cell))[sums.per_cell > 0]))
            moments = GeneMoments.of(counts, target_sum / sizes)
        if moments is None:
            raise ValueError("Expected moments of the genes, found none; this is a bug.")
        of_population = 1.0 - 1.0 / counts.shape[0]  # from the sample variance
        return cls(
            moments.log_mean,
            np.sqrt(moments.log_variance * of_population),
            moments.mean,
            moments.variance * of_population,
            sums.per_gene / sums.per_gene.sum(),
            target_sum,
        )

    def most_variable(self, n_genes: int, gene_order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns of the most variable genes (:func:`~scsiameseclu.pp.highly_variable`).

        Parameters
        ----------
        n_genes
            Number of genes to return. If there are fewer genes, all genes are returned.
        gene_order
            Numbers of all columns, int64 ``(n_vars,)``. The columns are returned in this order.

        Returns
        -------
        numpy.ndarray
            Column numbers, int64, of length ``min(n_genes, n_vars)``.
        """
        if n_genes >= len(gene_order):
            return gene_order
        mean, variance = self.dispersion_mean[gene_order], self.dispersion_variance[gene_order]
        return gene_order[highly_variable(mean, variance, n_genes)]


def batch_offsets(
    counts: Any,
    genes: NDArray[np.int64],
    batch: NDArray[np.integer],
    n_batch: int,
    neighbor_index: NDArray[np.int64],
    neighbor_weight: NDArray[np.float32],
    target_sum: float,
    size_factors: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    r"""Estimate the effect of each batch on the log-normalised expression of each gene.

    The mean expression of a batch also depends on its composition of cell types. So only similar cells are compared:
    cells of different batches that are neighbours of each other in the cell graph. Let :math:`a_{ij}` be the product of
    the weights of the edges :math:`i \to j` and :math:`j \to i`. The offsets :math:`o_{gb}` of gene :math:`g` in batch
    :math:`b` minimise

    .. math:: \sum_{i, j : b_i \neq b_j} a_{ij} \bigl(x_{ig} - o_{g b_i} - x_{jg} + o_{g b_j}\bigr)^2
        + 2 \rho \sum_b o_{gb}^2,

    where :math:`x_{ig}` is the log-normalised expression. The ridge weight :math:`\rho` equals the weight of ten
    average pairs, so a few accidental pairs have little influence. Time grows linearly with the number of edges.

    Parameters
    ----------
    counts
        Count matrix ``(n_obs, n_genes)``, dense, sparse or backed.
    genes
        Columns of the genes to compare, ``(n,)``.
    batch, n_batch
        Code of each cell's batch, integers from 0 ``(n_obs,)``, and number of batches.
    neighbor_index, neighbor_weight
        Neighbours and edge weights of every cell, ``(n_obs, k)``. A weight of 0 means that there is no edge. Indices of
        ``n_obs`` and above are landmarks of a reference. Landmarks have no counts and are not compared.
    target_sum
        Numerator of the normalisation, as for :class:`ExpressionStatistics`.
    size_factors
        Size factors, ``(n_obs,)``. ``None``: total counts of the cells.

    Returns
    -------
    numpy.ndarray
        Offsets, float32 ``(n, n_batch)``. The mean over the batches is about 0. All offsets are 0 if no cells of
        different batches are neighbours of each other.
    """
    n_obs = len(batch)
    index, weight = np.asarray(neighbor_index), np.asarray(neighbor_weight, dtype=np.float64)
    rows = np.repeat(np.arange(n_obs), index.shape[1])
    here = index.ravel() < n_obs
    edges = sparse.csr_matrix((weight.ravel()[here], (rows[here], index.ravel()[here])), shape=(n_obs, n_obs))
    pairs = edges.multiply(edges.T).tocoo()
    between = (batch[pairs.row] != batch[pairs.col]) & (pairs.data > 0)
    if not between.any():
        return np.zeros((len(genes), n_batch), dtype=np.float32)
    first, second = pairs.row[between], pairs.col[between]
    strength = pairs.data[between] / pairs.data[between].mean()
    ends = np.concatenate([first, second]), np.concatenate([strength, -strength])
    contrast = sparse.csc_matrix((ends[1], (np.tile(batch[first], 2), ends[0])), shape=(n_batch, n_obs))
    joined = np.zeros((n_batch, n_batch))
    np.add.at(joined, (batch[first], batch[second]), strength)
    laplacian = np.diag(joined.sum(axis=1)) - joined

    sizes = None if size_factors is None else np.asarray(size_factors, dtype=np.float64).ravel()

    def contrasts(chunk: tuple[slice, Any]) -> NDArray[np.float64]:
        rows, block = chunk
        of_cells = positive(cell_totals(block)) if sizes is None else sizes[rows]
        logged = np.log1p(normalized(block[:, genes], target_sum / of_cells))
        return np.asarray((contrast[:, rows] @ sparse.csr_matrix(logged)).todense())

    difference = np.zeros((n_batch, len(genes)))
    for part in in_threads(contrasts, row_chunks(counts)):
        difference += part
    return np.linalg.solve(laplacian + _RIDGE_PAIRS * np.eye(n_batch), difference).T.astype(np.float32)
