import numpy as np
import pytest

from scsiameseclu.pp import preprocess


def test_keeps_counts_and_adds_the_usual_slots(counts_adata):
    raw = counts_adata.X.toarray()
    assert preprocess(counts_adata, n_top_genes=20, n_pcs=5) is None
    np.testing.assert_array_equal(counts_adata.layers["counts"].toarray(), raw)
    np.testing.assert_allclose(np.expm1(counts_adata.X.toarray()).sum(axis=1), 1e4, rtol=1e-4)
    assert counts_adata.var["highly_variable"].sum() == 20
    assert counts_adata.obsm["X_pca"].shape == (120, 5)


def test_copy_leaves_the_original(counts_adata):
    raw = counts_adata.X.copy()
    result = preprocess(counts_adata, subset=True, n_top_genes=20, copy=True)
    assert result.shape == (120, 20)
    assert (counts_adata.X != raw).nnz == 0
    assert "counts" not in counts_adata.layers


def test_counts_from_a_layer_and_few_genes(counts_adata):
    counts_adata.layers["raw"] = counts_adata.X.copy()
    counts_adata.X = np.zeros(counts_adata.shape, dtype=np.float32)
    preprocess(counts_adata, layer="raw", batch_key="batch")
    assert counts_adata.var["highly_variable"].all()
    assert counts_adata.X.sum() > 0


def test_second_run_is_refused_and_changes_nothing(counts_adata):
    preprocess(counts_adata)
    before = counts_adata.X.copy()
    with pytest.raises(ValueError, match="not whole numbers"):
        preprocess(counts_adata)
    assert (counts_adata.X != before).nnz == 0
    preprocess(counts_adata, layer="counts")
    np.testing.assert_allclose(counts_adata.X.toarray(), before.toarray())


def test_missing_keys_and_tiny_data(counts_adata):
    with pytest.raises(KeyError, match="'donor'"):
        preprocess(counts_adata, batch_key="donor")
    with pytest.raises(KeyError, match="'raw'"):
        preprocess(counts_adata, layer="raw")
    with pytest.raises(ValueError, match="two cells"):
        preprocess(counts_adata[:1].copy())
