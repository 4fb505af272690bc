import logging
from copy import deepcopy

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from mudata import MuData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField

from scsiameseclu._keys import ADATA_KEYS, SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField, cell_graph_fields
from scsiameseclu.pp._neighbors import DIFFUSED_KEYS

K = 6


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
    manager = AnnDataManager(fields=[LayerField("X", None), *cell_graph_fields(**settings)])
    manager.register_fields(adata)
    return manager


def state_of(manager):
    return manager.registry["field_registries"][SIAMESE_KEYS.CELL_GRAPH]["state_registry"]


def field_of(manager):
    return next(field for field in manager.fields if field.registry_key == SIAMESE_KEYS.CELL_GRAPH)


def same_tables(one, other):
    keys = [ADATA_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.NEIGHBOR_WEIGHT]
    keys += [key for key in DIFFUSED_KEYS if key in one.obsm or key in other.obsm]
    return all(np.array_equal(one.obsm[key], other.obsm[key]) for key in keys)


@pytest.fixture
def adata():
    return make_adata()


@pytest.fixture
def manager(adata):
    return register(adata)


def test_tables_are_found_through_the_registry(adata, manager):
    for key, width in (
        (SIAMESE_KEYS.GRAPH_REP, 5),
        (SIAMESE_KEYS.NEIGHBOR_INDEX, K),
        (SIAMESE_KEYS.NEIGHBOR_WEIGHT, K),
    ):
        assert manager.get_from_registry(key).shape == (90, width)
    assert SIAMESE_KEYS.CELL_GRAPH not in manager.data_registry  # data loaders must not look for it
    assert manager.summary_stats["n_neighbors"] == K
    manager.view_registry()


def test_tables_of_the_diffused_graph_are_registered_if_asked_for(adata, manager):
    names = {SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_WEIGHT}
    assert not names & set(manager.data_registry)
    assert not set(DIFFUSED_KEYS) & set(adata.obsm)
    diffused = register(adata, diffusion=True)
    assert names < set(diffused.data_registry)
    assert all(diffused.get_from_registry(name).shape == (90, K) for name in names)


def test_models_with_and_without_diffusion_take_turns(adata, manager):
    before = adata.copy()
    other = register(adata, diffusion=True)
    with_diffusion = adata.copy()
    manager.validate()
    assert not set(DIFFUSED_KEYS) & set(adata.obsm)
    assert same_tables(adata, before)
    other.validate()
    assert same_tables(adata, with_diffusion)


@pytest.mark.parametrize("diffusion", [False, True])
def test_a_query_has_the_tables_of_its_model(adata, diffusion):
    manager = register(adata, diffusion=diffusion)
    query = make_adata(seed=2)
    register(query, diffusion=not diffusion)  # what stood there before does not stay
    moved = manager.transfer_fields(query)
    assert [key in query.obsm for key in DIFFUSED_KEYS] == [diffusion, diffusion]
    assert field_of(moved).is_current(query, state_of(moved))
    if diffusion:
        np.testing.assert_array_equal(query.obsm[DIFFUSED_KEYS[0]], query.obsm[ADATA_KEYS.NEIGHBOR_INDEX])


def test_a_state_without_the_setting_is_of_a_diffused_graph(adata):
    manager = register(adata, diffusion=True)
    field, state = field_of(manager), dict(state_of(manager))
    del state["diffusion"]
    assert field.is_current(adata, state)
    assert "diffusion" in str([list(column.cells) for column in field.view_state_registry(state).columns])
    bare = make_adata()
    field.transfer_field(state, bare)
    assert same_tables(adata, bare)


def test_set_up_again_keeps_a_current_graph(adata, manager):
    before = adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX]
    again = register(adata)
    assert adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX] is before
    np.testing.assert_array_equal(
        state_of(again)["projection"]["components"], state_of(manager)["projection"]["components"]
    )


def test_models_with_other_settings_take_turns(adata, manager):
    before = adata.copy()
    other = register(adata, n_neighbors=9)
    assert adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX].shape == (90, 9)
    manager.validate()  # what scvi-tools does when a model finds another manager's mark
    assert same_tables(adata, before)
    other.validate()
    assert adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX].shape == (90, 9)


