import logging
from copy import deepcopy

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from scvi.data.fields import LayerField

from scsiameseclu._keys import ADATA_KEYS, SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField
from scsiameseclu.data._loader import NeighborDataManager
from scsiameseclu.pp import _cell_sums, neighbor_graph
from scsiameseclu.pp._stored_graph import DIFFUSED_KEYS
from scsiameseclu.reference import _blocks
from scsiameseclu.reference._sources import AnnDataSource

K = 6
INDEX, WEIGHT, REP = SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_WEIGHT, SIAMESE_KEYS.GRAPH_REP
DIFFUSED = {SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_WEIGHT}


def make_adata(n_obs=90, seed=0, n_vars=50):
    rng = np.random.default_rng(seed)
    profiles = np.random.default_rng(0).gamma(1.0, 1.0, size=(3, n_vars))
    types = rng.integers(0, 3, n_obs)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(3 * profiles[types]).astype(np.float32)))
    adata.obs_names = [f"s{seed}_{i}" for i in range(n_obs)]
    adata.var_names = [f"gene{i}" for i in range(n_vars)]
    adata.obs["batch"] = np.where(np.arange(n_obs) % 2, "b", "a")
    adata.obsm["X_mine"] = rng.normal(size=(n_obs, 4))
    return adata


def register(adata, **settings):
    settings = {"n_neighbors": K, "n_pcs": 5, **settings}
    manager = NeighborDataManager(fields=[LayerField("X", None), CellGraphField(AnnDataSource(), **settings)])
    manager.register_fields(adata)
    return manager


def state_of(manager):
    return manager.registry["field_registries"][SIAMESE_KEYS.CELL_GRAPH]["state_registry"]


def tables(manager):
    return manager.blocks.tables


def same_tables(one, other):
    return tables(one).keys() == tables(other).keys() and all(
        np.array_equal(table, tables(other)[key]) for key, table in tables(one).items()
    )


@pytest.fixture
def adata():
    return make_adata()


@pytest.fixture
def manager(adata):
    return register(adata)


@pytest.fixture
def searches(monkeypatch):
    """Record every graph that is built."""
    found = []
    link = _blocks.link_cells
    monkeypatch.setattr(_blocks, "link_cells", lambda *args: found.append(1) or link(*args))
    return found


def test_tables_are_found_through_the_registry_and_not_written(adata, manager):
    for key, width in ((REP, 5), (INDEX, K), (WEIGHT, K)):
        assert manager.get_from_registry(key).shape == (90, width)
        assert key in manager.data_registry
    assert SIAMESE_KEYS.CELL_GRAPH not in manager.data_registry  # data loaders must not load the graph
    assert manager.summary_stats["n_neighbors"] == K
    assert manager.summary_stats[f"n_{REP}"] == 5
    assert list(adata.obsm) == ["X_mine"] and not adata.obsp
    assert all(key.startswith("_scvi") for key in adata.uns)
    manager.view_registry()


def test_tables_of_the_diffused_graph_are_there_if_asked_for(adata, manager):
    assert not DIFFUSED & set(manager.data_registry)
    diffused = register(adata, diffusion=True)
    assert set(manager.data_registry) < set(diffused.data_registry)
    assert all(diffused.get_from_registry(name).shape == (90, K) for name in DIFFUSED)


def test_models_on_one_object_keep_their_tables(adata, manager, searches):
    others = [register(adata, diffusion=True), register(adata, n_neighbors=9), register(adata, batch_key="batch")]
    before = [dict(tables(each)) for each in (manager, *others)]
    del searches[:]
    for _ in range(2):
        for each, kept in zip((manager, *others), before, strict=True):
            each.validate()  # scvi-tools calls this when a model finds the mark of another manager
            assert each.is_current()
            assert tables(each) == kept
    assert not searches


