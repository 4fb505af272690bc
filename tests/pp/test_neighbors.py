import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi

from scsiameseclu._keys import ADATA_KEYS
from scsiameseclu.pp import _neighbors, neighbor_graph
from scsiameseclu.pp._graph_input import GraphSettings
from scsiameseclu.pp._stored_graph import DIFFUSED_KEYS, stored_graph, stored_projection

SETTINGS = GraphSettings(n_neighbors=6, n_pcs=5)
DIFFUSED = GraphSettings(n_neighbors=6, n_pcs=5, diffusion=True)


def graph_is_current(*arguments):
    return stored_graph(*arguments) is not None


@pytest.fixture
def adata(counts_adata):
    neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5)
    return counts_adata


def test_tables_have_the_documented_types_and_find_the_types_of_cell(counts_adata):
    graph = neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5, diffusion=True)
    assert counts_adata.obsm[ADATA_KEYS.GRAPH_REP].shape == (120, 5)
    for key, dtype in (
        (ADATA_KEYS.NEIGHBOR_INDEX, np.int64),
        (ADATA_KEYS.NEIGHBOR_WEIGHT, np.float32),
        (ADATA_KEYS.DIFFUSED_INDEX, np.int64),
        (ADATA_KEYS.DIFFUSED_WEIGHT, np.float32),
    ):
        assert counts_adata.obsm[key].shape == (120, 6)
        assert counts_adata.obsm[key].dtype == dtype
    np.testing.assert_array_equal(graph.indices, counts_adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX])
    types = counts_adata.obs["type"].to_numpy()
    for key in (ADATA_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.DIFFUSED_INDEX):
        assert (types[counts_adata.obsm[key]] == types[:, None]).mean() > 0.95


def test_the_graph_is_diffused_only_if_asked_for(counts_adata, monkeypatch):
    plain = neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5, diffusion=True)
    assert graph_is_current(counts_adata, DIFFUSED)
    assert not graph_is_current(counts_adata, SETTINGS)

    def refuse(*_, **__):
        raise AssertionError("diffused without being asked")

    monkeypatch.setattr(_neighbors, "ppr_diffusion", refuse)
    again = neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5)
    np.testing.assert_array_equal(again.indices, plain.indices)
    assert not set(DIFFUSED_KEYS) & set(counts_adata.obsm)  # tables of the earlier graph are removed
    assert graph_is_current(counts_adata, SETTINGS)
    assert not graph_is_current(counts_adata, DIFFUSED)
    with pytest.raises(AssertionError, match="without being asked"):
        neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5, diffusion=True)


def test_settings_stored_before_diffusion_was_one_say_that_it_was_on():
    state = {"n_neighbors": 6, "n_pcs": 5, "random_state": 0, "other": 1}
    state |= dict.fromkeys(("use_rep", "neighbors_key", "layer", "batch_key", "size_factor_key"))
    assert GraphSettings.from_state(state) == DIFFUSED
    assert GraphSettings.from_state({**state, "diffusion": False}) == SETTINGS
    assert SETTINGS.of_neighbors() == DIFFUSED.of_neighbors()


def test_scanpy_works_on_the_stored_graph(adata):
    sc.tl.leiden(adata, neighbors_key=ADATA_KEYS.NEIGHBORS, flavor="igraph", n_iterations=2)
    sc.tl.umap(adata, neighbors_key=ADATA_KEYS.NEIGHBORS, maxiter=5)
    assert adata.obs["leiden"].nunique() >= 3
    assert adata.obsm["X_umap"].shape == (120, 2)


@pytest.mark.slow  # numba compiles pynndescent
def test_installed_pynndescent_serves_scanpy_above_8192_cells():
    # Up to 8,192 cells scanpy compares all pairs. Above, scanpy crashes with the results of pynndescent 0.7, which is
    # the reason for the bound in pyproject.toml.
    cells = ad.AnnData(
        np.zeros((8_200, 1), np.float32), obsm={"X_pca": np.random.default_rng(0).normal(size=(8_200, 3))}
    )
    sc.pp.neighbors(cells, use_rep="X_pca", n_neighbors=5)
    assert cells.obsp["connectivities"].getnnz(axis=1).min() >= 4


def test_graph_survives_writing(adata, tmp_path):
    adata.write_h5ad(tmp_path / "graph.h5ad")
    again = ad.read_h5ad(tmp_path / "graph.h5ad")
    assert again.obsm[ADATA_KEYS.NEIGHBOR_INDEX].dtype == np.int64
    assert graph_is_current(again, SETTINGS)
    assert graph_is_current(again, SETTINGS, stored_projection(adata))