def test_counts_changed_between_set_ups(adata, manager):
    old = adata.obsm[ADATA_KEYS.GRAPH_REP].copy()
    adata.X = make_adata(seed=5).X
    register(adata)
    assert not np.allclose(adata.obsm[ADATA_KEYS.GRAPH_REP], old)


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
    target = derive(adata)
    assert not field_of(manager).is_current(target, state_of(manager))
    manager.transfer_fields(target)
    assert field_of(manager).is_current(target, state_of(manager))

    index = target.obsm[ADATA_KEYS.NEIGHBOR_INDEX]
    assert index.min() >= target.n_obs
    assert index.max() < target.n_obs + 90
    rep, reference = target.obsm[ADATA_KEYS.GRAPH_REP], adata.obsm[ADATA_KEYS.GRAPH_REP]
    distances = np.linalg.norm(rep[:, None] - reference[None], axis=2)
    itself = target.obs_names.to_numpy()[:, None] == adata.obs_names.to_numpy()
    distances[itself] = np.inf
    np.testing.assert_allclose(
        np.take_along_axis(distances, index - target.n_obs, axis=1), np.sort(distances, axis=1)[:, :K], rtol=1e-4
    )
    for i, j in np.argwhere(itself):
        np.testing.assert_array_equal(index[i] - target.n_obs, adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX][j])
        for key in (ADATA_KEYS.NEIGHBOR_WEIGHT, ADATA_KEYS.GRAPH_REP):
            np.testing.assert_allclose(target.obsm[key][i], adata.obsm[key][j], atol=1e-4)


def test_the_reference_given_without_its_graph_gets_the_same_again(adata, manager):
    bare = make_adata()
    manager.transfer_fields(bare)
    assert same_tables(adata, bare)


def test_tables_of_two_models_take_turns(adata, manager):
    """The same cells as the data of one model and as a query of another: no table of the one is read by the other."""
    query = make_adata(seed=3)
    own = register(query)
    before = query.copy()
    mapped = manager.transfer_fields(query)
    assert query.obsm[ADATA_KEYS.NEIGHBOR_INDEX].min() >= 90
    assert not field_of(own).is_current(query, state_of(own), own_graph=True)
    own.validate()
    assert same_tables(query, before)
    assert not field_of(mapped).is_current(query, state_of(mapped))


def test_a_copy_is_not_rebuilt(adata, manager, caplog):
    target = adata.copy()
    with caplog.at_level(logging.INFO, logger="scsiameseclu"):
        manager.transfer_fields(target)
    assert "Building" not in caplog.text
    assert same_tables(adata, target)


def test_own_set_up_of_a_query_does_not_leak_into_the_model(adata, manager):
    """A query that was set up by itself has a current graph, but in the space of its own projection."""
    query = make_adata(seed=3)
    register(query)
    assert field_of(manager).is_current(query)
    assert not field_of(manager).is_current(query, state_of(manager))
    own = query.obsm[ADATA_KEYS.GRAPH_REP].copy()
    manager.transfer_fields(query)
    assert not np.allclose(own, query.obsm[ADATA_KEYS.GRAPH_REP])


def test_a_small_reference_leaves_padding(adata):
    manager = register(adata[:3].copy())
    target = adata[2:6].copy()
    manager.transfer_fields(target)
    index = target.obsm[ADATA_KEYS.NEIGHBOR_INDEX]
    assert index.shape == (4, K)
    np.testing.assert_array_equal((index >= 4).sum(axis=1), 2)
    assert (index[:, 2:] == np.arange(4)[:, None]).all()
    assert not target.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT][:, 2:].any()


def test_changes_in_place_are_noticed_and_repaired(adata, manager):
    field, state = field_of(manager), state_of(manager)
    assert field.is_current(adata, state)
    adata._inplace_subset_obs(np.arange(10, 60))
    assert not field.is_current(adata, state, own_graph=True)
    repaired = field.transfer_field(state, adata, own_graph=True)
    assert field.is_current(adata, repaired, own_graph=True)
    assert adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX].max() < 50
    assert repaired["landmarks"]["rep"].shape == (50, 5)
    assert state["landmarks"]["rep"].shape == (90, 5)


