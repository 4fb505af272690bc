import numpy as np
import pytest
import scvi

from scsiameseclu.model import SCSiameseClu


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained.save(folder)
    return folder


def test_loaded_model_predicts_the_same(trained, saved):
    loaded = SCSiameseClu.load(saved, adata=trained.adata.copy(), accelerator="cpu")
    assert np.array_equal(loaded.predict(soft=True), trained.predict(soft=True))
    assert loaded.n_clusters == 3
    assert loaded.is_trained
    assert list(loaded.history) == list(trained.history)


def test_model_loaded_without_data(trained, saved):
    loaded = SCSiameseClu.load(saved, adata=False, accelerator="cpu")
    assert "no data attached" in repr(loaded)
    with pytest.raises(ValueError, match="pass adata"):
        loaded.predict()
    copy = trained.adata.copy()
    assert np.allclose(loaded.predict(copy, soft=True), trained.predict(soft=True), atol=1e-5)
    # The copy must not have replaced the original.
    SCSiameseClu(trained.adata, n_clusters=3)


def test_data_saved_along(trained, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    loaded = SCSiameseClu.load(tmp_path / "model", accelerator="cpu")
    assert np.allclose(loaded.predict(soft=True), trained.predict(soft=True), atol=1e-5)


def test_few_cells_can_be_given_on_loading(trained, saved):
    loaded = SCSiameseClu.load(saved, adata=trained.adata[:3].copy(), accelerator="cpu")
    assert len(loaded.predict()) == 3


def test_number_of_clusters_found_is_part_of_the_file(setup_adata, small, quick, tmp_path):
    model = SCSiameseClu(setup_adata, **small)
    model.train(max_epochs=4, **quick)
    assert isinstance(model.n_clusters, int)
    assert model.n_clusters_search_["n_clusters"] == model.n_clusters
    model.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=setup_adata, accelerator="cpu")
    assert (loaded.predict() == model.predict()).all()
    assert loaded.n_clusters_requested_ == "auto"
    assert loaded.n_clusters_search_ == model.n_clusters_search_
    loaded.write_to_adata()
    written = setup_adata.uns["siamese_clu"]["n_clusters_search"]
    assert written["criterion"] == model.n_clusters_search_["criterion"]
    assert written["separability"] == model.n_clusters_search_["separability"]


def test_untrained_model_can_be_saved(setup_adata, small, tmp_path):
    SCSiameseClu(setup_adata, **small).save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=setup_adata, accelerator="cpu")
    assert loaded.n_clusters == "auto"


def test_existing_folder_is_not_overwritten(trained, saved):
    with pytest.raises(ValueError, match="already exists"):
        trained.save(saved)


def test_file_of_another_class(adata, tmp_path):
    scvi.model.SCVI.setup_anndata(adata)
    scvi.model.SCVI(adata).save(tmp_path / "scvi")
    with pytest.raises(ValueError, match="different class, 'SCVI'"):
        SCSiameseClu.load(tmp_path / "scvi", adata=adata, accelerator="cpu", allow_pickle=True)


def test_works_beside_scvi_on_the_same_data(adata, small, quick):
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=2, **quick)
    before = model.predict(soft=True)
    scvi.model.SCVI.setup_anndata(adata)
    scvi.model.SCVI(adata, n_latent=2).train(max_epochs=1, **quick)
    assert np.allclose(model.predict(soft=True), before, atol=1e-5)
