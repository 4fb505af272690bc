import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
from anndata import AnnData, concat, read_h5ad
from mudata import MuData
from scipy import sparse

from scsiameseclu import tl
from scsiameseclu._copied_results import copy_results
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.tl import cluster

SHORT = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def adata() -> AnnData:
    return synthetic(n_obs=150, n_vars=80, n_types=3, n_batches=2)


def _fit(adata: AnnData, **kwargs):
    scvi.settings.seed = 0
    return cluster(adata, 3, model_kwargs={"n_hidden": 32}, train_kwargs=SHORT, n_neighbors=8, **kwargs)


def test_results_are_the_models_and_no_gene_is_lost(adata: AnnData) -> None:
    before = adata.copy()
    model = _fit(adata, n_top_genes=50)
    assert model.adata.n_vars == 50
    assert adata.var_names.equals(before.var_names)
    assert (adata.X != before.X).nnz == 0
    assert list(adata.var.columns) == list(before.var.columns) and "log1p" not in adata.uns
    assert (adata.obs["siamese_clu"].astype(str) == model.predict().astype(str)).all()
    np.testing.assert_array_equal(adata.obsm["X_siamese_clu"], model.get_latent_representation())
    np.testing.assert_allclose(adata.obsm["siamese_clu_probs"].sum(1), 1, atol=1e-5)
    sizes = adata.obs["siamese_clu"].value_counts()
    assert sizes["0"] == sizes.max()


def test_all_genes_train_on_the_object_itself(adata: AnnData) -> None:
    assert _fit(adata, n_top_genes=None).adata is adata
    assert _fit(adata, n_top_genes=80).adata is adata


def test_graph_is_usable_by_scanpy_and_everything_survives_a_file(adata: AnnData, tmp_path) -> None:
    _fit(adata, n_top_genes=50, key_added="mine")
    sc.tl.leiden(adata, neighbors_key="siamese_clu_neighbors", flavor="igraph", n_iterations=2, directed=False)
    adata.write_h5ad(tmp_path / "result.h5ad")
    read = read_h5ad(tmp_path / "result.h5ad")
    assert {"mine", "mine_confidence", "leiden"} <= set(read.obs)
    np.testing.assert_array_equal(read.obsm["mine_probs"], adata.obsm["mine_probs"])
    assert read.uns["mine"]["params"]["n_clusters"] == 3
    assert read.obsp["siamese_clu_connectivities"].shape == (150, 150)


def test_labels_have_no_influence(adata: AnnData) -> None:
    other = adata.copy()
    other.obs["cell_type"] = np.random.default_rng(1).permutation(other.obs["cell_type"].to_numpy())
    _fit(adata, n_top_genes=50)
    _fit(other, n_top_genes=50)
    np.testing.assert_array_equal(adata.obsm["X_siamese_clu"], other.obsm["X_siamese_clu"])


def test_genes_without_counts_have_no_influence(adata: AnnData) -> None:
    silent = AnnData(
        sparse.csr_matrix((adata.n_obs, 4), dtype=adata.X.dtype),
        obs=adata.obs,
        var=pd.DataFrame(index=["a", "b", "y", "z"]),
    )
    wider = concat([silent[:, :2], adata, silent[:, 2:]], axis=1, merge="same")
    for n_top_genes in (50, 80):
        first, second = (_fit(cells.copy(), n_top_genes=n_top_genes) for cells in (adata, wider))
        assert list(first.adata.var_names) == list(second.adata.var_names)
        np.testing.assert_array_equal(first.get_latent_representation(), second.get_latent_representation())


def test_counts_in_a_layer_give_the_same_result(adata: AnnData) -> None:
    layered = adata.copy()
    layered.layers["counts"] = layered.X.copy()
    sc.pp.normalize_total(layered)
    _fit(adata, n_top_genes=50)
    _fit(layered, n_top_genes=50, layer="counts")
    np.testing.assert_array_equal(adata.obsm["X_siamese_clu"], layered.obsm["X_siamese_clu"])


def test_batches_representations_and_graphs_reach_the_model(adata: AnnData) -> None:
    assert _fit(adata, n_top_genes=50, batch_key="batch").summary_stats.n_batch == 2
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)
    assert _fit(adata, n_top_genes=50, use_rep="X_mine").registry["setup_args"]["use_rep"] == "X_mine"
    sc.pp.neighbors(adata, n_neighbors=6, use_rep="X_mine", key_added="theirs")
    model = _fit(adata, n_top_genes=50, neighbors_key="theirs")
    assert model.registry["setup_args"]["neighbors_key"] == "theirs"


@pytest.mark.parametrize("argument", ["layer", "batch_key", "use_rep", "neighbors_key"])
def test_missing_keys_are_named_with_what_there_is(adata: AnnData, argument: str) -> None:
    with pytest.raises(KeyError, match=f"`{argument}`: expected .*, found 'nothing'"):
        cluster(adata, **{argument: "nothing"})


def test_bad_counts_and_settings_are_refused_before_training(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="n_top_genes of at least 2 or None, found 1"):
        cluster(adata, n_top_genes=1)
    adata.X.data[7] = -1
    with pytest.raises(ValueError, match="found -1.0 in cell"):
        cluster(adata, n_top_genes=50)


def test_copy_results_wants_the_same_cells(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="same cells in the same order"):
        copy_results(adata, adata[::-1].copy(), "siamese_clu")


