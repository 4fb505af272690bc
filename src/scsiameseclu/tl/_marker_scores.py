"""How much clusters and cells express the markers of cell types."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scsiameseclu.pp._counts import row_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["MarkerExpression", "marker_expression", "mixed_with", "type_scores"]

logger = logging.getLogger(__name__)
TARGET_SUM = 1e4
MAX_CORRELATION = -0.35
MIN_SHARE = 0.1
MIN_CELLS = 3


@dataclass(frozen=True)
class MarkerExpression:
    """Log-normalised expression of the markers, and its mean and spread with every cluster counted alike."""

    genes: NDArray[np.int64]  # columns of the data, sorted
    values: sparse.csr_matrix  # (cells with a cluster, genes)
    codes: NDArray[np.int64]  # cluster of each of these cells
    means: NDArray[np.float64]  # (clusters, genes), standardised; 0 for genes that do not vary
    deviation: NDArray[np.float64]  # (genes,)
    centre: NDArray[np.float64]  # (genes,)
    informative: NDArray[np.bool_]  # (genes,): whether the gene varies

    def positions(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where columns of the data that vary are among ``genes``."""
        positions = np.searchsorted(self.genes, columns)
        return positions[self.informative[positions]]


def marker_expression(
    matrix: Any, genes: NDArray[np.int64], codes: NDArray[np.int64], n_clusters: int, normalize: bool
) -> MarkerExpression:
    """Read the genes ``genes`` of the cells whose code is not -1, in one pass over the counts."""
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
    informative = variance > 1e-10 * np.maximum(centre**2, 1e-10)  # rounding leaves traces in constant genes
    deviation = np.sqrt(np.where(informative, variance, 1.0))
    standardised = np.where(informative, (means - centre) / deviation, 0.0)
    return MarkerExpression(genes, values, codes, standardised, deviation, centre, informative)


def type_scores(
    expression: MarkerExpression, genes: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean over the markers that vary, ``(n_clusters, n_types)``, and their number; 0 for types without any."""
    scores, n_markers = np.zeros((len(expression.means), len(genes))), np.zeros(len(genes), dtype=np.int64)
    for t, (name, columns) in enumerate(genes.items()):
        positions = expression.positions(columns)
        n_markers[t] = len(positions)
        if len(positions):
            scores[:, t] = expression.means[:, positions].mean(axis=1)
        else:
            logger.warning("No marker of %r varies between cells; it is given to no cluster.", name)
    return scores, n_markers


def mixed_with(
    expression: MarkerExpression, genes: Mapping[str, NDArray[np.int64]], best: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each cluster, the type whose cells it seems to hold beside those of ``best``; -1 for none.

    Where all cells of a cluster are of one type, markers of that type and of another one vary independently from cell
    to cell. Where some cells are of the other type, the cells that express the markers of one lack those of the other.
    Scores of cells are means of standardised markers; markers that both types have are left out. The other type needs a
    correlation of at most ``MAX_CORRELATION`` between the two scores, and a higher score than the best type in a share
    of at least ``MIN_SHARE`` and in at least ``MIN_CELLS`` of the cells; of several, the type with the lowest
    correlation is taken.
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
    """Mean of the standardised markers of each set in each cell, ``(cells, sets)``; 0 for empty sets."""
    weights = np.zeros((len(expression.genes), len(sets)))
    for t, positions in enumerate(sets):
        weights[positions, t] = 1.0 / (max(len(positions), 1) * expression.deviation[positions])
    scores: NDArray[np.float64] = expression.values[cells] @ weights - expression.centre @ weights
    return scores


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of each column of one with the same column of the other; 0 where one is constant."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return np.divide((first * second).sum(axis=0), norms, out=np.zeros_like(norms), where=norms > 1e-12)
