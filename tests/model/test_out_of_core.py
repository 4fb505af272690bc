"""Training with the counts on disk."""

import anndata
import numpy as np
import pytest
import scvi
import torch
import zarr
from scipy import sparse

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._rows import StoredRows
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import read_mapped
from scsiameseclu.tl import cluster

ROWS = [7, 3, 50, 3, 0]


@pytest.fixture(params=["csr", "dense"])
def path(request, tmp_path):
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, seed=0)
    if request.param == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path / "counts.h5ad"


def fitted(adata):
    scvi.settings.seed = 0
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16)
    model.train(max_epochs=3, batch_size=50, accelerator="cpu", enable_progress_bar=False)
    return model


def test_same_model_from_disk_as_from_memory(path):
    stored = anndata.read_h5ad(path, backed="r")
    models = [fitted(anndata.read_h5ad(path)), fitted(stored)]
    assert stored.isbacked
    first, second = (model.module.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (models[0].predict() == models[1].predict()).all()
    # The data set returns rows in the order of the request, whereas scvi-tools would sort them.
    batches = [model.adata_manager.create_torch_dataset()[ROWS] for model in models]
    assert batches[1][SIAMESE_KEYS.CELL_INDEX].ravel().tolist() == ROWS
    assert all(np.array_equal(batches[0][key], batches[1][key]) for key in batches[0])
    stored.file.close()


def test_same_model_from_a_collection_as_from_memory(tmp_path):
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, seed=0)
    store = zarr.open_group(tmp_path / "cells.zarr", mode="w")
    for number, rows in enumerate((slice(0, 50), slice(50, 120))):
        anndata.io.write_elem(store, f"dataset_{number}", adata[rows].copy())
    models = [fitted(adata)]
    for rebuild in (True, False):
        models.append(fitted(SCSiameseClu.setup_mapped(tmp_path / "cells.zarr", rebuild=rebuild, n_neighbors=15)))
    first, *others = (model.module.state_dict() for model in models)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    assert (tmp_path / "cells.zarr.mapped").is_dir()
    # A model that was loaded without data can read the copy, too. The copy is projected in chunks, which changes the
    # rounding of the products.
    models[0].save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=read_mapped(tmp_path / "cells.zarr.mapped"))
    assert np.allclose(loaded.get_latent_representation(), models[0].get_latent_representation(), atol=5e-6)


def test_a_collection_written_by_annbatch(tmp_path):
    annbatch = pytest.importorskip("annbatch")
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, seed=0)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    annbatch.DatasetCollection(tmp_path / "cells.zarr").add_adatas(
        [tmp_path / "cells.h5ad"], shuffle=True, dataset_size=50, shuffle_chunk_size=10, n_obs_per_chunk=10
    )
    found = SCSiameseClu.setup_mapped(tmp_path / "cells.zarr", tmp_path / "rows", genes=list(adata.var_names[:30]))
    assert found.shape == (120, 30)
    assert sorted(found.obs_names) == sorted(adata.obs_names)
    assert np.array_equal(found.X.toarray(), adata[found.obs_names, found.var_names].X.toarray())


def test_the_former_name_still_works(tmp_path):
    adata = synthetic(n_obs=60, n_vars=20, n_types=2, seed=0)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(FutureWarning, match="setup_mapped"):
        found = SCSiameseClu.setup_annbatch(tmp_path / "cells.h5ad", n_neighbors=5)
    assert found.shape == (60, 20)
    assert SCSiameseClu(found, n_clusters=2).adata is found


def test_stored_rows_are_read_once_and_in_order():
    class Disk:
        def __getitem__(self, rows):
            asked.append(list(rows))
            return sparse.csr_matrix(np.arange(20.0).reshape(10, 2)[rows])

    asked = []
    found = StoredRows(Disk(), np.float32)(np.array([4, 1, 4]))
    assert asked == [[1, 4]]
    assert found.dtype == np.float32
    assert found.tolist() == [[8, 9], [2, 3], [8, 9]]


def test_rows_that_cannot_be_read_in_order_are_refused(tmp_path):
    """scvi-tools would sort the rows, and give every cell the result of another cell."""
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, seed=0)
    model = fitted(adata.copy())
    adata.X = sparse.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "csc.h5ad")
    stored = anndata.read_h5ad(tmp_path / "csc.h5ad", backed="r")
    with pytest.raises(NotImplementedError, match="CSR"):
        model.get_latent_representation(stored, indices=ROWS)


def test_one_call_refuses_backed_data(path):
    with pytest.raises(NotImplementedError, match="setup_anndata"):
        cluster(anndata.read_h5ad(path, backed="r"))