def test_the_model_loads_with_the_data_it_was_made_from(tmp_path):
    """The model has the variable genes only; the data keep all genes, in any order."""
    adata = synthetic(n_obs=120, n_vars=60, n_types=3, seed=0)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2}
    model = cluster(adata, 3, n_top_genes=30, n_neighbors=6, train_kwargs=options)
    model.save(tmp_path / "model")
    for given in (adata, adata[:, ::-1].copy()):
        n_vars = given.n_vars
        loaded = SCSiameseClu.load(tmp_path / "model", adata=given)
        assert (loaded.predict() == model.predict()).all()
        assert (loaded.adata.n_vars, given.n_vars) == (30, n_vars)
    with pytest.raises(ValueError, match="Expected the 30 genes"):
        SCSiameseClu.load(tmp_path / "model", adata=adata[:, :40].copy())


KINDS = {
    "integers": lambda codes: codes,
    "booleans": lambda codes: codes == 1,
    "floats": lambda codes: codes + 0.5,
    "categories that are numbers": lambda codes: pd.Categorical(codes),
    "text": lambda codes: codes.astype(str),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_covariates_and_labels_of_any_kind(adata: AnnData, tmp_path, kind: str) -> None:
    codes = adata.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    for name in ("run", "site", "type"):
        adata.obs[name] = KINDS[kind](codes)
    adata.obs["age"] = codes if kind == "integers" else codes == 1
    before = adata.obs.copy()
    setup = {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"], "labels_key": "type"}
    model = _fit(adata, batch_key="run", n_top_genes=50, setup_kwargs=setup)
    pd.testing.assert_frame_equal(adata.obs[list(before)], before)
    adata.write_h5ad(tmp_path / "result.h5ad")
    model.save(tmp_path / "model")
    query = adata[::3].copy()
    loaded = SCSiameseClu.load_query_data(query, tmp_path / "model")
    expected = model.predict(indices=np.arange(0, adata.n_obs, 3))
    assert (loaded.predict().astype(str).to_numpy() == expected.astype(str).to_numpy()).mean() > 0.9
    assert loaded.summary_stats["n_batch"] == 2


def test_graph_is_one_that_umap_of_scanpy_takes(adata: AnnData) -> None:
    _fit(adata, n_top_genes=50)
    sc.tl.umap(adata, neighbors_key="siamese_clu_neighbors", maxiter=5)
    assert adata.obsm["X_umap"].shape == (150, 2)


def test_results_of_two_names_do_not_touch_each_other(adata: AnnData) -> None:
    _fit(adata, n_top_genes=50)
    first = {name: np.array(adata.obsm[name]) for name in ("X_siamese_clu", "siamese_clu_probs")}
    model = _fit(adata, n_top_genes=40, key_added="mine")
    for name, values in first.items():
        np.testing.assert_array_equal(adata.obsm[name], values)
    np.testing.assert_array_equal(adata.obsm["X_mine"], model.get_latent_representation())


def test_values_that_are_no_counts_are_named_with_what_to_use_instead(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    adata.var_names = ["twice", "twice", *adata.var_names[2:]]
    with pytest.warns(UserWarning, match="layers\\['counts'\\] \\(layer='counts'\\) and raw"):
        with pytest.warns(UserWarning, match="1 more than once \\(twice\\)"):
            SCSiameseClu.setup_anndata(adata, n_neighbors=8)


@pytest.mark.parametrize("tool", [tl.annotate, tl.classify, tl.cluster, tl.map, tl.markers, tl.stability])
def test_tools_say_what_serves_a_mudata(adata: AnnData, tool) -> None:
    with pytest.raises(TypeError, match="Expected an AnnData, found MuData: .* MuData|mdata"):
        tool(MuData({"rna": adata}), *([{}] if tool in (tl.annotate, tl.classify, tl.map) else []))


def test_fractions_are_spoken_of_once(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.3
    with pytest.warns(UserWarning, match="not whole numbers") as caught:
        cluster(adata, 3, n_top_genes=40, n_neighbors=6, train_kwargs=SHORT)
    said = [str(each.message) for each in caught if "not whole numbers" in str(each.message)]
    assert len(said) == 1 and "layers['counts']" in said[0]


@pytest.mark.parametrize("n_top_genes", [None, 20])
def test_repeated_genes_are_refused_at_once(n_top_genes):
    adata = synthetic(n_obs=60, n_vars=40, n_types=2)
    adata.var_names = ["gene_1", "gene_1", *adata.var_names[2:]]
    with pytest.raises(ValueError, match=r"unique gene names, found 1 more than once \(gene_1\)"):
        cluster(adata, n_clusters=2, n_top_genes=n_top_genes)


@pytest.mark.parametrize("key", ["siamese_clu_neighbors", "siamese_clu_connectivities"])
def test_names_of_the_cell_graph_are_refused(key):
    with pytest.raises(ValueError, match="does not use for the cell graph"):
        cluster(synthetic(n_obs=60, n_vars=40, n_types=2), n_clusters=2, key_added=key)


def test_cells_without_counts_are_spoken_of(caplog):
    adata = synthetic(n_obs=60, n_vars=40, n_types=2)
    adata.X = adata.X.toarray()
    adata.X[[3, 7]] = 0
    with caplog.at_level("WARNING", logger="scsiameseclu"):
        model = cluster(adata, n_clusters=2, train_kwargs={"max_epochs": 1, "enable_progress_bar": False})
    assert "2 of 60 cells have no counts, such as 'cell_3'" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="scsiameseclu"):
        model.predict(adata[:5].copy())
    assert "1 of 5 cells have no counts" in caplog.text
