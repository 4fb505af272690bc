import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.metrics import clustering_metrics
from scsiameseclu.model import SCSiameseClu


@pytest.fixture(scope="module")
def soft(trained):
    return trained.predict(soft=True)


@pytest.fixture(scope="module")
def hard(trained):
    return trained.predict()


def test_types_are_recovered(trained, hard):
    assert clustering_metrics(trained.adata.obs["cell_type"], hard)["ari"] > 0.8


def test_labels_are_category_strings_in_the_order_of_the_cells(trained, hard, soft):
    assert list(hard.index) == list(trained.adata.obs_names)
    assert list(hard.cat.categories) == ["0", "1", "2"]
    assert (hard.astype(str) == soft.idxmax(axis=1)).all()
    assert np.allclose(soft.sum(axis=1), 1.0, atol=1e-5)
    assert list(soft.columns) == ["0", "1", "2"]


def test_clusters_are_numbered_by_size(hard):
    sizes = hard.value_counts(sort=False)
    assert (sizes.diff().dropna() <= 0).all()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(trained, hard, batch_size):
    latent = trained.get_latent_representation(batch_size=batch_size)
    assert np.allclose(latent, trained.get_latent_representation(), atol=1e-5)
    assert (trained.predict(batch_size=batch_size) == hard).all()


def test_rows_asked_for_are_rows_returned(trained, hard):
    rows = [150, 3, 3, -1]
    part = trained.predict(indices=rows)
    assert list(part) == list(hard.iloc[rows])
    assert list(part.index) == list(hard.index[rows])
    mask = np.arange(200) % 3 == 0
    latent = trained.get_latent_representation()
    assert np.allclose(trained.get_latent_representation(indices=mask), latent[mask], atol=1e-5)
    assert trained.predict(indices=[]).empty


def test_rows_out_of_range(trained):
    with pytest.raises(IndexError, match="within 200 cells"):
        trained.predict(indices=[500])
    with pytest.raises(ValueError, match="mask of 200"):
        trained.predict(indices=np.array([True, False]))


def test_latent_is_float32(trained):
    latent = trained.get_latent_representation()
    assert latent.dtype == np.float32
    assert latent.shape == (200, 8)


def test_prediction_is_repeatable(trained, soft):
    assert np.array_equal(trained.predict(soft=True), soft)


def test_a_copy_gives_the_same(trained, soft):
    assert np.allclose(trained.predict(trained.adata.copy(), soft=True), soft, atol=1e-5)


def test_permuted_cells_give_permuted_predictions(trained, soft):
    order = np.random.default_rng(0).permutation(200)
    permuted = trained.predict(trained.adata[order].copy(), soft=True)
    assert np.allclose(permuted, soft.iloc[order], atol=1e-4)


def test_a_view_is_a_subset_with_neighbors_in_the_reference(trained, soft):
    view = trained.adata[:80]
    probs = trained.predict(view, soft=True)
    assert trained.get_anndata_manager(view).get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX).min() >= 80
    assert np.allclose(probs, soft[:80], atol=1e-4)


def test_fewer_cells_than_neighbors(trained):
    few = trained.adata[:5].copy()
    assert np.isfinite(trained.get_latent_representation(few)).all()
    assert len(trained.predict(few)) == 5


def test_concatenated_data(trained, hard):
    both = anndata.concat([trained.adata[:100], trained.adata[100:]], index_unique="-")
    labels = trained.predict(both)
    assert (labels.to_numpy() == hard.to_numpy()).all()


def test_unknown_new_cells(trained):
    new = synthetic(n_obs=60, n_vars=80, n_types=3, n_batches=2, seed=5)
    assert len(trained.predict(new)) == 60


def test_cells_of_unknown_or_missing_batches_are_refused(trained):
    for batch, message in (("unseen", "Category unseen not found"), (None, "batch for every cell, found 60 missing")):
        new = synthetic(n_obs=60, n_vars=80, n_types=3, n_batches=2, seed=5)
        new.obs["batch"] = batch
        with pytest.raises(ValueError, match=message):
            trained.predict(new)


@pytest.mark.parametrize("labels", [None, "unseen", "mixed"])
def test_labels_are_not_needed_in_new_cells(adata, small, quick, tmp_path, labels):
    SCSiameseClu.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=2, **quick)
    model.save(tmp_path / "model")
    expected = model.predict().to_numpy()
    new = adata.copy()
    del new.obs["_scvi_labels"]
    new.uns.pop("_scvi_uuid")
    if labels is None:
        del new.obs["cell_type"]
    elif labels == "unseen":
        new.obs["cell_type"] = "unseen"
    else:
        new.obs["cell_type"] = [None, "unseen", *adata.obs["cell_type"].astype(str)[2:]]
    loaded_new, query = new.copy(), new.copy()
    assert (model.predict(new).to_numpy() == expected).all()
    # The second call only validates the set-up.
    assert (model.predict(new).to_numpy() == expected).all()
    codes = new.obs["_scvi_labels"].to_numpy()
    assert (codes[:2] == -1).all()
    assert (codes[2:] == (adata.obs["_scvi_labels"].to_numpy()[2:] if labels == "mixed" else -1)).all()
    loaded = SCSiameseClu.load(tmp_path / "model", adata=loaded_new, accelerator="cpu")
    assert (loaded.predict().to_numpy() == expected).all()
    loaded.train(max_epochs=1, **quick)
    mapped = SCSiameseClu.load_query_data(query, model, accelerator="cpu")
    assert (mapped.predict().to_numpy() == expected).all()