def test_backed_counts_give_the_same_graph(counts_adata, tmp_path):
    counts_adata.write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    found = neighbor_graph(backed, n_neighbors=6, n_pcs=5)
    expected = neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5)
    np.testing.assert_array_equal(found.indices, expected.indices)
    backed.file.close()


def changed_counts(adata):
    adata.X.data[7] += 1


def lost_table(adata):
    del adata.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT]


def table_of_a_diffused_graph(adata):
    adata.obsm[ADATA_KEYS.DIFFUSED_INDEX] = adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX]


def renamed(adata):
    adata.obs_names = [f"other{i}" for i in range(adata.n_obs)]


def overwritten(adata):
    neighbor_graph(adata, n_neighbors=9, n_pcs=5)


def without_record(adata):
    del adata.uns[ADATA_KEYS.NEIGHBORS]


@pytest.mark.parametrize(
    "change", [changed_counts, lost_table, table_of_a_diffused_graph, renamed, overwritten, without_record]
)
def test_changes_in_place_are_noticed(adata, change):
    assert graph_is_current(adata, SETTINGS)
    change(adata)
    assert not graph_is_current(adata, SETTINGS)


@pytest.mark.parametrize("key", DIFFUSED_KEYS)
def test_a_lost_table_of_the_diffused_graph_is_noticed(counts_adata, key):
    neighbor_graph(counts_adata, n_neighbors=6, n_pcs=5, diffusion=True)
    del counts_adata.obsm[key]
    assert not graph_is_current(counts_adata, DIFFUSED)


@pytest.mark.parametrize(
    "derive",
    [
        lambda a: a[:50].copy(),
        lambda a: a[::-1].copy(),
        lambda a: ad.concat([a, a], uns_merge="same", index_unique="-"),
        lambda a: a[:, ::-1].copy(),
    ],
    ids=["subset", "permuted", "concatenated", "genes"],
)
def test_other_cells_or_genes_are_noticed(adata, derive):
    assert not graph_is_current(derive(adata), SETTINGS)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_permuted_duplicated_names_are_noticed(adata):
    adata.obs_names = ["same"] * 120
    neighbor_graph(adata, n_neighbors=6, n_pcs=5)
    assert graph_is_current(adata, SETTINGS)
    assert not graph_is_current(adata[::-1].copy(), SETTINGS)


def test_a_plain_copy_stays_current(adata):
    assert graph_is_current(adata.copy(), SETTINGS)


def test_given_representation_is_used(counts_adata):
    rep = np.random.default_rng(6).normal(size=(120, 3))
    counts_adata.obsm["X_mine"] = rep
    neighbor_graph(counts_adata, n_neighbors=4, use_rep="X_mine")
    np.testing.assert_allclose(counts_adata.obsm[ADATA_KEYS.GRAPH_REP], rep, rtol=1e-6)
    assert stored_projection(counts_adata) is None
    settings = GraphSettings(n_neighbors=4, use_rep="X_mine")
    assert graph_is_current(counts_adata, settings)
    counts_adata.obsm["X_mine"] = rep[::-1]
    assert not graph_is_current(counts_adata, settings)


def test_a_representation_with_text_is_refused(counts_adata):
    counts_adata.obsm["X_mine"] = pd.DataFrame({"type": ["a"] * 120}, index=counts_adata.obs_names)
    with pytest.raises(ValueError, match=r"obsm\['X_mine'\]: expected numbers, found other values"):
        neighbor_graph(counts_adata, n_neighbors=4, use_rep="X_mine")


def test_batches_are_connected(counts_adata):
    graph = neighbor_graph(counts_adata, n_neighbors=6, batch_key="batch")
    batch = counts_adata.obs["batch"].to_numpy()
    assert ((batch[graph.indices] == "a").sum(axis=1) == 3).all()


def test_seed_comes_from_scvi(counts_adata):
    scvi.settings.seed = 7  # a fixture of all tests restores the seed
    neighbor_graph(counts_adata)
    assert counts_adata.uns[ADATA_KEYS.NEIGHBORS]["params"]["random_state"] == 7


@pytest.mark.parametrize(
    ("kwargs", "available"),
    [
        ({"use_rep": "X_no"}, "Available"),
        ({"neighbors_key": "no"}, "Available"),
        ({"layer": "no"}, "Available"),
        ({"batch_key": "no"}, "'type', 'batch'"),
        ({"size_factor_key": "no"}, "'type', 'batch'"),
    ],
)
def test_missing_keys_list_those_available(counts_adata, kwargs, available):
    with pytest.raises(KeyError, match=available):
        neighbor_graph(counts_adata, **kwargs)


def test_bad_counts_are_refused(counts_adata):
    counts = counts_adata.X.toarray()
    counts[2, 3] = -1
    counts_adata.X = counts
    with pytest.raises(ValueError, match="'cell2', gene 'gene3'"):
        neighbor_graph(counts_adata)
