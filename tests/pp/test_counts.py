import warnings

import numpy as np
import pytest
from scipy import sparse

from scsiameseclu.pp import _counts, check_counts

KINDS = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_counts_of_any_kind_pass(kind, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_counts(kind(np.array([[0, 1], [3, 0]]).astype(dtype)))


@pytest.mark.parametrize("dtype", [complex, object, "U3"])
def test_other_types_are_no_counts(dtype):
    with pytest.raises(ValueError, match="Expected real numeric counts, found dtype"):
        check_counts(np.ones((3, 2)).astype(dtype))


def test_masked_counts_are_refused():
    with pytest.raises(ValueError, match="Expected a plain array of counts, found a masked array"):
        check_counts(np.ma.masked_equal(np.arange(6.0).reshape(3, 2), 3.0))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_the_first_offending_cell_and_gene_are_named(kind, bad, monkeypatch):
    monkeypatch.setattr(_counts, "CHUNK", 2)
    counts = np.ones((5, 3))
    counts[3, 1] = counts[4, 0] = bad
    with pytest.raises(ValueError, match="cell 'c3', gene 'g1'"):
        check_counts(kind(counts), [f"c{i}" for i in range(5)], [f"g{i}" for i in range(3)])
    with pytest.raises(ValueError, match="row 3, gene column 1"):
        check_counts(kind(counts))


def test_fractions(kind):
    counts = kind(np.array([[0.5, 1.0]]))
    with pytest.warns(UserWarning, match="not whole numbers"):
        check_counts(counts)
    with pytest.raises(ValueError, match="not whole numbers"):
        check_counts(counts, non_integer="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_counts(counts, non_integer="ignore")


def test_nothing_to_count(kind):
    with pytest.raises(ValueError, match="only zeros"):
        check_counts(kind(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="at least one cell"):
        check_counts(kind(np.zeros((0, 2))))


def test_totals_agree_between_kinds(kind):
    counts = np.arange(12).reshape(4, 3)
    by_cell, by_gene = _counts.totals(kind(counts))
    np.testing.assert_array_equal(by_cell, counts.sum(axis=1))
    np.testing.assert_array_equal(by_gene, counts.sum(axis=0))
