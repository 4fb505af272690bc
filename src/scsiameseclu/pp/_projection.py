"""Principal components of log-normalised counts, which can also be applied to new cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import linalg, sparse

from scsiameseclu.pp._cell_sums import CellSums
from scsiameseclu.pp._counts import CHUNK, cell_totals, row_chunks
from scsiameseclu.pp._gene_moments import GeneMoments, normalized, positive
from scsiameseclu.pp._metric import noise_metric, unit_length
from scsiameseclu.pp._threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

MAX_SCORE = 10.0
_N_BINS = 20
_DENSE_THREADS = 8  # limits memory, because every thread holds a dense block of cells
_DENSE_EIGEN_LIMIT = 400  # up to this number of genes, LAPACK is faster than the Lanczos iteration


@dataclass(frozen=True, eq=False)
class Projection:
    """Log-normalisation, gene selection, scaling and principal components, fitted once and applied to any cells.

    For the counts ``x`` of the selected genes of a cell and its size factor ``s`` (its total counts by default),
    :meth:`transform` computes

    ``(clip((log1p(target_sum * x / s) - mean) / scale, -10, 10) - center) @ components``.

    The result of a cell does not depend on other cells. If batches were given to :meth:`fit`, the components are then
    multiplied by a matrix that shrinks batch effects, and scaled to length 1. Batch and sequencing depth then have less
    influence on the result. Only blocks of cells are converted to dense arrays.

    Parameters
    ----------
    gene_indices
        Columns of the selected genes in the count matrix, int64 ``(n_genes_used,)``, in the order of the fit.
    mean, scale
        Mean and standard deviation of the log-normalised counts of each gene, float32 ``(n_genes_used,)``.
    center
        Mean of the clipped scores of each gene, float32 ``(n_genes_used,)``.
    components
        Principal components, float32 ``(n_genes_used, n_comps)``, with orthonormal columns. Components from files of
        early versions are multiplied by ``metric`` already.
    target_sum
        Factor from ``counts / size factor`` to normalised counts. The factor is 10,000 for total counts. For other size
        factors, the factor is chosen so that the median cell also has a normalised total of 10,000.
    n_vars
        Number of genes of the matrix in the fit.
    unit_length
        Whether results are scaled to length 1.
    metric
        Matrix against batch effects, float32 ``(n_comps, n_comps)``, from
        :func:`~scsiameseclu.pp._metric.noise_metric`. ``None``: batch effects are not shrunk.
    """

    gene_indices: NDArray[np.int64]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    center: NDArray[np.float32]
    components: NDArray[np.float32]
    target_sum: float
    n_vars: int
    unit_length: bool = False
    metric: NDArray[np.float32] | None = None

    @property
    def n_comps(self) -> int:
        """Number of principal components."""
        return int(self.components.shape[1])

    @property
    def digest(self) -> str:
        """SHA-1 of all arrays and settings, to compare fitted projections."""
        state = hashlib.sha1(usedforsecurity=False)
        for value in self.to_state().values():
            state.update(np.ascontiguousarray(value).tobytes())
        return state.hexdigest()

    @classmethod
    def fit(
        cls,
        counts: Any,
        n_comps: int = 50,
        n_top_genes: int = 2000,
        random_state: int | None = 0,
        size_factors: ArrayLike | None = None,
        batch: pd.Series | None = None,
        gene_order: NDArray[np.int64] | None = None,
        sums: CellSums | None = None,
    ) -> Projection:
        """Fit on counts.

        All genes that vary are used. If there are more than ``n_top_genes`` such genes, :func:`highly_variable` selects
        the most variable genes.

        Parameters
        ----------
        counts
            Counts ``(n_obs, n_vars)``, dense, CSR, CSC or backed.
        n_comps
            Number of components, but at most ``min(n_obs - 1, n_genes_used)``.
        n_top_genes
            Largest number of genes to use.
        random_state
            Seed of the start vector of the Lanczos iteration. Also the seed of the sample of cells that the map against
            batch effects is computed on.
        size_factors
            Positive size factors, length ``n_obs``. ``None``: total counts.
        batch
            Batch of every cell, to shrink batch effects. ``None``: batch effects are not shrunk.
        gene_order
            Order in which the columns are processed, for instance from :func:`~scsiameseclu.pp._counts.name_order`. The
            result then does not depend on the order of the columns in ``counts``. ``None``: the order of the columns.
        sums
            Sums of the counts, if they are already known. Sums with moments of the genes save a pass over the counts.

        Raises
        ------
        ValueError
            With fewer than two cells, without a gene that varies, or with size factors that are not positive.
        """
        return cls.fit_transform(counts, n_comps, n_top_genes, random_state, size_factors, batch, gene_order, sums)[0]

    @classmethod
    def fit_transform(
        cls,
        counts: Any,
        n_comps: int = 50,
        n_top_genes: int = 2000,
        random_state: int | None = 0,
        size_factors: ArrayLike | None = None,
        batch: pd.Series | None = None,
        gene_order: NDArray[np.int64] | None = None,
        sums: CellSums | None = None,
    ) -> tuple[Projection, NDArray[np.float32]]:
        """Fit on counts, and compute the principal components of the same cells.

        The parameters are the parameters of :meth:`fit`.

        Returns
        -------
        The projection, and the result of :meth:`transform`, float32 ``(n_obs, n_comps)``.

        Raises
        ------
        ValueError
            As :meth:`fit`.
        """
        n_obs, n_vars = counts.shape
        if n_obs < 2 or n_comps < 1:
            raise ValueError(f"Expected at least two cells and one component, found {n_obs} and {n_comps}.")
        sizes = None if size_factors is None else _checked(size_factors, n_obs)
        sums = CellSums.of(counts, with_moments=sizes is None) if sums is None else sums
        sizes, target_sum, moments = sums.normalisation(counts, sizes)
        genes = _select_genes(moments, n_top_genes, np.arange(n_vars) if gene_order is None else gene_order)
        mean = moments.log_mean[genes].astype(np.float32)
        scale = np.sqrt(moments.log_variance[genes]).astype(np.float32)
        scores = (scaled for _, scaled in _scaled_blocks(counts, target_sum / sizes, genes, mean, scale))
        center, covariance = _covariance(scores, len(genes), n_obs)
        n_comps = max(1, min(n_comps, n_obs - 1, len(genes)))
        # Products round as they will once a file is read, whose arrays are in C order.
        axes = _leading_eigenvectors(covariance, n_comps, random_state).astype(np.float32, order="C")
        plain = cls(genes, mean, scale, center.astype(np.float32), axes, target_sum, n_vars)
        rep = plain.transform(counts, sizes)
        if batch is None:
            return plain, rep
        metric = noise_metric(rep, batch, random_state)
        fitted = replace(plain, metric=metric, unit_length=True)
        for start in range(0, n_obs, CHUNK):  # in the blocks of transform, whose results are then the same bit for bit
            rep[start : start + CHUNK] = fitted._without_batch_effects(rep[start : start + CHUNK])
        return fitted, rep

    def transform(self, counts: Any, size_factors: ArrayLike | None = None) -> NDArray[np.float32]:
        """Compute the principal components of cells.

        Parameters
        ----------
        counts
            Counts ``(n_cells, n_vars)``, with the genes of the fit in the same order.
        size_factors
            Positive size factors, length ``n_cells``, if size factors were given to :meth:`fit`. ``None``: total
            counts.

        Returns
        -------
        numpy.ndarray
            Principal components, float32 ``(n_cells, n_comps)``.

        Raises
        ------
        ValueError
            If the number of genes differs from the fit, or size factors are not positive.
        """
        if counts.shape[1] != self.n_vars:
            raise ValueError(
                f"Expected the {self.n_vars} genes of the fit, found {counts.shape[1]}. Align the genes first."
            )
        sizes = None if size_factors is None else _checked(size_factors, counts.shape[0])

        def projected(chunk: tuple[slice, Any]) -> tuple[slice, NDArray[np.float32]]:
            rows, block = chunk
            if sizes is None:
                return rows, self.project(block, positive(cell_totals(block)))
            return rows, self.project(block, sizes[rows])

        result = np.empty((counts.shape[0], self.n_comps), dtype=np.float32)
        for rows, block in in_threads(projected, row_chunks(counts), at_most=_DENSE_THREADS):
            result[rows] = block
        return result

    def project(self, block: Any, sizes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Compute the principal components of a block of cells, float32 ``(n, n_comps)``.

        Parameters
        ----------
        block
            Counts ``(n, n_vars)``, dense or CSR.
        sizes
            Positive size factors ``(n,)``.
        """
        scores = _scaled(block, self.target_sum / sizes, self.gene_indices, self.mean, self.scale)
        result = scores @ self.components - self.center @ self.components
        return self._without_batch_effects(result)

    def _without_batch_effects(self, components: NDArray[np.float32]) -> NDArray[np.float32]:
        result = components if self.metric is None else components @ self.metric
        return unit_length(result) if self.unit_length else result

    def to_state(self) -> dict[str, Any]:
        """Plain dictionary of small arrays and numbers, for a registry or :attr:`~anndata.AnnData.uns`."""
        state = {
            "gene_indices": self.gene_indices,
            "mean": self.mean,
            "scale": self.scale,
            "center": self.center,
            "components": self.components,
            "target_sum": self.target_sum,
            "n_vars": self.n_vars,
        }
        if self.metric is not None:
            state["metric"] = self.metric
        return {**state, "unit_length": True} if self.unit_length else state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Projection:
        """Inverse of :meth:`to_state`."""
        arrays = {name: np.asarray(state[name], dtype=np.float32) for name in ("mean", "scale", "center", "components")}
        return cls(
            gene_indices=np.asarray(state["gene_indices"], dtype=np.int64),
            target_sum=float(state["target_sum"]),
            n_vars=int(state["n_vars"]),
            unit_length=bool(state.get("unit_length", False)),
            metric=np.asarray(state["metric"], dtype=np.float32) if "metric" in state else None,
            **arrays,
        )


