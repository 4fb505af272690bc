"""RNA and surface proteins of the same cells."""

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp._joint import centred_log

PROTEINS = [f"CD{i}" for i in range(1, 7)]


def make_mdata(n_obs=120, seed=0, n_vars=40):
    """Two types by RNA; the proteins split each type in two: one of two pairs of proteins is high."""
    rna = synthetic(n_obs=n_obs, n_vars=n_vars, n_types=2, n_batches=2, seed=seed)
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 2, n_obs)
    mean = np.full((n_obs, 6), 5.0)
    mean[half == 0, :2] = 60.0
    mean[half == 1, 2:4] = 60.0
    counts = rng.poisson(mean * rng.gamma(10, 0.1, (n_obs, 1))).astype(np.float32)
    protein = AnnData(counts, obs=pd.DataFrame(index=rna.obs_names), var=pd.DataFrame(index=PROTEINS))
    mdata = MuData({"rna": rna, "protein": protein})
    mdata.obs["batch"] = rna.obs["batch"].to_numpy()
    mdata.obs["half"] = half
    return mdata


@pytest.fixture
def mdata():
    return make_mdata()


def train(mdata, quick, small):
    scvi.settings.seed = 0
    SCSiameseClu.setup_mudata(mdata, batch_key="batch")
    model = SCSiameseClu(mdata, n_clusters=4, **small)
    model.train(max_epochs=40, batch_size=60, **quick)
    return model


@pytest.fixture(scope="module")
def model(quick, small):
    return train(make_mdata(), quick, small)


@pytest.fixture(scope="module")
def reference(quick, small):
    """Model of some of the cells of a simulation."""
    return train(make_mdata(n_obs=180)[:120].copy(), quick, small)


@pytest.fixture
def held_out():
    """The other cells of the simulation."""
    return make_mdata(n_obs=180)[120:].copy()


@pytest.fixture(scope="module")
def soft(model):
    return model.predict(soft=True)


def test_shares_of_the_joint_space(mdata):
    SCSiameseClu.setup_mudata(mdata, protein_weight=0.3)
    model = SCSiameseClu(mdata)
    rep = model.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)
    state = model.registry["field_registries"]["siamese_cell_graph"]["state_registry"]
    n_rna = state["joint"]["rna"]["components"].shape[1]
    assert rep.shape == (120, n_rna + 6)
    assert rep[:, :n_rna].var(axis=0).sum() == pytest.approx(0.7, rel=1e-3)
    assert rep[:, n_rna:].var(axis=0).sum() == pytest.approx(0.3, rel=1e-3)
    logs = centred_log(mdata["protein"].X)
    expected = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    assert np.allclose(model.adata_manager.get_from_registry(SIAMESE_KEYS.PROTEIN_REP), expected, atol=1e-3)


def test_neighbors_agree_in_what_only_proteins_tell(mdata):
    def agreement(data):
        half = mdata.obs["half"].to_numpy()
        index = SCSiameseClu(data, n_clusters=2).adata_manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX)
        return (half[index] == half[:, None]).mean()

    SCSiameseClu.setup_mudata(mdata)
    SCSiameseClu.setup_anndata(mdata["rna"])
    assert agreement(mdata) > 0.95
    assert agreement(mdata["rna"]) < 0.7


def test_clusters_see_the_proteins(model):
    table = pd.crosstab(model.predict().to_numpy(), model.adata.obs["half"].to_numpy())
    assert table.max(axis=1).sum() / 120 > 0.9
    assert "protein_train" in model.history
    assert model.history["protein_train"].iloc[-1, 0] < model.history["protein_train"].iloc[0, 0]
    assert "6 proteins" in repr(model)