@pytest.mark.parametrize("indices", [[0.9], np.array([1.0, 2.0]), ["a"], [None]])
def test_rows_must_be_whole_numbers(trained, indices):
    for getter in (trained.predict, trained.get_latent_representation, trained.get_normalized_expression):
        with pytest.raises(TypeError, match="whole row numbers or a boolean mask"):
            getter(indices=indices)


def test_masks_are_rows(trained, hard):
    mask = np.arange(200) % 7 == 3
    expected = hard[mask]
    for indices in (mask, list(mask), pd.Series(mask), np.flatnonzero(mask), np.flatnonzero(mask).astype(np.uint8)):
        assert (trained.predict(indices=indices) == expected).all()
    assert len(trained.predict(indices=[])) == 0
    with pytest.raises(ValueError, match="mask of 200 cells"):
        trained.predict(indices=mask[:50])


def test_duplicate_names_are_kept(trained, hard):
    twins = trained.adata.copy()
    twins.obs_names = ["cell"] * 200
    assert (trained.predict(twins).to_numpy() == hard.to_numpy()).all()


def test_data_changed_in_place_are_new_cells_to_a_trained_model(adata, small, quick):
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=2, **quick)
    adata._inplace_subset_obs(np.arange(0, 200, 2))
    labels = model.predict()
    assert len(labels) == 100
    assert model.adata_manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX).min() >= 100
    fresh = model.predict(adata.copy())
    assert (labels == fresh).all()
    assert len(model.reference.landmarks) == 200
    assert model.is_query_


def test_data_changed_in_place_before_training_are_the_reference(adata, small, quick):
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=3, **small)
    adata._inplace_subset_obs(np.arange(0, 200, 2))
    model.train(max_epochs=2, **quick)
    assert model.adata_manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX).max() < 100
    assert len(model.reference.landmarks) == len(model.reference.latent) == 100
    assert not model.is_query_


def test_all_zero_cells_and_genes(adata, small, quick):
    dense = adata.X.toarray()
    dense[3] = 0
    dense[:, 4] = 0
    adata.X = dense
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=2, **quick)
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.predict(soft=True)).all(axis=None)


def test_predicting_before_training(setup_adata, small):
    for model in (SCSiameseClu(setup_adata, **small), SCSiameseClu(setup_adata, n_clusters=3, **small)):
        for method in (model.predict, model.get_cluster_summary, model.write_to_adata):
            with pytest.raises(RuntimeError, match="call model.train"):
                method()
        with pytest.warns(UserWarning, match="untrained"):
            model.get_latent_representation()


def test_cluster_summary_adds_up(trained, hard, soft):
    summary = trained.get_cluster_summary()
    assert list(summary.index) == ["0", "1", "2"]
    assert summary["size"].sum() == 200
    for column in ("proportion", "soft_proportion", "marginal"):
        assert summary[column].sum() == pytest.approx(1.0, abs=1e-4)
    confidence = soft.max(axis=1)
    assert summary.loc["0", "mean_confidence"] == pytest.approx(confidence[hard == "0"].mean(), abs=1e-5)
    assert summary.loc["0", "min_confidence"] == pytest.approx(confidence[hard == "0"].min(), abs=1e-5)


def test_results_are_written_and_survive_a_file(trained, hard, soft, tmp_path):
    adata = trained.adata.copy()
    trained.write_to_adata(adata, key_added="mine")
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (read.obs["mine"].astype(str) == hard.astype(str)).all()
    assert read.obs["mine"].dtype == "category"
    assert np.allclose(read.obs["mine_confidence"], soft.max(axis=1), atol=1e-5)
    assert np.allclose(read.obsm["mine_probs"], soft, atol=1e-5)
    assert read.obsm["X_mine"].dtype == np.float32
    assert read.uns["mine"]["params"]["n_clusters"] == 3
    assert all(np.isscalar(value) or isinstance(value, str) for value in read.uns["mine"]["params"].values())
    assert 0 <= read.uns["mine"]["sinkhorn_marginal_error"] < 0.1


def test_written_keys_work_with_scanpy(trained):
    adata = trained.adata.copy()
    trained.write_to_adata(adata)
    sc.pp.neighbors(adata, use_rep="X_siamese_clu")
    sc.tl.umap(adata)
    sc.pl.umap(adata, color="siamese_clu", show=False)
    sc.tl.rank_genes_groups(adata, "siamese_clu")


def test_empty_clusters_are_not_written(trained):
    one = trained.adata[(trained.predict() == "1").to_numpy()].copy()
    trained.write_to_adata(one)
    assert len(one.obs["siamese_clu"].cat.categories) == one.obs["siamese_clu"].nunique()
    assert one.obsm["siamese_clu_probs"].shape[1] == 3