def highly_variable(mean: NDArray[np.float64], variance: NDArray[np.float64], n_top_genes: int) -> NDArray[np.int64]:
    """Select the most variable genes by binned normalised dispersion.

    The logarithm of the dispersion (variance / mean) is standardised within 20 bins of ``log1p(mean)``. A gene that is
    alone in its bin gets the score 1. Genes without counts are in no bin and do not change the selection. In scanpy,
    such genes change the limits of the first bin.

    Parameters
    ----------
    mean, variance
        Mean and variance of the normalised counts of each gene (without logarithm), ``(n_vars,)``.
    n_top_genes
        Number of genes to return.

    Returns
    -------
    numpy.ndarray
        Column numbers of the genes, int64, ascending.

    Notes
    -----
    Source: Satija et al. 2015; ``flavor="seurat"`` of :func:`scanpy.pp.highly_variable_genes`. The function of scanpy
    needs the whole matrix in memory. This function needs the moments only, which are summed up block by block.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = np.log(np.where(variance > 0, variance / np.where(mean > 0, mean, 1e-12), np.nan))
    bins = pd.Series(pd.cut(np.where(mean > 0, np.log1p(mean), np.nan), bins=_N_BINS, labels=False))
    grouped = pd.Series(dispersion).groupby(bins)
    bin_mean, bin_sd = grouped.transform("mean").to_numpy(), grouped.transform("std").to_numpy()
    alone = np.isnan(bin_sd)
    bin_mean, bin_sd = np.where(alone, 0.0, bin_mean), np.where(alone, bin_mean, bin_sd)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (dispersion - bin_mean) / bin_sd
    score = np.where(np.isfinite(score), score, -np.inf)
    return np.sort(np.argsort(-score, kind="stable")[:n_top_genes]).astype(np.int64)


def _select_genes(moments: GeneMoments, n_top_genes: int, gene_order: NDArray[np.int64]) -> NDArray[np.int64]:
    varying = moments.log_variance[gene_order] > 0
    if not varying.any():
        raise ValueError("Expected genes that vary between cells, found none. Check the count matrix.")
    if varying.sum() <= n_top_genes:
        return gene_order[varying]
    chosen = highly_variable(moments.mean[gene_order], moments.variance[gene_order], n_top_genes)
    return gene_order[chosen[varying[chosen]]]


def _checked(size_factors: ArrayLike, n_obs: int) -> NDArray[np.float64]:
    sizes = np.asarray(size_factors, dtype=np.float64).ravel()
    if len(sizes) != n_obs or not np.all(np.isfinite(sizes) & (sizes > 0)):
        raise ValueError(
            f"Expected {n_obs} positive, finite size factors, found {len(sizes)} size factors or invalid values."
        )
    return sizes


def _scaled_blocks(
    counts: Any,
    factors: NDArray[np.float64],
    genes: NDArray[np.int64],
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    def scaled(chunk: tuple[slice, Any]) -> tuple[slice, NDArray[np.float32]]:
        return chunk[0], _scaled(chunk[1], factors[chunk[0]], genes, mean, scale)

    return in_threads(scaled, row_chunks(counts), at_most=_DENSE_THREADS)


def _scaled(
    block: Any,
    factors: NDArray[np.float64],
    genes: NDArray[np.int64],
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Clipped scores of the log-normalised counts of a block of cells, dense ``(n, len(genes))``."""
    # The dtype is set here and not after `toarray`. Otherwise scipy would sort the entries, which takes longer than all
    # other steps.
    values = normalized(block[:, genes], factors, np.float32)
    dense = values.toarray() if sparse.issparse(values) else values
    np.log1p(dense, out=dense)
    dense -= mean
    dense /= scale
    return np.clip(dense, -MAX_SCORE, MAX_SCORE, out=dense)