def test_getters(model, soft):
    assert list(soft.index) == list(model.adata.obs_names)
    genes = model.get_normalized_expression(gene_list=list(model.adata["rna"].var_names[:3]), indices=[4, 2])
    assert list(genes.columns) == list(model.adata["rna"].var_names[:3])
    proteins = model.get_protein_expression()
    assert list(proteins.columns) == PROTEINS
    observed = np.log1p(model.adata["protein"].X)
    assert np.corrcoef(np.log1p(proteins.to_numpy()).ravel(), observed.ravel())[0, 1] > 0.8
    part = model.get_protein_expression(indices=[5, 1], protein_list=["CD3", "CD1"], return_numpy=True)
    assert np.allclose(part, proteins.iloc[[5, 1], [2, 0]], rtol=1e-4)
    batches = list(model.adata.obs["batch"].unique())
    each = [model.get_protein_expression(transform_batch=batch, return_numpy=True) for batch in batches]
    both = model.get_protein_expression(transform_batch=batches, return_numpy=True)
    assert np.allclose(both, np.mean(each, axis=0), rtol=1e-4)
    with pytest.raises(KeyError, match="CD99"):
        model.get_protein_expression(protein_list=["CD99"])


def test_written_saved_and_loaded(model, soft, tmp_path):
    model.write_to_adata()
    assert list(model.adata.obs["siamese_clu"].cat.categories) == sorted(model.adata.obs["siamese_clu"].unique())
    assert model.adata.uns["siamese_clu"]["params"]["protein_weight"] == 0.5
    model.save(tmp_path / "model", save_anndata=True)
    loaded = SCSiameseClu.load(tmp_path / "model", accelerator="cpu")
    assert isinstance(loaded.adata, MuData)
    assert np.allclose(loaded.predict(soft=True), soft, atol=1e-5)
    again = SCSiameseClu.load(tmp_path / "model", adata=make_mdata(), accelerator="cpu")
    assert np.allclose(again.predict(soft=True), soft, atol=1e-5)
    bare = SCSiameseClu.load(tmp_path / "model", adata=False, accelerator="cpu")
    assert "no data attached" in repr(bare)
    assert np.allclose(bare.predict(make_mdata(), soft=True), soft, atol=1e-5)


def test_query_with_missing_and_shuffled_features(reference, held_out, quick):
    query = held_out.copy()
    full = SCSiameseClu.load_query_data(query.copy(), reference, accelerator="cpu").predict().to_numpy()
    reduced = MuData({"rna": query["rna"][:, ::-1][:, 1:].copy(), "protein": query["protein"][:, ::-1][:, 1:].copy()})
    reduced.obs = query.obs.copy()
    with pytest.raises(ValueError, match="prepare_query_mudata"):
        reference.predict(reduced.copy())
    ready = SCSiameseClu.prepare_query_mudata(reduced, reference, inplace=False)
    mapped = SCSiameseClu.load_query_data(ready, reference, accelerator="cpu")
    # CD6 was left out, so CD6 is not measured in any cell of the query.
    values = mapped.adata_manager.get_from_registry(SIAMESE_KEYS.PROTEIN)
    assert np.isnan(values[:, 5]).all()
    assert not np.isnan(values[:, :5]).any()
    assert (mapped.predict().to_numpy() == full).mean() > 0.8
    mapped.train(max_epochs=1, **quick)
    assert np.isfinite(mapped.history["protein_train"].iloc[-1, 0])


def test_query_with_unknown_names_or_damaged_counts_is_refused(reference, held_out):
    query = held_out.copy()
    query["rna"].var_names = query["rna"].var_names + ".7"
    with pytest.raises(ValueError, match="would match without the version suffix .* If these are the same genes"):
        SCSiameseClu.load_query_data(query, reference, accelerator="cpu")
    rna = held_out["rna"][:, ::-1].copy()
    rna.X = sparse.csr_matrix(rna.X)
    rna.X.indices[3] = 10**8
    query = MuData({"rna": rna, "protein": held_out["protein"].copy()})
    with pytest.raises(ValueError, match="found 100000000 .* the matrix is damaged"):
        SCSiameseClu.load_query_data(query, reference, accelerator="cpu")


