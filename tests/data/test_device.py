"""Data held on a device give the same batches and the same model as the usual loader."""

import anndata
import numpy as np
import pytest
import scvi
import torch
from scipy import sparse

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._device import DeviceSparseRows, device_row_reader, fits_on
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

CPU = torch.device("cpu")
ROWS = [7, 3, 50, 3, 0]


def set_up():
    scvi.settings.seed = 0
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, n_batches=2, seed=0)
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    return SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16)


@pytest.mark.parametrize("rows", [ROWS, slice(5, 9), 4, torch.tensor(ROWS)])
def test_batches_are_those_of_the_usual_loader(rows):
    manager = set_up().adata_manager
    dataset = manager.create_torch_dataset()
    expected = dataset[rows]
    with manager.on_device(CPU):
        found = dataset[rows]
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert isinstance(value, torch.Tensor)
        assert value.dtype == torch.as_tensor(expected[key]).dtype
        assert np.array_equal(value, expected[key])
    assert isinstance(dataset[rows][SIAMESE_KEYS.CELL_INDEX], np.ndarray)


def test_held_once_in_the_middle_of_a_training():
    manager = set_up().adata_manager
    with manager.on_device(CPU):
        held = manager.device_data
        with manager.on_device(CPU):
            assert manager.device_data is held
        assert manager.device_data is held
    assert manager.device_data is None


def test_query_cells_find_their_landmarks():
    model = set_up()
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    query = synthetic(n_obs=30, n_vars=40, n_types=3, n_batches=2, seed=1)
    manager = SCSiameseClu.load_query_data(query, model).adata_manager
    dataset = manager.create_torch_dataset()
    expected = dataset[ROWS[:2]]
    assert expected[SIAMESE_KEYS.NEIGHBOR_INDEX].min() >= 30
    with manager.on_device(CPU):
        found = dataset[ROWS[:2]]
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("matrix", [sparse.random(20, 9, 0.3, "csr", random_state=0), sparse.csc_matrix((20, 9))])
def test_sparse_rows(matrix):
    found = DeviceSparseRows(matrix, np.float32, CPU)(torch.tensor(ROWS[:2]))
    assert np.array_equal(found, matrix.toarray()[ROWS[:2]].astype(np.float32))


def test_values_stored_in_parts_are_added_up():
    matrix = sparse.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([2, 2, 0]), np.array([0, 2, 3])), shape=(2, 3))
    assert device_row_reader(matrix, np.float32, CPU)(torch.tensor([1, 0])).tolist() == [[4, 0, 0], [0, 0, 3]]


def test_same_model():
    states = []
    for on_device in (False, True):
        model = set_up()
        options = {"on_device": True} if on_device else {}
        model.train(
            max_epochs=3, batch_size=50, accelerator="cpu", enable_progress_bar=False, datasplitter_kwargs=options
        )
        assert model.adata_manager.device_data is None
        states.append(model.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_cannot_be_held_is_refused(tmp_path):
    model = set_up()
    for options in ({"datasplitter_kwargs": {"on_device": True, "num_workers": 1}}, {"devices": 2, "strategy": "ddp"}):
        options.setdefault("datasplitter_kwargs", {"on_device": True})
        with pytest.raises(ValueError, match="leave out on_device"):
            model.train(max_epochs=1, accelerator="cpu", **options)
    synthetic(n_obs=120, n_vars=40, n_types=3, seed=0).write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    SCSiameseClu.setup_anndata(backed)
    model = SCSiameseClu(backed, n_clusters=3, n_latent=6, n_hidden=16)
    with pytest.raises(NotImplementedError, match="in memory"):
        model.train(max_epochs=1, accelerator="cpu", datasplitter_kwargs={"on_device": True})


def test_data_are_held_by_themselves_only_on_a_gpu_with_room(monkeypatch):
    manager = set_up().adata_manager
    size = 8 * (manager.adata.X.nnz + manager.adata.n_obs)
    free = [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 1 << 40))
    gpu = torch.device("cuda")
    assert not fits_on(CPU, manager)
    assert not fits_on(gpu, manager)
    free[0] = 2 * size  # enough for the counts alone
    assert not fits_on(gpu, manager)
    free[0] = 1 << 30
    assert fits_on(gpu, manager)
    monkeypatch.setattr(type(manager), "get_from_registry", lambda *_: object())  # not in memory
    assert not fits_on(gpu, manager)