def _covariance(
    blocks: Iterator[NDArray[np.float32]], n_genes: int, n_obs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean ``(n_genes,)`` and unnormalised covariance ``(n_genes, n_genes)`` of scores, from blocks of cells."""
    total, gram = np.zeros(n_genes), np.zeros((n_genes, n_genes))
    for block in blocks:
        total += block.sum(axis=0, dtype=np.float64)
        # `ssyrk` only computes the upper triangle, which takes half the time of a matrix product. The transposed view
        # of the block is not copied.
        gram += linalg.blas.ssyrk(1.0, block.T)
    gram = np.triu(gram) + np.triu(gram, 1).T
    center = total / n_obs
    return center, gram - n_obs * np.outer(center, center)


def _leading_eigenvectors(covariance: NDArray[np.float64], n: int, random_state: int | None) -> NDArray[np.float64]:
    """Eigenvectors of the ``n`` largest eigenvalues, largest first. The largest entry of each vector is positive."""
    n_genes = len(covariance)
    if n_genes <= _DENSE_EIGEN_LIMIT or 2 * n >= n_genes:
        vectors = linalg.eigh(covariance, subset_by_index=[n_genes - n, n_genes - 1])[1][:, ::-1]
    else:
        start = np.random.default_rng(0 if random_state is None else random_state).normal(size=n_genes)
        # Single precision is faster, because less memory is read. The error is about as large as the rounding error of
        # the float32 result.
        single = (covariance / np.trace(covariance)).astype(np.float32)
        values, vectors = sparse.linalg.eigsh(single, k=n, v0=start.astype(np.float32), tol=1e-5)
        vectors = vectors[:, np.argsort(-values)]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(n)])