@pytest.mark.parametrize("rows", [slice(None), slice(0, 60), [7]], ids=["all", "some", "one"])
def test_reference_cells_passed_again_keep_their_embedding(model, rows):
    again = SCSiameseClu.load_query_data(make_mdata()[rows].copy(), model, accelerator="cpu")
    difference = again.get_latent_representation() - model.get_latent_representation()[rows]
    assert np.abs(difference).max() < 1e-5


def test_a_cell_is_mapped_the_same_in_any_company(reference, held_out):
    together = SCSiameseClu.load_query_data(held_out.copy(), reference, accelerator="cpu").get_latent_representation()
    few = SCSiameseClu.load_query_data(held_out[5:8].copy(), reference, accelerator="cpu").get_latent_representation()
    assert np.abs(few - together[5:8]).max() < 1e-5


def test_a_protein_that_is_0_means_the_same_in_any_company(reference, held_out):
    """The query has only cells with 0 of a protein, or also other cells, or only a few cells with 0."""
    silent = held_out["protein"].X[:, 1] == 0
    held_out["protein"].X[:30, 1] = 0.0
    rows = np.flatnonzero(silent | (np.arange(60) < 30))
    assert len(rows) >= 30
    for batch in ("new", held_out.obs["batch"].iloc[0]):
        held_out.obs["batch"] = batch
        together, alone, few = (
            SCSiameseClu.load_query_data(
                held_out[part].copy(), reference, accelerator="cpu"
            ).get_latent_representation()
            for part in (np.arange(60), rows, rows[:5])
        )
        assert np.abs(alone - together[rows]).max() < 1e-5
        assert np.abs(few - together[rows[:5]]).max() < 1e-5


def test_a_protein_that_a_query_lacks_was_not_measured_in_it(reference, held_out):
    names = held_out["protein"].var_names
    without = MuData({"rna": held_out["rna"].copy(), "protein": held_out["protein"][:, names != names[2]].copy()})
    without.obs["batch"] = held_out.obs["batch"]
    mapped = SCSiameseClu.load_query_data(without, reference, accelerator="cpu")
    held_out["protein"].X[:, 2] = np.nan
    expected = SCSiameseClu.load_query_data(held_out, reference, accelerator="cpu")
    assert np.allclose(mapped.predict(soft=True), expected.predict(soft=True), atol=1e-5)
    assert np.isnan(mapped.adata["protein"].X[:, 2]).all()


def test_proteins_a_batch_of_the_reference_lacks_are_known_later(small, quick):
    mdata = make_mdata()
    first = (mdata.obs["batch"] == mdata.obs["batch"].iloc[0]).to_numpy()
    mdata["protein"].X[first, 4] = 0.0
    SCSiameseClu.setup_mudata(mdata, batch_key="batch")
    model = SCSiameseClu(mdata, n_clusters=3, **small)
    model.train(max_epochs=1, **quick)
    names = model.reference.measured_proteins.batches
    expected = np.ones((2, 6), dtype=bool)
    expected[names.index(mdata.obs["batch"].iloc[0]), 4] = False
    assert np.array_equal(model.reference.measured_proteins.measured, expected)
    few = SCSiameseClu.load_query_data(mdata[np.flatnonzero(first)[:3]].copy(), model, accelerator="cpu")
    assert np.isnan(few.adata_manager.get_from_registry(SIAMESE_KEYS.PROTEIN)[:, 4]).all()
    assert (
        np.abs(few.get_latent_representation() - model.get_latent_representation()[np.flatnonzero(first)[:3]]).max()
        < 1e-3
    )


def test_adapting_a_query_leaves_the_reference_known(reference, held_out, quick):
    query = held_out.copy()
    query.obs["batch"] = "new"
    mapped = SCSiameseClu.load_query_data(query, reference, accelerator="cpu")
    assert mapped.summary_stats.n_batch == 3
    mapped.train(max_epochs=1, **quick)
    assert len(mapped.predict()) == 60
    assert np.array_equal(mapped.reference.latent, reference.reference.latent)


