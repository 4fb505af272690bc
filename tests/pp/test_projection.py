import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from scsiameseclu.pp import Projection, _projection
from scsiameseclu.pp._counts import name_order
from scsiameseclu.pp._metric import noise_metric, unit_length


def scanpy_scores(counts, n_comps):
    adata = AnnData(sparse.csr_matrix(counts))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    return PCA(n_comps, svd_solver="full").fit_transform(adata.X)


@pytest.mark.parametrize("dense_limit", [0, 10_000])
def test_is_the_usual_scanpy_pipeline(counts_adata, monkeypatch, dense_limit):
    monkeypatch.setattr(_projection, "_DENSE_EIGEN_LIMIT", dense_limit)  # Lanczos and LAPACK
    found = Projection.fit(counts_adata.X, 5).transform(counts_adata.X)
    expected = scanpy_scores(counts_adata.X, 5)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-3)
    assert found.dtype == np.float32


def test_gene_selection_is_that_of_scanpy():
    rng = np.random.default_rng(5)
    counts = rng.poisson(rng.gamma(0.4, 2.0, size=(1, 300)) * rng.lognormal(0, 0.8, size=(150, 300))).astype(float)
    counts = counts[:, counts.sum(axis=0) > 0]  # in scanpy, genes without counts widen the first bin
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=50)
    fitted = Projection.fit(counts, 5, n_top_genes=50)
    np.testing.assert_array_equal(fitted.gene_indices, np.flatnonzero(adata.var["highly_variable"]))


def test_new_cells_are_placed_one_by_one(counts_adata):
    fitted = Projection.fit(counts_adata.X, 6)
    whole = fitted.transform(counts_adata.X)
    rows = [7, 3, 99]
    np.testing.assert_allclose(fitted.transform(counts_adata.X[rows]), whole[rows], atol=1e-4)


@pytest.mark.parametrize("kind", [sparse.csc_matrix, sparse.csr_array, np.asarray])
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_storage_does_not_matter(counts_adata, kind, dtype):
    expected = Projection.fit(counts_adata.X, 4).transform(counts_adata.X)
    counts = kind(counts_adata.X.toarray().astype(dtype))
    np.testing.assert_allclose(Projection.fit(counts, 4).transform(counts), expected, atol=1e-3)


def test_chunks_do_not_matter(counts_adata, monkeypatch):
    from scsiameseclu.pp import _counts

    expected = Projection.fit(counts_adata.X, 4).transform(counts_adata.X)
    monkeypatch.setattr(_counts.row_chunks, "__defaults__", (17,))
    np.testing.assert_allclose(Projection.fit(counts_adata.X, 4).transform(counts_adata.X), expected, atol=1e-3)


def test_sequencing_depth_is_removed(counts_adata):
    fitted = Projection.fit(counts_adata.X, 4)
    np.testing.assert_allclose(fitted.transform(3 * counts_adata.X), fitted.transform(counts_adata.X), atol=1e-3)


def test_given_size_factors_replace_totals_up_to_their_unit(counts_adata):
    totals = np.asarray(counts_adata.X.sum(axis=1)).ravel()
    expected = Projection.fit(counts_adata.X, 4).transform(counts_adata.X)
    for unit in (1.0, 1e-3):
        fitted = Projection.fit(counts_adata.X, 4, size_factors=unit * totals)
        found = fitted.transform(counts_adata.X, unit * totals)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_known_batches_give_components_in_the_metric_of_their_noise(counts_adata):
    batch = np.resize(["a", "b"], counts_adata.n_obs)
    plain = Projection.fit(counts_adata.X, 5).transform(counts_adata.X)
    fitted = Projection.fit(counts_adata.X, 5, batch=batch)
    found = fitted.transform(counts_adata.X)
    np.testing.assert_allclose(found, unit_length(plain @ noise_metric(plain, batch)), atol=1e-4)
    again = Projection.from_state(fitted.to_state())
    np.testing.assert_array_equal(again.transform(counts_adata.X), found)
    assert again.digest == fitted.digest != Projection.fit(counts_adata.X, 5).digest


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_bad_size_factors(counts_adata, bad):
    with pytest.raises(ValueError, match="positive"):
        Projection.fit(counts_adata.X, 4, size_factors=np.full(120, bad))


def test_cells_and_genes_without_counts(counts_adata):
    counts = counts_adata.X.toarray()
    counts[5] = 0
    counts[:, 7] = 0
    fitted = Projection.fit(counts, 4)
    assert 7 not in fitted.gene_indices
    assert np.isfinite(fitted.transform(counts)).all()


def test_number_of_components_is_lowered_where_there_are_not_more(counts_adata):
    assert Projection.fit(counts_adata.X[:4], 50).n_comps == 3
    one_gene = np.array([[1.0, 3], [2, 3], [0, 5]])
    assert Projection.fit(one_gene[:, :1], 50, size_factors=[1, 1, 1]).n_comps == 1


def test_nothing_varies():
    with pytest.raises(ValueError, match="vary"):
        Projection.fit(np.ones((5, 3)))
    with pytest.raises(ValueError, match="two cells"):
        Projection.fit(np.ones((1, 3)))


def test_other_genes_are_refused(counts_adata):
    with pytest.raises(ValueError, match="60 genes of the fit, found 59"):
        Projection.fit(counts_adata.X).transform(counts_adata.X[:, 1:])


def test_state_round_trip(counts_adata):
    fitted = Projection.fit(counts_adata.X, 4)
    again = Projection.from_state(fitted.to_state())
    assert again.digest == fitted.digest
    assert again.digest != Projection.fit(counts_adata.X, 3).digest
    np.testing.assert_array_equal(again.transform(counts_adata.X), fitted.transform(counts_adata.X))


@pytest.mark.parametrize("n_top_genes", [15, 2000])
def test_an_order_of_genes_makes_the_fit_independent_of_the_columns(counts_adata, n_top_genes):
    counts, names = counts_adata.X.tocsr(), np.array([f"gene{i}" for i in range(counts_adata.n_vars)])
    permuted = np.random.default_rng(0).permutation(len(names))
    first, second = (
        Projection.fit(counts[:, columns], 5, n_top_genes, gene_order=name_order(names[columns]))
        for columns in (np.arange(len(names)), permuted)
    )
    assert list(names[first.gene_indices]) == list(names[permuted][second.gene_indices])
    assert list(names[first.gene_indices]) == sorted(names[first.gene_indices])
    np.testing.assert_array_equal(first.components, second.components)
