"""Getters on data with more genes than the model has, or with its genes in another order."""

import gc
import pickle
from functools import partial

import numpy as np
import pytest
import scvi
from anndata import AnnData, read_h5ad

from scsiameseclu._copied_results import copy_results
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp._genes import copy_of_genes
from scsiameseclu.tl import cluster

SHORT = {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False}
N_CELLS = 150


def made(**options):
    """Data with all genes, and a model of some of the genes, as ``tl.cluster`` makes them."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=N_CELLS, n_vars=80, n_types=3, n_batches=2, seed=0)
    rng = np.random.default_rng(0)
    adata.obs["age"] = rng.normal(size=N_CELLS)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_given"] = rng.normal(size=(N_CELLS, 5)).astype(np.float32)
    return adata, cluster(adata, 3, n_top_genes=40, n_neighbors=6, train_kwargs=SHORT, **options)


def n_known(model):
    """Number of data sets that the model has registered."""
    return len(type(model)._per_instance_manager_store[model.id])


@pytest.fixture(scope="module")
def clustered():
    return made()


GETTERS = {
    "labels": lambda model, adata: model.predict(adata).to_numpy().astype(str),
    "probabilities": lambda model, adata: model.predict(adata, soft=True).to_numpy(),
    "embedding": lambda model, adata: model.get_latent_representation(adata),
    "score": lambda model, adata: model.get_out_of_reference_score(adata).to_numpy(),
    "expression": lambda model, adata: model.get_normalized_expression(adata).to_numpy(),
    "likelihood": lambda model, adata: model.get_reconstruction_error(adata, return_mean=False)["reconstruction_loss"],
    "summary": lambda model, adata: model.get_cluster_summary(adata).to_numpy(),
    "uncertain": lambda model, adata: model.get_uncertain_cells(adata).index.to_numpy().astype(str),
}


@pytest.mark.parametrize("getter", GETTERS.values(), ids=GETTERS)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["all genes", "another order"])
def test_getters_find_their_genes_by_name(clustered, getter, order):
    adata, model = clustered
    given = adata if order == slice(None) else adata[:, order].copy()
    before = (list(given.obs), list(given.obsm), list(given.uns), list(given.obsp))
    found = getter(model, given)
    np.testing.assert_array_equal(found, getter(model, None))
    assert before == (list(given.obs), list(given.obsm), list(given.uns), list(given.obsp))


OPTIONS = {
    "batches": {"batch_key": "batch"},
    "a layer": {"layer": "counts"},
    "a representation": {"use_rep": "X_given"},
    "covariates": {"setup_kwargs": {"continuous_covariate_keys": ["age"]}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_copy_has_what_the_model_was_set_up_with(options):
    adata, model = made(**options)
    given = adata[:, ::-1].copy()
    np.testing.assert_array_equal(model.get_latent_representation(given), model.get_latent_representation())


def test_the_data_of_tl_cluster_and_of_load_are_known_already(tmp_path):
    adata, model = made()
    known = n_known(model)
    model.predict(adata)
    model.predict(adata, indices=[3])
    assert n_known(model) == known
    model.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=adata, accelerator="cpu")
    known = n_known(loaded)
    assert (loaded.predict(adata) == model.predict()).all()
    assert n_known(loaded) == known


def test_a_copy_is_made_once_and_goes_with_its_original(clustered):
    adata, model = clustered
    gc.collect()
    model.predict(adata)  # removes the copies of other tests
    known, given = n_known(model), adata[:, ::-1].copy()
    for _ in range(3):
        model.predict(given)
    assert n_known(model) == known + 1
    del given
    gc.collect()
    model.predict(adata)
    assert n_known(model) == known


@pytest.mark.parametrize("change", ["counts", "covariate"])
def test_a_change_of_the_data_is_seen(change):
    adata, model = made(setup_kwargs={"continuous_covariate_keys": ["age"]})
    given, unchanged = adata[:, ::-1].copy(), model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(given), unchanged)
    for data in (given, adata):
        known = n_known(model)
        if change == "counts":
            data.X = data.X[np.random.default_rng(0).permutation(N_CELLS)]
        else:
            data.obs["age"] = data.obs["age"].to_numpy()[::-1] * 5
        assert (model.get_latent_representation(data) != unchanged).any()
        assert n_known(model) <= known + 1
    np.testing.assert_array_equal(model.get_latent_representation(), unchanged)


def test_the_own_copy_does_not_change_with_the_data():
    adata, model = made(use_rep="X_given")
    unchanged = model.get_latent_representation()
    adata.obsm["X_given"][:] = adata.obsm["X_given"][::-1].copy()
    np.testing.assert_array_equal(model.get_latent_representation(), unchanged)
    assert (model.get_latent_representation(adata) != unchanged).any()


@pytest.mark.parametrize("as_view", [False, True])
def test_results_are_written_where_the_user_looks(clustered, as_view):
    adata, model = clustered
    labels = model.predict()
    given = adata[20:, ::-1] if as_view else adata[20:, ::-1].copy()
    model.write_to_adata(given, "again")
    assert (given.obs["again"] == labels[20:]).all()
    assert given.obsm["X_again"].shape == (N_CELLS - 20, 32) and "n_clusters" in given.uns["again"]
    assert given.n_vars == 80 and "again" not in adata.obs and "again" not in model.adata.obs


def test_groups_for_differential_expression_are_those_of_the_data_given(clustered):
    adata, model = clustered
    model.adata.obs["half"] = "mine"
    adata.obs["half"] = np.repeat(["first", "second"], N_CELLS // 2)
    found = model.differential_expression(adata, groupby="half", silent=True)
    assert set(found["group1"]) == {"first", "second"} and len(found) == 80
    assert (model.adata.obs["half"] == "mine").all()
    with pytest.raises(KeyError, match="found 'nothing'"):
        model.differential_expression(adata, groupby="nothing")


@pytest.mark.parametrize("of_clustering", [True, False])
def test_queries_for_differential_expression_read_the_data_given(clustered, of_clustering):
    adata, model = clustered
    given = adata if of_clustering else adata[:, ::-1].copy()
    model.predict(given)
    first, second = (np.asarray(model.adata.X[start::2].mean(axis=0)).ravel() for start in (0, 1))
    for halves, means in ((["a", "b"], (first, second)), (["b", "a"], (second, first))):
        given.obs["half"] = np.tile(halves, N_CELLS // 2)
        for query in ({"idx1": "half == 'a'"}, {"idx1": "half == 'a'", "idx2": "half == 'b'"}):
            found = model.differential_expression(given, silent=True, **query).loc[model.adata.var_names]
            np.testing.assert_allclose(found["raw_mean1"], means[0], rtol=1e-5)
            np.testing.assert_allclose(found["raw_mean2"], means[1], rtol=1e-5)
        given.obs["third"] = np.repeat(["x", "y", "z"], N_CELLS // 3)
        options = {"groupby": "third", "group1": "x", "group2": "y", "subset_idx": "half == 'a'"}
        found = model.differential_expression(given, silent=True, **options).loc[model.adata.var_names]
        chosen = ((given.obs["half"] == "a") & (given.obs["third"] == "x")).to_numpy()
        np.testing.assert_allclose(found["raw_mean1"], model.adata.X[chosen].mean(axis=0).A1, rtol=1e-5)


def test_a_model_that_has_met_other_genes_can_be_pickled(clustered):
    adata, model = clustered
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(adata) == model.predict(adata)).all()


def test_genes_of_one_name_are_not_told_apart():
    adata = synthetic(n_obs=60, n_vars=20, n_types=2, seed=0)
    more = adata.copy()
    adata.var_names = ["twice", "twice", *adata.var_names[2:]]
    more.var_names = ["twice", "other", *more.var_names[2:]]
    with pytest.warns(UserWarning, match="more than once"):
        SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2)
    with pytest.raises(ValueError, match="more than once"):
        model._with_own_genes(more)
    assert model._with_own_genes(adata) is adata


def test_data_on_disk_are_not_copied(clustered, tmp_path):
    adata, model = clustered
    AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]]).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="Expected the 40 genes the model was set up with, in their order"):
        model.predict(read_h5ad(tmp_path / "cells.h5ad", backed="r"))


def test_a_copy_of_genes_has_the_graph_that_was_asked_for():
    adata = synthetic(n_obs=20, n_vars=6, n_types=2, seed=0)
    adata.obsm["X_own"], adata.obsm["X_other"] = np.ones((20, 2)), np.ones((20, 2))
    adata.obsp["near"], adata.obsp["far"], adata.obsp["other"] = (np.eye(20) * factor for factor in (1, 2, 3))
    params = {"params": {"use_rep": "X_own"}}
    adata.uns["graph"] = {"connectivities_key": "near", "distances_key": "far", **params}
    copy = copy_of_genes(adata, np.array([3, 1]), neighbors_key="graph")
    assert list(copy.var_names) == list(adata.var_names[[3, 1]])
    assert (set(copy.uns), set(copy.obsp), set(copy.obsm)) == ({"graph"}, {"near", "far"}, {"X_own"})
    assert not copy_of_genes(adata, np.array([3, 1])).uns


def test_data_with_the_genes_of_the_model_are_taken_as_they_are(clustered):
    _, model = clustered
    assert model._with_own_genes(model.adata) is model.adata


def test_results_are_copied_to_the_same_cells_only(clustered):
    adata, model = clustered
    model.write_to_adata(adata, "own")
    for name in ("own", "own_confidence"):
        assert (adata.obs[name] == model.adata.obs[name]).all()
    for name in ("X_own", "own_probs"):
        np.testing.assert_array_equal(adata.obsm[name], model.adata.obsm[name])
    for name in ("siamese_clu_connectivities", "siamese_clu_distances"):
        assert abs(adata.obsp[name] - model.adata.obsp[name]).max() == 0
    assert adata.uns["own"] == model.adata.uns["own"]
    with pytest.raises(ValueError, match="Expected the same cells in the same order"):
        copy_results(model.adata, adata[::-1].copy(), "own")


def test_missing_genes_are_still_refused(clustered):
    adata, model = clustered
    with pytest.raises(ValueError, match="[Nn]umber of vars|genes"):
        model.predict(adata[:, :30].copy())


def test_results_are_written_to_the_data_the_model_was_made_from():
    adata, model = made()
    model.merge(["0", "1"])
    model.write_to_adata(key_added="coarse")
    assert (adata.obs["coarse"] == model.predict()).all() and "coarse" in model.adata.obs
    adata._inplace_subset_obs(np.arange(100))
    model.write_to_adata(key_added="other")
    assert "other" in model.adata.obs and "other" not in adata.obs


def test_unknown_genes_and_other_kinds_of_data_are_named(clustered):
    adata, model = clustered
    dropped = adata.var_names.difference(model.adata.var_names)[0]
    with pytest.raises(KeyError, match=rf"among the 40 genes of the model .*found \['{dropped}'\]"):
        model.get_normalized_expression(adata, gene_list=[dropped])
    for getter in (model.predict, model.get_latent_representation, model.differential_expression):
        with pytest.raises(TypeError, match="Expected an AnnData or MuData, found csr_matrix"):
            getter(adata.X)


OTHERS = {
    "genes of other names": lambda model, adata: [f"other_{number}" for number in range(40)],
    "other genes, as many": lambda model, adata: [*model.adata.var_names[:-1], "other"],
    "lower case": lambda model, adata: model.adata.var_names.str.upper(),
}


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("names", OTHERS.values(), ids=OTHERS)
def test_other_genes_in_the_same_number_are_refused(clustered, tmp_path, names, backed):
    adata, model = clustered
    model.save(tmp_path / "model")
    given = model.adata.copy()
    given.var_names = names(model, adata)
    given.uns.clear()
    if backed:
        given.write_h5ad(tmp_path / "cells.h5ad")
        given = read_h5ad(tmp_path / "cells.h5ad", backed="r")
    write = partial(model.write_to_adata, key_added="new")
    for getter in (model.predict, model.get_latent_representation, write, model.differential_expression):
        with pytest.raises(ValueError, match=r"Expected the 40 genes the model was set up with .*, found (0|39) of"):
            getter(given)
    with pytest.raises(ValueError, match="Expected the 40 genes"):
        SCSiameseClu.load(tmp_path / "model", adata=given, accelerator="cpu")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=False, accelerator="cpu")
    with pytest.raises(ValueError, match="Expected the 40 genes"):
        loaded.predict(given)


def test_backed_data_are_not_reordered(clustered, tmp_path):
    adata, model = clustered
    model.adata[:, ::-1].copy().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="in their order.*to_memory"):
        model.predict(read_h5ad(tmp_path / "cells.h5ad", backed="r"))


def test_names_are_checked_in_the_data_that_are_written_to(clustered):
    adata, model = clustered
    given = adata[:, ::-1].copy()
    given.obs["taken"] = 1.0
    with pytest.raises(ValueError, match="expected a name that is free"):
        model.write_to_adata(given, "taken")
    assert (given.obs["taken"] == 1.0).all()


def test_a_changed_copy_takes_the_place_of_the_former_one():
    adata, model = made()
    given = adata[:, ::-1].copy()
    model.predict(given)
    known = n_known(model)
    for seed in range(3):
        given.X = given.X[np.random.default_rng(seed).permutation(N_CELLS)]
        model.predict(given)
    assert n_known(model) == known