def test_queries_that_cannot_be_mapped(model):
    def refused(query, error, message):
        with pytest.raises(error, match=message):
            SCSiameseClu.load_query_data(query, model, accelerator="cpu")

    query = make_mdata(n_obs=40, seed=8)
    refused(query["rna"].copy(), TypeError, "Expected a MuData like the data of the model, found AnnData.*NaN")
    refused(query[:0].copy(), ValueError, "at least one cell")
    query.obs["batch"] = 3
    refused(query, TypeError, "'batch'.*found \\[3\\] where the model's data have")


def test_query_without_proteins(reference, held_out):
    query = held_out.copy()
    both = SCSiameseClu.load_query_data(query.copy(), reference, accelerator="cpu").predict().to_numpy()
    query["protein"].X = np.full_like(query["protein"].X, np.nan)
    mapped = SCSiameseClu.load_query_data(query, reference, accelerator="cpu").predict().to_numpy()
    types = query["rna"].obs["cell_type"].to_numpy()
    # The RNA still separates the types: with proteins, every cluster of the RNA alone is still of one RNA type.
    type_of = pd.crosstab(both, types).idxmax(axis=1)
    assert (type_of.loc[mapped].to_numpy() == types).mean() > 0.9


def test_changed_proteins_are_noticed(mdata, model):
    before = model.predict(mdata, soft=True)
    mdata["protein"].X = mdata["protein"].X[:, [2, 3, 0, 1, 4, 5]]
    after = model.predict(mdata, soft=True)
    assert not np.allclose(before, after, atol=1e-2)
    fresh = make_mdata()
    fresh["protein"].X = mdata["protein"].X.copy()
    assert np.allclose(model.predict(fresh, soft=True), after, atol=1e-5)


def test_proteins_not_measured_in_a_batch(mdata, small, quick):
    first = (mdata.obs["batch"] == mdata.obs["batch"].iloc[0]).to_numpy()
    mdata["protein"].X[first, 4] = 0.0
    mdata["protein"].X[3, 0] = np.nan
    SCSiameseClu.setup_mudata(mdata, batch_key="batch")
    model = SCSiameseClu(mdata, n_clusters=3, **small)
    values, scores = (
        model.adata_manager.get_from_registry(key) for key in (SIAMESE_KEYS.PROTEIN, SIAMESE_KEYS.PROTEIN_REP)
    )
    assert np.array_equal(np.isnan(values[:, 4]), first)
    assert np.isnan(values[3, 0])
    assert (scores[first, 4] == 0).all()
    assert scores[3, 0] == 0
    model.train(max_epochs=2, **quick)
    assert np.isfinite(model.predict(soft=True)).all(axis=None)


def test_normalised_proteins(mdata, small, quick):
    counts = mdata["protein"].X.copy()
    mdata["protein"].layers["clr"] = centred_log(counts)
    with pytest.warns(UserWarning, match="normal likelihood"):
        SCSiameseClu.setup_mudata(mdata, protein_layer="clr")
    model = SCSiameseClu(mdata, n_clusters=4, **small)
    assert model.module.protein.likelihood == "normal"
    model.train(max_epochs=6, batch_size=60, **quick)
    decoded = model.get_protein_expression(return_numpy=True)
    assert np.corrcoef(decoded.ravel(), mdata["protein"].layers["clr"].ravel())[0, 1] > 0.7
    other = make_mdata(seed=3)
    other["protein"].layers["clr"] = other["protein"].X
    with pytest.raises(ValueError, match="as normalised values, as at set-up, found counts"):
        model.predict(other)


def test_protein_loss_can_be_switched_off(mdata, small, quick):
    SCSiameseClu.setup_mudata(mdata)
    model = SCSiameseClu(mdata, n_clusters=3, loss_weights={"protein": 0.0}, **small)
    model.train(max_epochs=2, **quick)
    assert "protein_train" not in model.history
    with pytest.raises(ValueError, match="weight 0"):
        model.get_protein_expression()


