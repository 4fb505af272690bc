"""Models beside scVI models, on one AnnData."""

import numpy as np
import pytest
import scvi

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


@pytest.fixture(scope="module")
def data():
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, n_batches=2, seed=0)
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    adata.obs["site"] = np.resize(["a", "b", "c"], adata.n_obs)
    adata.obs["depth"] = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    return adata


@pytest.fixture(scope="module")
def scvi_model(data, quick):
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(
        data, layer="counts", batch_key="batch", size_factor_key="depth", categorical_covariate_keys=["site"]
    )
    model = scvi.model.SCVI(data, n_latent=4, n_hidden=16)
    model.train(max_epochs=1, **quick)
    return model


@pytest.fixture(scope="module")
def model(scvi_model, quick, small):
    scvi.settings.seed = 0
    model = SCSiameseClu.from_scvi_model(scvi_model, n_clusters=3, n_neighbors=6, **small)
    model.train(max_epochs=2, batch_size=64, **quick)
    return model


def test_data_and_setup_are_those_of_the_scvi_model(scvi_model, model):
    assert model.adata is scvi_model.adata
    setup = model.registry["setup_args"]
    given = {
        "layer": "counts",
        "batch_key": "batch",
        "size_factor_key": "depth",
        "categorical_covariate_keys": ["site"],
    }
    assert {key: setup[key] for key in given} == given
    assert setup["n_neighbors"] == 6
    assert model.summary_stats.n_batch == 2


def test_diffusion_is_asked_for(scvi_model, model, small):
    assert model.registry["setup_args"]["diffusion"] is False
    other = SCSiameseClu.from_scvi_model(scvi_model, n_clusters=3, n_neighbors=6, diffusion=True, **small)
    assert SIAMESE_KEYS.DIFFUSED_INDEX in other.adata_manager.data_registry
    model.predict()
    assert SIAMESE_KEYS.DIFFUSED_INDEX not in model.adata_manager.data_registry


def test_graph_is_in_the_latent_space_of_the_scvi_model(scvi_model, model):
    latent = scvi_model.get_latent_representation()
    assert np.array_equal(model.adata.obsm["X_scVI"], latent)
    assert np.array_equal(model.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP), latent)
    assert model.module.graph_encoder.scaler.mean.shape == (4,)


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_decoder_starts_at_the_dispersions_of_the_scvi_model(data, quick, small, dispersion):
    adata = data.copy()
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    peer = scvi.model.SCVI(adata, n_latent=4, n_hidden=16, dispersion=dispersion)
    peer.train(max_epochs=1, **quick)
    options = {"n_clusters": 3, "n_neighbors": 6, "n_embedding_genes": 25, **small}
    model = SCSiameseClu.from_scvi_model(peer, init_decoder=True, **options)
    batch = next(iter(model._make_data_loader(adata, batch_size=adata.n_obs)))
    module = model.module.eval()
    theta = module.generative(
        **module._get_generative_input(batch, module.inference(**module._get_inference_input(batch)))
    )
    theta = theta["px"].theta.detach().numpy()
    px_r = peer.module.px_r.detach().exp().numpy()
    codes = adata.obs["batch"].cat.codes.to_numpy() if dispersion == "gene-batch" else None
    expected = px_r[:, codes].T if codes is not None else np.broadcast_to(px_r, theta.shape)
    assert np.allclose(theta, expected, rtol=1e-5)
    model.train(max_epochs=1, batch_size=64, **quick)
    assert np.isfinite(model.predict(soft=True)).all(axis=None)
    with pytest.raises(ValueError, match="leave out init_decoder"):
        SCSiameseClu.from_scvi_model(peer, init_decoder=True, gene_likelihood="poisson", **options)
    other = "gene" if dispersion == "gene-batch" else "gene-batch"
    with pytest.raises(ValueError, match=f"Expected dispersion='{dispersion}'"):
        SCSiameseClu.from_scvi_model(peer, init_decoder=True, dispersion=other, **options)


def test_decoder_does_not_start_at_dispersions_that_are_not_there(data, quick):
    adata = data.copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    peer = scvi.model.SCVI(adata, n_latent=4, n_hidden=16, dispersion="gene-cell")
    peer.train(max_epochs=1, **quick)
    with pytest.raises(ValueError, match="found 'zinb' and 'gene-cell'"):
        SCSiameseClu.from_scvi_model(peer, init_decoder=True)