@pytest.mark.parametrize("diffusion", [False, True])
def test_a_query_has_the_tables_of_its_model(adata, diffusion):
    manager = register(adata, diffusion=diffusion)
    query = make_adata(seed=2)
    register(query, diffusion=not diffusion)
    moved = manager.transfer_fields(query)
    assert (set(tables(moved)) > DIFFUSED) == diffusion
    if diffusion:
        np.testing.assert_array_equal(tables(moved)[SIAMESE_KEYS.DIFFUSED_INDEX], tables(moved)[INDEX])


def test_a_state_without_the_setting_is_of_a_diffused_graph(adata):
    manager = register(adata, diffusion=True)
    state = state_of(manager)
    del state["diffusion"]
    field = manager.fields[1]
    assert "diffusion" in str([list(column.cells) for column in field.view_state_registry(state).columns])
    assert same_tables(manager, manager.transfer_fields(make_adata()))


def test_a_graph_that_was_written_is_used_again(adata, searches):
    neighbor_graph(adata, K, n_pcs=5)
    manager = register(adata)
    assert not searches
    np.testing.assert_array_equal(tables(manager)[INDEX], adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX])
    manager.write_graph()  # the graph is there already
    register(adata, n_neighbors=9)
    adata.X = make_adata(seed=5).X
    changed = register(adata)
    assert len(searches) == 2
    assert not np.allclose(tables(changed)[REP], tables(manager)[REP])


def test_a_graph_can_be_written_and_read_in_again(adata, tmp_path, searches):
    manager = register(adata, diffusion=True, batch_key="batch")
    manager.write_graph()
    assert set(DIFFUSED_KEYS) < set(adata.obsm)
    sc.tl.leiden(adata, neighbors_key="siamese_clu_neighbors", flavor="igraph", n_iterations=2, directed=False)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    del searches[:]
    again = manager.transfer_fields(ad.read_h5ad(tmp_path / "cells.h5ad"))
    assert not searches
    assert again.blocks.are_reference
    assert same_tables(manager, again)


@pytest.mark.parametrize(
    "derive",
    [
        lambda a: a[20:50].copy(),
        lambda a: a[np.random.default_rng(0).permutation(90)].copy(),
        lambda a: ad.concat([a, make_adata(seed=1)], uns_merge="first"),
        lambda a: make_adata(seed=2),
    ],
    ids=["subset", "permuted", "concatenated", "query"],
)
def test_other_cells_find_their_neighbors_in_the_reference(adata, manager, derive):
    manager.write_graph()  # tables of other cells must not be used for these cells
    target = derive(adata)
    moved = manager.transfer_fields(target)
    assert not moved.blocks.are_reference
    index = tables(moved)[INDEX]
    assert index.min() >= target.n_obs
    assert index.max() < target.n_obs + 90
    rep, reference = tables(moved)[REP], tables(manager)[REP]
    distances = np.linalg.norm(rep[:, None] - reference[None], axis=2)
    itself = target.obs_names.to_numpy()[:, None] == adata.obs_names.to_numpy()
    distances[itself] = np.inf
    np.testing.assert_allclose(
        np.take_along_axis(distances, index - target.n_obs, axis=1), np.sort(distances, axis=1)[:, :K], rtol=1e-4
    )
    for i, j in np.argwhere(itself):
        np.testing.assert_array_equal(index[i] - target.n_obs, tables(manager)[INDEX][j])
        for key in (WEIGHT, REP):
            np.testing.assert_allclose(tables(moved)[key][i], tables(manager)[key][j], atol=1e-4)


def test_the_reference_given_without_its_graph_gets_the_same_again(adata, manager):
    moved = manager.transfer_fields(make_adata())
    assert moved.blocks.are_reference
    assert same_tables(manager, moved)


def test_own_set_up_of_a_query_does_not_leak_into_the_model(adata, manager):
    """A query that was set up on its own has a current graph, but in the space of its own projection."""
    query = make_adata(seed=3)
    own = register(query)
    own.write_graph()
    mapped = manager.transfer_fields(query)
    assert tables(mapped)[INDEX].min() >= 90
    assert not np.allclose(tables(own)[REP], tables(mapped)[REP])
    own.validate()
    assert tables(own)[INDEX].max() < 90