def test_columns_of_a_modality_and_size_factors(mdata, small):
    mdata["rna"].obs["depth"] = np.asarray(mdata["rna"].X.sum(axis=1)).ravel()
    del mdata.obs["batch"]
    SCSiameseClu.setup_mudata(
        mdata, batch_key="batch", size_factor_key="depth", modalities={"batch_key": "rna", "size_factor_key": "rna"}
    )
    assert SCSiameseClu(mdata, n_clusters=3, **small).summary_stats.n_batch == 2
    with pytest.raises(KeyError, match="depth"):
        SCSiameseClu.setup_mudata(mdata, size_factor_key="depth")


def test_graph_on_a_given_representation(mdata, small):
    mdata.obsm["X_totalVI"] = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    SCSiameseClu.setup_mudata(mdata, use_rep="X_totalVI")
    model = SCSiameseClu(mdata, n_clusters=3, **small)
    assert np.array_equal(model.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP), mdata.obsm["X_totalVI"])
    with pytest.raises(KeyError, match="X_totalVI"):
        SCSiameseClu.load_query_data(make_mdata(seed=2), model, accelerator="cpu")


def test_diffusion_only_if_asked_for(small, quick):
    data = make_mdata(n_obs=90)
    mdata, query = data[:60].copy(), data[60:].copy()
    for diffusion in (True, False):
        SCSiameseClu.setup_mudata(mdata, diffusion=diffusion)
        model = SCSiameseClu(mdata, n_clusters=2, **small)
        assert (SIAMESE_KEYS.DIFFUSED_INDEX in model.adata_manager.data_registry) == diffusion
        model.train(max_epochs=1, **quick)
        mapped = SCSiameseClu.load_query_data(query.copy(), model, accelerator="cpu")
        assert (SIAMESE_KEYS.DIFFUSED_INDEX in mapped.adata_manager.data_registry) == diffusion
        assert len(mapped.predict()) == 30
        mapped.train(max_epochs=1, **quick)


def test_rna_alone_has_no_trace_of_proteins(mdata, small, quick):
    SCSiameseClu.setup_anndata(mdata["rna"])
    model = SCSiameseClu(mdata["rna"], n_clusters=3, **small)
    model.train(max_epochs=1, **quick)
    assert model.module.protein is None
    assert not any("protein" in key for key in [*model.module.state_dict(), *model.history])
    with pytest.raises(ValueError, match="RNA alone"):
        model.get_protein_expression()


def test_unusable_mudata(mdata):
    with pytest.raises(TypeError, match="Expected a MuData, found AnnData"):
        SCSiameseClu.setup_mudata(mdata["rna"])
    with pytest.raises(KeyError, match="adt.*Available"):
        SCSiameseClu.setup_mudata(mdata, modalities={"protein_layer": "adt"})
    with pytest.raises(ValueError, match="rna_lyer"):
        SCSiameseClu.setup_mudata(mdata, modalities={"rna_lyer": "rna"})
    with pytest.raises(KeyError, match="counts"):
        SCSiameseClu.setup_mudata(mdata, rna_layer="counts")
    with pytest.raises(KeyError, match="counts"):
        SCSiameseClu.setup_mudata(mdata, protein_layer="counts")
    with pytest.raises(ValueError, match="protein_weight"):
        SCSiameseClu.setup_mudata(mdata, protein_weight=1.0)
    with pytest.raises(ValueError, match="view"):
        SCSiameseClu.setup_mudata(mdata[:50])
    single = MuData({"rna": mdata["rna"].copy(), "protein": mdata["protein"][:, :1].copy()})
    with pytest.raises(ValueError, match="at least 2 proteins"):
        SCSiameseClu.setup_mudata(single)
    mixed = MuData({"rna": mdata["rna"].copy(), "protein": mdata["protein"][::-1].copy()})
    with pytest.raises(ValueError, match="another order"):
        SCSiameseClu.setup_mudata(mixed)
    fewer = MuData({"rna": mdata["rna"].copy(), "protein": mdata["protein"][:50].copy()})
    with pytest.raises(ValueError, match="found other cells"):
        SCSiameseClu.setup_mudata(fewer)
    mdata["protein"].X[3, 2] = np.inf
    with pytest.raises(ValueError, match="CD3"):
        SCSiameseClu.setup_mudata(mdata)


