import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_impossible_counts_are_located(adata, bad):
    adata.X = adata.X.toarray()
    adata.X[7, 5] = bad
    with pytest.raises(ValueError, match=adata.obs_names[7]):
        SCSiameseClu.setup_anndata(adata)


def test_fractions_are_warned_about(adata):
    adata.X = adata.X * 0.5
    with pytest.warns(UserWarning, match="integer|count"):
        SCSiameseClu.setup_anndata(adata)


@pytest.mark.parametrize(
    "key",
    ["batch_key", "labels_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys"],
)
def test_missing_columns_are_named_with_the_available_ones(adata, key):
    value = ["nothing"] if key.endswith("keys") else "nothing"
    with pytest.raises(KeyError, match="nothing.*cell_type"):
        SCSiameseClu.setup_anndata(adata, **{key: value})


def test_missing_layer_and_representation(adata):
    adata.layers["raw"] = adata.X
    with pytest.raises(KeyError, match="counts.*raw"):
        SCSiameseClu.setup_anndata(adata, layer="counts")
    with pytest.raises(KeyError, match="X_scVI"):
        SCSiameseClu.setup_anndata(adata, use_rep="X_scVI")


def test_cells_without_a_batch_are_counted(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.loc[adata.obs_names[:3], "batch"] = np.nan
    with pytest.raises(ValueError, match="3 missing values"):
        SCSiameseClu.setup_anndata(adata, batch_key="batch")


@pytest.mark.parametrize("settings", [{"batch_key": "mixed"}, {"categorical_covariate_keys": ["mixed"]}])
def test_text_and_numbers_are_no_categories_of_one_column(adata, settings):
    adata.obs["mixed"] = pd.Series(
        [1, "one"] * (adata.n_obs // 2) + [1] * (adata.n_obs % 2), adata.obs_names, dtype=object
    )
    with pytest.raises(TypeError, match=r"'mixed'\]: expected categories of one kind.*int, str"):
        SCSiameseClu.setup_anndata(adata, **settings)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size_factor_key", 0.0, "expected positive numbers"),
        ("size_factor_key", np.nan, "expected positive numbers"),
        ("continuous_covariate_keys", np.inf, "expected finite numbers"),
    ],
)
def test_unusable_numbers_are_located(adata, key, value, message):
    adata.obs["number"] = 1.0
    adata.obs.loc[adata.obs_names[4], "number"] = value
    with pytest.raises(ValueError, match=f"{message}.*{adata.obs_names[4]}"):
        SCSiameseClu.setup_anndata(adata, **{key: ["number"] if key.endswith("keys") else "number"})


def test_views_are_refused_and_left_alone(adata):
    view = adata[:100]
    with pytest.raises(ValueError, match=r"adata\.copy"):
        SCSiameseClu.setup_anndata(view)
    assert view.is_view


def test_backed_columns_are_refused(adata, tmp_path):
    adata.X = sparse.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(NotImplementedError, match=r"found CSC.*CSR"):
        SCSiameseClu.setup_anndata(anndata.read_h5ad(tmp_path / "a.h5ad", backed="r"))


def test_wrong_object_single_gene_and_single_cell(adata):
    with pytest.raises(TypeError, match="DataFrame"):
        SCSiameseClu.setup_anndata(pd.DataFrame())
    with pytest.raises(ValueError, match="2 genes"):
        SCSiameseClu.setup_anndata(adata[:, :1].copy())
    with pytest.raises(ValueError, match="2 cells"):
        SCSiameseClu.setup_anndata(adata[:1].copy())


def test_not_set_up(adata):
    with pytest.raises(ValueError, match="setup_anndata"):
        SCSiameseClu(adata)


@pytest.mark.parametrize("n_clusters", [0, -3])
def test_too_few_clusters(setup_adata, n_clusters):
    with pytest.raises(ValueError, match="at least 1"):
        SCSiameseClu(setup_adata, n_clusters=n_clusters)