def test_a_small_reference_leaves_padding(adata):
    manager = register(adata[:3].copy())
    moved = tables(manager.transfer_fields(adata[2:6].copy()))
    assert moved[INDEX].shape == (4, K)
    np.testing.assert_array_equal((moved[INDEX] >= 4).sum(axis=1), 2)
    assert (moved[INDEX][:, 2:] == np.arange(4)[:, None]).all()
    assert not moved[WEIGHT][:, 2:].any()


# -- changes in place ----------------------------------------------------------------------------------------------


def swap_two_counts(adata):
    """Swap two counts and keep all totals of cells and genes, by the opposite change in another cell."""
    dense = adata.X.toarray()
    dense[3, [0, 1]] += [1, 0]
    dense[4, [0, 1]] += [0, 1]
    adata.X = sparse.csr_matrix(dense)
    changed = dense.copy()
    changed[3, [0, 1]] += [-1, 1]
    changed[4, [0, 1]] += [1, -1]
    return sparse.csr_matrix(changed)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda a: setattr(a, "X", make_adata(seed=5).X), {}),
        (lambda a: a.X.data.__setitem__(slice(0, 9), a.X.data[:9] + 1), {}),
        (lambda a: a.obs.__setitem__("batch", "a"), {"batch_key": "batch"}),
        (lambda a: a.obs.__setitem__("size", 2.0), {"size_factor_key": "size"}),
        (lambda a: a.obsm["X_mine"].__setitem__((3, 1), 9.0), {"use_rep": "X_mine"}),
        (lambda a: setattr(a, "obs_names", [f"other_{i}" for i in range(90)]), {}),
        (lambda a: a._inplace_subset_obs(np.arange(10, 60)), {}),
    ],
    ids=["counts", "some counts", "batch", "size factor", "representation", "names", "subset"],
)
def test_changes_in_place_are_noticed(adata, change, settings):
    adata.obs["size"] = np.linspace(1, 2, 90)
    manager = register(adata, **settings)
    assert manager.is_current()
    change(adata)
    assert not manager.is_current()


def test_counts_that_move_between_genes_and_cells_at_the_same_totals_are_noticed(adata):
    changed = swap_two_counts(adata)
    manager = register(adata)
    assert np.array_equal(changed.sum(axis=0), adata.X.sum(axis=0))
    assert np.array_equal(changed.sum(axis=1), adata.X.sum(axis=1))
    adata.X = changed
    assert not manager.is_current()


def test_only_the_rows_that_are_asked_for_are_looked_at(adata, manager, monkeypatch):
    read = []
    chunks = _cell_sums.row_chunks

    def counting(counts, **options):
        for places, block in chunks(counts, **options):
            read.append(block.shape[0])
            yield places, block

    monkeypatch.setattr(_cell_sums, "row_chunks", counting)
    assert manager.is_current(np.array([7, 3, 7]))
    assert sum(read) == 2
    adata.X[5] = adata.X[6]
    assert manager.is_current(np.array([7, 3]))
    assert not manager.is_current(np.array([5]))


def test_changed_cells_become_the_reference_or_find_their_neighbors_in_it(adata):
    manager = register(adata)
    before = deepcopy(state_of(manager))
    adata._inplace_subset_obs(np.arange(10, 60))
    manager.renew(as_reference=False)
    assert tables(manager)[INDEX].min() >= 50
    assert not manager.blocks.are_reference
    assert state_of(manager)["landmarks"]["rep"].shape == (90, 5)
    assert state_of(manager)["source"] == before["source"]
    assert not manager.is_transferred
    manager.renew(as_reference=True)
    assert manager.blocks.are_reference and not manager.is_transferred
    assert tables(manager)[INDEX].max() < 50
    assert state_of(manager)["landmarks"]["rep"].shape == (50, 5)
    np.testing.assert_array_equal(state_of(manager)["projection"]["components"], before["projection"]["components"])