@pytest.fixture(params=[False, True], ids=["no pull", "pull"])
def pull_on_update(request, monkeypatch):
    if hasattr(mudata, "set_options"):  # up to mudata 0.3
        with mudata.set_options(pull_on_update=request.param):
            yield
    else:
        monkeypatch.setattr(mudata.settings, "pull_on_update", request.param)
        yield


def test_options_of_mudata_change_nothing(model, soft, reference, quick, small, tmp_path, pull_on_update):
    mdata = make_mdata()
    again = train(mdata, quick, small)
    assert np.allclose(again.predict(soft=True), soft, atol=1e-4)
    again.write_to_adata()
    for data in (mdata.copy(), mdata[:30].copy()):
        assert len(again.predict(data)) == data.n_obs
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    read = mudata.read_h5mu(tmp_path / "cells.h5mu")
    again.save(tmp_path / "model", save_anndata=True)
    loaded = SCSiameseClu.load(tmp_path / "model", accelerator="cpu")
    for predicted in (loaded.predict(soft=True), again.predict(read, soft=True)):
        assert np.allclose(predicted, soft, atol=1e-4)
    mapped = SCSiameseClu.load_query_data(make_mdata(n_obs=180)[120:].copy(), reference, accelerator="cpu")
    assert len(mapped.predict()) == 60


def with_hashtags(mdata):
    tags = mdata["protein"].copy()
    tags.var_names = [f"tag{i}" for i in range(tags.n_vars)]
    more = MuData({"rna": mdata["rna"], "protein": mdata["protein"], "hto": tags})
    more.obs["batch"] = mdata.obs["batch"]
    return more


def test_further_modalities_are_ignored(reference, held_out, tmp_path):
    expected = SCSiameseClu.load_query_data(held_out.copy(), reference, accelerator="cpu").predict(soft=True)
    reference.save(tmp_path / "model")
    for source in (reference, tmp_path / "model"):
        more = with_hashtags(held_out)
        mapped = SCSiameseClu.load_query_data(more, source, accelerator="cpu")
        assert np.allclose(mapped.predict(soft=True), expected, atol=1e-5)
        assert set(more.mod) == {"rna", "protein", "hto"}
    assert np.allclose(reference.predict(with_hashtags(held_out), soft=True), expected, atol=1e-5)


def test_modalities_that_the_model_never_read_may_be_missing(held_out, quick, small):
    model = train(with_hashtags(make_mdata(n_obs=180)[:120].copy()), quick, small)
    assert len(SCSiameseClu.load_query_data(held_out, model, accelerator="cpu").predict()) == 60


def test_tables_of_a_query_stay_when_its_genes_are_put_in_order(small, quick):
    data = make_mdata(n_obs=180)
    data.obsm["X_rep"] = data["rna"].X.toarray()[:, :5]
    reference, query = data[:120].copy(), data[120:].copy()
    SCSiameseClu.setup_mudata(reference, use_rep="X_rep")
    model = SCSiameseClu(reference, n_clusters=2, **small)
    model.train(max_epochs=2, **quick)
    fewer = MuData({"rna": query["rna"][:, 1:].copy(), "protein": query["protein"].copy()})
    fewer.obsm["X_rep"] = query.obsm["X_rep"]
    mapped = SCSiameseClu.load_query_data(fewer, model, accelerator="cpu")
    assert np.allclose(mapped.adata.obsm["X_rep"], query.obsm["X_rep"])
    assert len(mapped.predict()) == 60
