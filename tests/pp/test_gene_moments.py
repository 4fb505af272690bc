"""Moments of genes and sums of cells, against numpy."""

import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.data._statistics import ExpressionStatistics
from scsiameseclu.pp._cell_sums import CellSums
from scsiameseclu.pp._gene_moments import GeneMoments


def counts_of(n_obs=4500, n_vars=7, seed=0):
    """Counts of more than a block of cells, the first of which has none."""
    counts = np.random.default_rng(seed).poisson([0.2, 1.0, 5.0, 0.0, 3.0, 2.0, 1.0], (n_obs, n_vars))
    counts[0] = 0
    return counts


@pytest.mark.parametrize("as_format", [np.asarray, sparse.csr_matrix])
def test_sums_and_moments_of_several_blocks(as_format):
    counts = counts_of()
    sums = CellSums.of(as_format(counts), with_moments=True)
    np.testing.assert_array_equal(sums.per_cell, counts.sum(axis=1))
    np.testing.assert_array_equal(sums.per_gene, counts.sum(axis=0))
    normalised = 1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(sums.moments.mean, normalised.mean(axis=0))
    np.testing.assert_allclose(sums.moments.variance, normalised.var(axis=0, ddof=1))
    np.testing.assert_allclose(sums.moments.log_mean, np.log1p(normalised).mean(axis=0))
    np.testing.assert_allclose(sums.moments.log_variance, np.log1p(normalised).var(axis=0, ddof=1))
    assert CellSums.of(as_format(counts)).moments is None


@pytest.mark.parametrize("value", [0.1, 3.7, 1e4 / 3])
def test_a_constant_gene_has_no_variance(value):
    counts = np.full((10_000, 2), value)
    moments = GeneMoments.of(counts, np.full(10_000, 0.7))
    assert not moments.variance.any() and not moments.log_variance.any()


@pytest.mark.parametrize("with_sizes", [False, True])
def test_statistics_of_expression(with_sizes):
    counts = counts_of(n_obs=9)
    sizes = np.maximum(counts.sum(axis=1), 1) * np.linspace(0.5, 3.0, 9) if with_sizes else None
    found = ExpressionStatistics.from_counts(counts, sizes)
    per_cell = counts.sum(axis=1)
    by = np.maximum(per_cell, 1) if sizes is None else sizes
    target = 1e4 if sizes is None else 1e4 / np.median((per_cell / by)[1:])
    assert found.target_sum == pytest.approx(target)
    normalised = target * counts / by[:, None]
    np.testing.assert_allclose(found.mean, np.log1p(normalised).mean(axis=0))
    np.testing.assert_allclose(found.sd, np.log1p(normalised).std(axis=0))
    np.testing.assert_allclose(found.dispersion_mean, normalised.mean(axis=0))
    np.testing.assert_allclose(found.dispersion_variance, normalised.var(axis=0))
    np.testing.assert_allclose(found.proportions, counts.sum(axis=0) / counts.sum())