def test_state_is_plain_and_the_same_after_a_transfer(adata, manager):
    state = state_of(manager)
    assert set(map(type, state.values())) <= {int, bool, str, dict, list, type(None)}
    moved = state_of(manager.transfer_fields(adata[:40].copy()))
    assert moved.keys() == state.keys()
    assert moved["gene_names"] == sorted(adata.var_names)  # in the order of their names, whatever that of the columns
    deepcopy(state)


def test_given_representation(adata):
    manager = register(adata, use_rep="X_mine")
    assert state_of(manager)["projection"] is None
    query = make_adata(seed=4)
    manager.transfer_fields(query)
    np.testing.assert_allclose(query.obsm[ADATA_KEYS.GRAPH_REP], query.obsm["X_mine"], rtol=1e-6)
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
        np.take_along_axis(strengths, adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX], axis=1),
        adata.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT],
        rtol=1e-5,
    )
    query = make_adata(seed=4)
    with caplog.at_level(logging.WARNING, logger="scsiameseclu"):
        manager.transfer_fields(query)
    assert "lacks" in caplog.text
    assert field_of(manager).is_current(query, state_of(manager))
    assert (query.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT] > 0).all()
    # A graph of the query's own says nothing of neighbours in the reference.
    other = make_adata(seed=5)
    sc.pp.neighbors(other, n_neighbors=10, use_rep="X_mine")
    manager.transfer_fields(other)
    assert other.obsm[ADATA_KEYS.NEIGHBOR_INDEX].min() >= 90


def test_foreign_graph_cut_to_pieces_is_replaced(adata):
    sc.pp.neighbors(adata, n_neighbors=4, use_rep="X_mine")
    manager = register(adata, neighbors_key="neighbors")
    few = adata[[0, 40, 80, 20, 60, 10, 30]].copy()
    manager.transfer_fields(few)
    assert (few.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT] > 0).all()


def test_cells_of_new_batches_have_neighbors_in_all_batches_of_the_reference(adata):
    manager = register(adata, batch_key="batch")
    query = make_adata(seed=4)
    query.obs["batch"] = np.where(np.arange(90) % 3 == 0, "new", "newer")
    manager.transfer_fields(query, extend_categories=True)
    is_a = (adata.obs["batch"] == "a").to_numpy()
    np.testing.assert_array_equal(is_a[query.obsm[ADATA_KEYS.NEIGHBOR_INDEX] - 90].sum(axis=1), np.full(90, 3))
    query.obs["batch"] = query.obs["batch"].astype(object)
    query.obs.iloc[0, query.obs.columns.get_loc("batch")] = np.nan
    with pytest.raises(ValueError, match="1 missing"):
        manager.transfer_fields(query)


def test_genes_must_match(adata, manager, caplog):
    with pytest.raises(ValueError, match="another order"):
        manager.transfer_fields(adata[:, ::-1].copy())
    with pytest.raises(ValueError, match="found 49"):
        field_of(manager).transfer_field(state_of(manager), adata[:, 1:].copy())
    renamed = adata.copy()
    renamed.var_names = [f"ENSG{i}" for i in range(50)]
    with caplog.at_level(logging.WARNING, logger="scsiameseclu"):
        manager.transfer_fields(renamed)
    assert "Gene names differ" in caplog.text


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_counts_are_refused_whatever_the_graph_is_built_on(adata, value):
    adata.X.data[0] = value
    with pytest.raises(ValueError, match="cell 's0_0'"):
        CellGraphField(use_rep="X_mine").register_field(adata)


def test_modality_of_a_mudata():
    mdata = MuData({"rna": make_adata(), "protein": ad.AnnData(np.ones((90, 3)), obs=make_adata().obs[[]])})
    manager = AnnDataManager(fields=cell_graph_fields(mod_key="rna", n_neighbors=K, n_pcs=5))
    manager.register_fields(mdata)
    assert manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX).shape == (90, K)
    manager.transfer_fields(mdata[:40].copy())
