import numpy as np
import pytest

from scsiameseclu.datasets import synthetic
from scsiameseclu.pp import preprocess
from scsiameseclu.tl import cluster


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


@pytest.mark.parametrize("entrance", ["preprocess", "cluster"])
@pytest.mark.parametrize("kind", ["all alike", "all ones", "a batch alike", "a batch without counts"])
def test_cells_in_which_no_gene_varies_are_named(entrance, kind):
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)
    adata.X = adata.X.toarray()
    adata.obs["batch"] = np.repeat(["first", "second"], [55, 5])
    rows, value = {
        "all alike": (slice(None), adata.X[0]),
        "all ones": (slice(None), 1),
        "a batch alike": (slice(55, None), 1),
        "a batch without counts": (slice(55, None), 0),
    }[kind]
    adata.X[rows] = value
    batch_key = None if kind.startswith("all") else "batch"
    found = "found none" if batch_key is None else r"found none in batch 'second' \(5 cell"
    with pytest.raises(ValueError, match=f"Expected genes that vary.*{found}"):
        if entrance == "preprocess":
            preprocess(adata, n_top_genes=20, batch_key=batch_key)
        else:
            cluster(adata, n_clusters=2, n_top_genes=20, batch_key=batch_key)


@pytest.mark.parametrize("n_cells", [1, 2])
def test_batches_of_few_cells_do_not_stop_the_choice_of_genes(n_cells):
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)
    adata.obs["batch"] = np.repeat(["first", "second"], [60 - n_cells, n_cells])
    preprocess(adata, n_top_genes=20, batch_key="batch")
    assert adata.var["highly_variable"].sum() == 20


def test_a_batch_without_counts_trains_where_genes_are_not_chosen():
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)
    adata.X = adata.X.toarray()
    adata.X[55:] = 0
    adata.obs["batch"] = np.repeat(["first", "second"], [55, 5])
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    model = cluster(adata, n_clusters=2, n_top_genes=None, batch_key="batch", n_neighbors=5, train_kwargs=options)
    assert np.isfinite(model.get_latent_representation()).all()