@pytest.mark.parametrize("n_clusters", [3.0, "8", True, None])
def test_number_of_clusters_must_be_an_integer_or_auto(setup_adata, n_clusters):
    with pytest.raises(TypeError, match="'auto' or an integer"):
        SCSiameseClu(setup_adata, n_clusters=n_clusters)


def test_as_many_clusters_as_cells(setup_adata):
    with pytest.raises(ValueError, match="at least 201 cells"):
        SCSiameseClu(setup_adata, n_clusters=200)


def test_too_few_training_cells(setup_adata, small, quick):
    model = SCSiameseClu(setup_adata, n_clusters=30, **small)
    with pytest.raises(ValueError, match="at least 31 cells"):
        model.train(train_size=0.1, **quick)


def test_numpy_integers_are_stored_as_plain_ones(setup_adata, small):
    model = SCSiameseClu(setup_adata, n_clusters=np.int64(3), **small)
    assert type(model.init_params_["non_kwargs"]["n_clusters"]) is int


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "int64", "float64"])
def test_every_kind_of_matrix_gives_the_same_latent(trained, kind):
    reference = synthetic(n_obs=200, n_vars=80, n_types=3, n_batches=2, seed=0)
    adata = reference.copy()
    convert = {
        "dense": lambda x: x.toarray(),
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "int64": lambda x: x.astype(np.int64),
        "float64": lambda x: x.astype(np.float64),
    }
    adata.X = convert[kind](adata.X)
    latent = trained.get_latent_representation(adata)
    assert np.allclose(latent, trained.get_latent_representation(), atol=1e-4)


def test_counts_in_a_layer(adata, trained):
    import scvi

    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.astype(np.float32).log1p()
    SCSiameseClu.setup_anndata(adata, layer="counts", batch_key="batch")
    scvi.settings.seed = 0
    from_layer = SCSiameseClu(adata, n_clusters=3)
    mean = from_layer.module.expression_scaler.mean
    assert np.allclose(mean, trained.module.expression_scaler.mean, atol=1e-5)


def test_covariates_reach_the_network(adata, small, quick):
    adata.obs["donor"] = np.resize(["a", "b", "c"], adata.n_obs)
    adata.obs["score"] = np.linspace(0, 1, adata.n_obs)
    adata.obs["sf"] = np.asarray(adata.X.sum(axis=1)).ravel() / 100
    SCSiameseClu.setup_anndata(
        adata,
        batch_key="batch",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["score"],
        size_factor_key="sf",
    )
    model = SCSiameseClu(adata, n_clusters=3, **small)
    # 80 genes, 2 batches, 3 donors, 1 score
    assert model.module.expression_encoder.hidden.fc_layers[0][0].in_features == 86
    model.train(max_epochs=2, **quick)
    total = model.get_normalized_expression(library_size="latent", return_numpy=True).sum(axis=1)
    # Size factors are scaled so that their median equals the library size; here they are the library sizes.
    assert np.allclose(total, adata.obs["sf"] * 100, rtol=1e-3)


def test_size_factors_in_any_unit_give_the_same_input(adata):
    library = np.asarray(adata.X.sum(axis=1)).ravel()
    means = []
    for unit in (1.0, 1e-3):
        data = adata.copy()
        data.obs["sf"] = library * unit
        SCSiameseClu.setup_anndata(data, size_factor_key="sf")
        means.append(SCSiameseClu(data, n_clusters=3).module.expression_scaler.mean)
    assert np.allclose(*means, atol=1e-5)


def test_repr_tells_the_state(setup_adata, trained):
    untrained = repr(SCSiameseClu(setup_adata))
    assert "not trained" in untrained
    assert "clusters: auto" in untrained
    assert "200 cells x 80 genes" in untrained
    assert "not trained" not in repr(trained)
    assert "clusters: 3" in repr(trained)
