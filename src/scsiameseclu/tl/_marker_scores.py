"""Scores of the expression of marker genes in clusters and cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.pp._counts import row_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["MarkerExpression", "marker_expression", "mixed_with", "type_scores"]

logger = logging.getLogger(__name__)
MAX_CORRELATION = -0.35
"""Largest correlation between the scores of two types in a mixed cluster."""
MIN_SHARE = 0.1
"""Smallest share of the cells of a mixed cluster in which the second type has the higher score."""
MIN_CELLS = 3
"""Smallest number of such cells."""


@dataclass(frozen=True)
class MarkerExpression:
    """Log-normalised expression of marker genes.

    Parameters
    ----------
    genes
        Columns of the marker genes in the data, int64 ``(n_genes,)``, sorted.
    values
        Expression, ``(n_cells, n_genes)``, of the cells that have a cluster.
    codes
        Cluster of each of these cells, int64 ``(n_cells,)``.
    means
        Standardised mean expression in each cluster, float64 ``(n_clusters, n_genes)``; 0 for genes that do not vary.
    deviation, centre
        Standard deviation and mean of each gene over the cells, float64 ``(n_genes,)``. All clusters have the same
        weight.
    informative
        Whether a gene varies, bool ``(n_genes,)``.
    """

    genes: NDArray[np.int64]
    values: sparse.csr_matrix
    codes: NDArray[np.int64]
    means: NDArray[np.float64]
    deviation: NDArray[np.float64]
    centre: NDArray[np.float64]
    informative: NDArray[np.bool_]

    def positions(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in ``genes`` of columns of the data. Genes that do not vary are left out."""
        positions = np.searchsorted(self.genes, columns)
        return positions[self.informative[positions]]


def marker_expression(
    matrix: Any, genes: NDArray[np.int64], codes: NDArray[np.int64], n_clusters: int, normalize: bool
) -> MarkerExpression:
    """Read the expression of marker genes in one pass over the counts.

    Parameters
    ----------
    matrix
        Counts, or log-normalised values, ``(n_obs, n_vars)``.
    genes
        Columns of the marker genes, sorted.
    codes
        Cluster of each cell, int64 ``(n_obs,)``. Cells with the code -1 have no cluster and are left out.
    n_clusters
        Number of clusters.
    normalize
        Whether to log-normalise the values.
    """
    blocks = []
    for rows, block in row_chunks(matrix):
        values = sparse.csr_matrix(block[:, genes], dtype=np.float64)
        if normalize:
            totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
            values = sparse.csr_matrix(sparse.diags(scale) @ values).log1p()
        blocks.append(values[codes[rows] >= 0])
    values, codes = sparse.vstack(blocks, format="csr"), codes[codes >= 0]
    if not np.isfinite(values.data).all():
        raise ValueError("Expected finite expression of the markers, found NaN or infinite values; name another layer.")

    member = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (n_clusters, len(codes)))
    sizes = np.bincount(codes, minlength=n_clusters)[:, None]
    means, squares = (member @ values).toarray() / sizes, (member @ values.multiply(values)).toarray() / sizes
    centre = means.mean(axis=0)
    variance = squares.mean(axis=0) - centre**2
    # By rounding, the variance of constant genes may be slightly above 0.
    informative = variance > 1e-10 * np.maximum(centre**2, 1e-10)
    deviation = np.sqrt(np.where(informative, variance, 1.0))
    standardised = np.where(informative, (means - centre) / deviation, 0.0)
    return MarkerExpression(genes, values, codes, standardised, deviation, centre, informative)


def type_scores(
    expression: MarkerExpression, genes: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Score of each type in each cluster, and number of markers that vary for each type.

    Returns
    -------
    tuple of numpy.ndarray
        Scores, float64 ``(n_clusters, n_types)``: the mean of ``expression.means`` over the markers that vary, or 0 if
        no marker varies. Numbers of markers that vary, int64 ``(n_types,)``.
    """
    scores, n_markers = np.zeros((len(expression.means), len(genes))), np.zeros(len(genes), dtype=np.int64)
    for t, (name, columns) in enumerate(genes.items()):
        positions = expression.positions(columns)
        n_markers[t] = len(positions)
        if len(positions):
            scores[:, t] = expression.means[:, positions].mean(axis=1)
        else:
            logger.warning("No marker of %r varies between cells; no cluster gets this type.", name)
    return scores, n_markers


def mixed_with(
    expression: MarkerExpression, genes: Mapping[str, NDArray[np.int64]], best: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the second type in each mixed cluster.

    If all cells of a cluster are of one type, the markers of this type and of another type vary independently between
    the cells. If some cells are of another type, the cells that express the markers of one type lack the markers of the
    other type, so the scores of the two types are negatively correlated.

    The score of a type in a cell is the mean of its standardised markers. Markers that both types share are left out.
    The correlation between the scores of the best type and the second type must be at most ``MAX_CORRELATION``. The
    second type must have the higher score in at least the share ``MIN_SHARE`` of the cells, and in at least
    ``MIN_CELLS`` cells. If several types meet these conditions, the type with the lowest correlation is chosen.

    Returns
    -------
    numpy.ndarray
        Number of the second type of each cluster, int64 ``(n_clusters,)``; -1 if the cluster is not mixed.
    """
    positions = [expression.positions(columns) for columns in genes.values()]
    found = np.full(len(best), -1)
    for cluster, own in enumerate(best):
        of_cluster = expression.codes == cluster
        pairs = [(np.setdiff1d(positions[own], each), np.setdiff1d(each, positions[own])) for each in positions]
        usable = np.array([len(first) > 0 and len(second) > 0 for first, second in pairs])
        first = _cell_scores(expression, of_cluster, [pair[0] for pair in pairs])
        second = _cell_scores(expression, of_cluster, [pair[1] for pair in pairs])
        correlation = np.where(usable, _correlation(first, second), 0.0)
        n_higher = (second > first).sum(axis=0)
        correlation[n_higher < max(MIN_CELLS, MIN_SHARE * len(first))] = 0.0
        if correlation.min() <= MAX_CORRELATION:
            found[cluster] = correlation.argmin()
    return found


def _cell_scores(
    expression: MarkerExpression, cells: NDArray[np.bool_], sets: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Mean of the standardised markers of each set in each cell, ``(n_cells, n_sets)``. An empty set has score 0."""
    weights = np.zeros((len(expression.genes), len(sets)))
    for t, positions in enumerate(sets):
        weights[positions, t] = 1.0 / (max(len(positions), 1) * expression.deviation[positions])
    scores: NDArray[np.float64] = expression.values[cells] @ weights - expression.centre @ weights
    return scores


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of the corresponding columns of two tables; 0 if one of the columns is constant."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return np.divide((first * second).sum(axis=0), norms, out=np.zeros_like(norms), where=norms > 1e-12)