# -- the state -----------------------------------------------------------------------------------------------------


def test_state_is_plain_and_the_same_after_a_transfer(adata, manager):
    state = state_of(manager)
    assert set(map(type, state.values())) <= {int, bool, str, dict, list, type(None)}
    moved = state_of(manager.transfer_fields(adata[:40].copy()))
    assert moved.keys() == state.keys()
    assert moved["gene_names"] == sorted(adata.var_names)  # sorted by name, whatever the order of the columns
    deepcopy(state)


def test_given_representation(adata):
    manager = register(adata, use_rep="X_mine")
    assert state_of(manager)["projection"] is None
    query = make_adata(seed=4)
    moved = manager.transfer_fields(query)
    np.testing.assert_allclose(tables(moved)[REP], query.obsm["X_mine"], rtol=1e-6)
    query.obsm["X_mine"] = query.obsm["X_mine"][:, :2]
    with pytest.raises(ValueError, match="expected 4 columns as at set-up, found 2"):
        manager.transfer_fields(query)
    del query.obsm["X_mine"]
    with pytest.raises(KeyError, match="use_rep"):
        manager.transfer_fields(query)


def test_foreign_graph(adata, caplog):
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="X_mine")
    manager = register(adata, neighbors_key="neighbors")
    strengths = adata.obsp["connectivities"].toarray()
    np.testing.assert_allclose(
        np.take_along_axis(strengths, tables(manager)[INDEX], axis=1),
        tables(manager)[WEIGHT],
        rtol=1e-5,
    )
    query = make_adata(seed=4)
    with caplog.at_level(logging.WARNING, logger="scsiameseclu"):
        moved = manager.transfer_fields(query)
    assert "The given data have no such graph" in caplog.text
    assert (tables(moved)[WEIGHT] > 0).all()
    # A graph between cells of the query has no neighbours in the reference.
    other = make_adata(seed=5)
    sc.pp.neighbors(other, n_neighbors=10, use_rep="X_mine")
    assert tables(manager.transfer_fields(other))[INDEX].min() >= 90


def test_foreign_graph_cut_to_pieces_is_replaced(adata):
    sc.pp.neighbors(adata, n_neighbors=4, use_rep="X_mine")
    manager = register(adata, neighbors_key="neighbors")
    few = adata[[0, 40, 80, 20, 60, 10, 30]].copy()
    assert (tables(manager.transfer_fields(few))[WEIGHT] > 0).all()


def test_cells_of_new_batches_have_neighbors_in_all_batches_of_the_reference(adata):
    manager = register(adata, batch_key="batch")
    query = make_adata(seed=4)
    query.obs["batch"] = np.where(np.arange(90) % 3 == 0, "new", "newer")
    moved = manager.transfer_fields(query, extend_categories=True)
    is_a = (adata.obs["batch"] == "a").to_numpy()
    np.testing.assert_array_equal(is_a[tables(moved)[INDEX] - 90].sum(axis=1), np.full(90, 3))
    query.obs["batch"] = query.obs["batch"].astype(object)
    query.obs.iloc[0, query.obs.columns.get_loc("batch")] = np.nan
    with pytest.raises(ValueError, match="1 missing"):
        manager.transfer_fields(query)


def test_genes_must_match(adata, manager):
    with pytest.raises(ValueError, match="another order"):
        manager.transfer_fields(adata[:, ::-1].copy())
    with pytest.raises(ValueError, match="found 49"):
        manager.fields[1].transfer_field(state_of(manager), adata[:, 1:].copy())
    renamed = adata.copy()
    renamed.var_names = [f"ENSG{i}" for i in range(50)]
    with pytest.raises(ValueError, match="found genes of other names"):
        manager.transfer_fields(renamed)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_counts_are_refused_whatever_the_graph_is_built_on(adata, value):
    adata.X.data[0] = value
    with pytest.raises(ValueError, match="cell 's0_0'"):
        CellGraphField(AnnDataSource(), use_rep="X_mine").register_field(adata)
