"""All functions that take cells to a trained model make the same checks, and return finite values only."""

import mudata
import numpy as np
import pytest
import scvi
import torch

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

SETUP = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["site"],
    "continuous_covariate_keys": ["age"],
    "use_rep": "X_rep",
    "n_neighbors": 5,
}
ENTRANCES = {
    "predict": lambda model, cells: model.predict(cells),
    "probabilities": lambda model, cells: model.predict(cells, soft=True),
    "latent": lambda model, cells: model.get_latent_representation(cells),
    "expression": lambda model, cells: model.get_normalized_expression(cells),
    "summary": lambda model, cells: model.get_cluster_summary(cells),
    "out of reference": lambda model, cells: model.get_out_of_reference_score(cells),
    "write": lambda model, cells: model.write_to_adata(cells),
    "query": lambda model, cells: SCSiameseClu.load_query_data(cells, model, accelerator="cpu"),
    "set-up": lambda model, cells: SCSiameseClu.setup_anndata(cells, **SETUP),
}


def cells(n_obs=80, seed=0):
    adata = synthetic(n_obs=n_obs, n_vars=40, n_types=3, n_batches=2, seed=seed)
    rng = np.random.default_rng(seed)
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel() / 100
    adata.obs["site"] = rng.choice(["a", "b"], n_obs)
    adata.obs["age"] = rng.uniform(20.0, 80.0, n_obs)
    adata.obsm["X_rep"] = rng.normal(size=(n_obs, 5)).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    adata = cells()
    SCSiameseClu.setup_anndata(adata, **SETUP)
    model = SCSiameseClu(adata, n_clusters=3, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


def put(column, value):
    def change(adata):
        values = adata.obs[column].astype(object)
        values.iloc[3] = value
        adata.obs[column] = values if isinstance(value, str | None) else values.astype(float)

    return change


def spoil_rep(adata):
    adata.obsm["X_rep"][3, 2] = np.nan


def spoil_counts(adata):
    adata.X.data[0] = np.nan


FAULTS = {
    "covariate missing": (put("age", np.nan), r"obs\['age'\]: expected finite numbers"),
    "covariate infinite": (put("age", np.inf), r"obs\['age'\]: expected finite numbers"),
    "size factor missing": (put("size", np.nan), r"obs\['size'\]: expected positive numbers"),
    "size factor of 0": (put("size", 0.0), r"obs\['size'\]: expected positive numbers"),
    "batch missing": (put("batch", None), r"Expected a batch for every cell, found 1 missing"),
    "covariate category missing": (put("site", None), r"Expected a category for every cell, found 1 missing"),
    "representation not finite": (spoil_rep, r"obsm\['X_rep'\]: expected a finite representation"),
    "counts not finite": (spoil_counts, "Expected finite counts of at least 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_values_are_checked_at_every_entrance(model, entrance, fault):
    new = cells(30, seed=1)
    change, message = FAULTS[fault]
    change(new)
    with pytest.raises(ValueError, match=message):
        ENTRANCES[entrance](model, new)
    assert "siamese_clu" not in new.obs


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_columns_are_asked_for_at_every_entrance(model, entrance):
    for column in ("age", "size", "batch", "site"):
        new = cells(30, seed=1)
        del new.obs[column]
        with pytest.raises(KeyError, match=column):
            ENTRANCES[entrance](model, new)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_values_that_are_no_counts_are_warned_about_at_every_entrance(model, entrance):
    new = cells(30, seed=1)
    new.X = np.log1p(new.X.toarray() * 3.3)
    with pytest.warns(UserWarning, match="Expected raw integer counts"):
        ENTRANCES[entrance](model, new)


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "set-up"])
def test_labels_may_be_missing_at_every_entrance(model, entrance):
    new = cells(30, seed=1)
    put("cell_type", None)(new)
    ENTRANCES[entrance](model, new)
    new = cells(30, seed=1)
    del new.obs["cell_type"]
    ENTRANCES[entrance](model, new)


def test_some_labels_may_be_missing_at_set_up(model):
    few, all_known = cells(), cells()
    put("cell_type", None)(few)
    embedded = []
    for adata in (few, all_known):
        scvi.settings.seed = 0
        SCSiameseClu.setup_anndata(adata, **SETUP)
        trained = SCSiameseClu(adata, n_clusters=3, n_latent=4, n_hidden=8)
        trained.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
        embedded.append(trained.get_latent_representation())
        assert len(trained.predict(cells(30, seed=1))) == 30
    assert np.array_equal(*embedded)


@pytest.mark.parametrize(
    "entrance", ["predict", "probabilities", "latent", "summary", "out of reference", "write", "expression"]
)
def test_nothing_that_is_not_finite_leaves_the_model(model, entrance):
    weights = {key: value.clone() for key, value in model.module.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.fill_(float("nan"))
        with pytest.raises(ValueError, match="found NaN or infinite values for cell"):
            ENTRANCES[entrance](model, None)
    finally:
        model.module.load_state_dict(weights)


def test_proteins_are_checked_too():
    rna = cells()
    protein = synthetic(n_obs=80, n_vars=6, n_types=3, seed=4)
    protein.X = protein.X.toarray()
    protein.obs_names = rna.obs_names
    setup = {"batch_key": "batch", "continuous_covariate_keys": ["age"], "n_neighbors": 5}
    modalities = {
        "rna_layer": "rna",
        "protein_layer": "protein",
        "batch_key": "rna",
        "continuous_covariate_keys": "rna",
    }
    mdata = mudata.MuData({"rna": rna, "protein": protein})
    SCSiameseClu.setup_mudata(mdata, **setup, modalities=modalities)
    model = SCSiameseClu(mdata, n_clusters=3, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    calls = {name: ENTRANCES[name] for name in ("predict", "latent", "query", "write")}
    calls["proteins"] = lambda model, new: model.get_protein_expression(new)
    for name, call in calls.items():
        for spoil, message in (
            (lambda new: put("age", np.nan)(new["rna"]), "expected finite numbers"),
            (lambda new: put("batch", None)(new["rna"]), "Expected a batch for every cell"),
            (lambda new: new["protein"].X.__setitem__((0, 0), np.inf), "Expected finite protein values"),
        ):
            new = mdata[:30].copy()
            spoil(new)
            with pytest.raises(ValueError, match=message):
                call(model, new)
        new = mudata.MuData({"rna": rna[:30].copy(), "protein": protein[:30].copy()})
        new["rna"].X = np.log1p(new["rna"].X.toarray() * 3.3)
        with pytest.warns(UserWarning, match="Expected raw integer counts"):
            call(model, new)
        assert name