def test_the_models_do_not_disturb_each_other(scvi_model, model):
    of_scvi, of_ours = scvi_model.get_latent_representation(), model.predict(soft=True)
    for _ in range(2):
        assert np.array_equal(scvi_model.get_latent_representation(), of_scvi)
        assert np.array_equal(model.predict(soft=True), of_ours)


@pytest.mark.parametrize("first", ["scvi", "siamese"])
def test_saved_and_loaded_in_both_orders(scvi_model, model, tmp_path, first):
    expected = {"scvi": scvi_model.get_latent_representation(), "siamese": model.get_latent_representation()}
    models = {"scvi": scvi_model, "siamese": model}
    order = [first, *({"scvi", "siamese"} - {first})]
    for name in order:
        models[name].save(tmp_path / name)
    adata = model.adata.copy()
    loaded = {name: type(models[name]).load(tmp_path / name, adata=adata, accelerator="cpu") for name in order}
    for name in [*order, *order]:
        assert np.allclose(loaded[name].get_latent_representation(), expected[name], atol=1e-5)


def test_scvi_trained_on_keeps_our_model(scvi_model, data, model, quick):
    before = model.predict(soft=True)
    scvi.model.SCVI.setup_anndata(data, layer="counts")
    other = scvi.model.SCVI(data, n_latent=2, n_hidden=8)
    other.train(max_epochs=1, **quick)
    assert np.array_equal(model.predict(soft=True), before)
    assert scvi_model.get_latent_representation().shape == (120, 4)


def test_other_cells_need_the_representation(scvi_model, model, tmp_path):
    query = synthetic(n_obs=30, n_vars=40, n_types=3, n_batches=2, seed=5)
    query.layers["counts"] = query.X.copy()
    query.obs["site"] = np.resize(["a", "b", "c"], 30)
    query.obs["depth"] = np.asarray(query.X.sum(axis=1)).ravel()
    with pytest.raises(KeyError, match=r"obsm\['X_scVI'\].*get_latent_representation"):
        model.predict(query.copy())
    with pytest.raises(KeyError, match=r"obsm\['X_scVI'\].*get_latent_representation"):
        SCSiameseClu.load_query_data(query.copy(), model, accelerator="cpu")
    model.save(tmp_path / "model")
    bare = SCSiameseClu.load(tmp_path / "model", adata=False, accelerator="cpu")
    with pytest.raises(KeyError, match=r"obsm\['X_scVI'\].*get_latent_representation"):
        bare.predict(query.copy())
    query.obsm["X_scVI"] = scvi_model.get_latent_representation(query)
    expected = model.predict(query.copy(), soft=True)
    assert np.isfinite(expected).all(axis=None)
    assert np.allclose(bare.predict(query.copy(), soft=True), expected, atol=1e-5)
    mapped = SCSiameseClu.load_query_data(query, model, accelerator="cpu")
    assert np.allclose(mapped.predict(soft=True), expected, atol=1e-5)
    query.obsm["X_scVI"] = query.obsm["X_scVI"][:, :3]
    with pytest.raises(ValueError, match="expected 4 columns"):
        model.predict(query.copy())


def test_models_that_cannot_be_built_on(scvi_model, data, tmp_path):
    adata = data.copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    with pytest.raises(RuntimeError, match="untrained one"):
        SCSiameseClu.from_scvi_model(scvi.model.SCVI(adata))
    scvi_model.save(tmp_path / "scvi")
    bare = scvi.model.SCVI.load(tmp_path / "scvi", adata=False, accelerator="cpu")
    with pytest.raises(ValueError, match="found a model without data"):
        SCSiameseClu.from_scvi_model(bare)
    with pytest.raises(TypeError, match="SCSiameseClu.*use_rep"):
        SCSiameseClu.setup_anndata(adata, layer="counts")
        SCSiameseClu.from_scvi_model(SCSiameseClu(adata))


def test_minified_data_are_refused(scvi_model, data, quick):
    adata = data.copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    mini = scvi.model.SCVI(adata, n_latent=2, n_hidden=8)
    mini.train(max_epochs=1, **quick)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mini.get_latent_representation(return_dist=True)
    mini.minify_adata()
    with pytest.raises(ValueError, match="minified"):
        SCSiameseClu.from_scvi_model(mini)
