import numpy as np
import pytest
import torch
from scvi.data import AnnTorchDataset
from scvi.dataloaders import AnnDataLoader

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._loader import view_keys
from scsiameseclu.data._partners import PartnerSampler
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


def make_model(diffusion):
    adata = synthetic(n_obs=60, n_vars=30, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5, diffusion=diffusion)
    return SCSiameseClu(adata, n_clusters=3)


@pytest.fixture
def model():
    return make_model(diffusion=False)


@pytest.fixture
def diffused():
    return make_model(diffusion=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_the_rows_and_their_neighbors(diffused, workers):
    model = diffused
    rows = np.array([7, 3, 50, 3])
    options = {"num_workers": workers, "persistent_workers": False}
    (batch,) = AnnDataLoader(model.adata_manager, indices=rows, batch_size=10, **options)
    adata = model.adata
    tables = model.adata_manager.blocks.tables
    rep = tables[SIAMESE_KEYS.GRAPH_REP]
    assert batch[SIAMESE_KEYS.CELL_INDEX].tolist() == rows[:, None].tolist()
    assert np.allclose(batch["X"], adata.X[rows].toarray())
    for index_key, rep_key in (
        (SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_REP),
        (SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_REP),
    ):
        index = tables[index_key][rows]
        assert batch[index_key].dtype == torch.int64
        assert np.array_equal(batch[index_key], index)
        assert batch[rep_key].dtype == torch.float32
        assert np.allclose(batch[rep_key], rep[index])


def test_a_single_row(model):
    dataset = model.adata_manager.create_torch_dataset()
    batch = dataset[4]
    assert batch[SIAMESE_KEYS.CELL_INDEX].tolist() == [[4]]
    assert batch[SIAMESE_KEYS.NEIGHBOR_REP].shape[:2] == (1, 5)


def test_only_some_keys(model):
    dataset = model.adata_manager.create_torch_dataset(data_and_attributes=["X"])
    assert set(dataset[[0, 1]]) == {"X", SIAMESE_KEYS.CELL_INDEX}


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "int64"])
def test_own_look_up_equals_that_of_scvi_tools(kind):
    adata = synthetic(n_obs=60, n_vars=30, n_types=3, n_batches=2, seed=0)
    adata.obs["score"] = np.linspace(0, 1, 60)
    convert = {
        "csr": lambda x: x,
        "csc": lambda x: x.tocsc(),
        "dense": lambda x: x.toarray(),
        "int64": lambda x: x.astype(int),
    }
    adata.X = convert[kind](adata.X)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5, batch_key="batch", continuous_covariate_keys=["score"])
    manager = SCSiameseClu(adata, n_clusters=3).adata_manager
    dataset, rows = manager.create_torch_dataset(), [7, 3, 50, 3]
    batch, expected = dataset[rows], AnnTorchDataset.__getitem__(dataset, rows)
    assert dataset._readers is not None
    assert set(expected) < set(batch)
    for key, values in expected.items():
        assert batch[key].dtype == values.dtype, key
        assert np.array_equal(batch[key], values), key
    other = manager.create_torch_dataset(load_sparse_tensor=True)
    assert other._readers is None


def test_rows_by_slice_mask_and_negative_number(model):
    dataset = model.adata_manager.create_torch_dataset(data_and_attributes=["X"])
    key = SIAMESE_KEYS.CELL_INDEX
    assert dataset[slice(2, 8, 3)][key].ravel().tolist() == [2, 5]
    assert dataset[np.arange(60) == 4][key].ravel().tolist() == [4]
    assert dataset[[-1]][key].ravel().tolist() == [59]


def test_both_views_load_the_same_block_without_diffusion(model):
    first, second = (view_keys(model.adata_manager, view) for view in ("first", "second"))
    assert first == second
    assert {SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_WEIGHT} < set(first)
    assert not any("diffused" in key for key in model.adata_manager.create_torch_dataset()[[0, 1]])


def test_each_view_loads_its_own_block_only_with_diffusion(diffused):
    first, second = (set(view_keys(diffused.adata_manager, view)) for view in ("first", "second"))
    assert first ^ second == {
        SIAMESE_KEYS.NEIGHBOR_INDEX,
        SIAMESE_KEYS.NEIGHBOR_WEIGHT,
        SIAMESE_KEYS.DIFFUSED_INDEX,
        SIAMESE_KEYS.DIFFUSED_WEIGHT,
    }
    assert "labels" not in first | second


@pytest.mark.parametrize("diffusion", [False, True])
def test_neighbors_of_a_query_are_landmarks_and_its_partners_itself(diffusion):
    model = make_model(diffusion)
    query = synthetic(n_obs=40, n_vars=30, n_types=3, seed=1)
    manager = model.adata_manager.transfer_fields(query)
    rows = [3, 30]
    batch = {key: torch.as_tensor(value) for key, value in manager.create_torch_dataset()[rows].items()}
    index = manager.blocks.tables[SIAMESE_KEYS.NEIGHBOR_INDEX][rows]
    assert index.min() >= 40
    assert np.allclose(
        batch[SIAMESE_KEYS.NEIGHBOR_REP], model.adata_manager.blocks.tables[SIAMESE_KEYS.GRAPH_REP][index - 40]
    )
    assert (SIAMESE_KEYS.DIFFUSED_REP in batch) == diffusion
    if diffusion:
        assert np.allclose(batch[SIAMESE_KEYS.DIFFUSED_REP], batch[SIAMESE_KEYS.NEIGHBOR_REP])
    partner = PartnerSampler(manager, np.arange(manager.adata.n_obs))(batch)
    assert partner[SIAMESE_KEYS.CELL_INDEX].tolist() == [[3], [30]]
