"""Cells are mapped chunk by chunk, from stores to a store."""

import gc
import logging
import os
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import anndata
import numpy as np
import pytest
import scvi
import zarr
from anndata import AnnData
from scipy import sparse

from scsiameseclu import _compat, tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.tl import _map_atlas

KEY = "siamese_clu"
SHORT = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False}
QUIET = {"accelerator": "cpu", "progress_bar": False}


@pytest.fixture(scope="module")
def model() -> SCSiameseClu:
    scvi.settings.seed = 0
    adata = synthetic(n_obs=200, n_vars=60, n_types=3, n_batches=2)
    return tl.cluster(adata, 3, batch_key="batch", n_neighbors=8, train_kwargs=SHORT, model_kwargs={"n_hidden": 32})


@pytest.fixture
def query() -> AnnData:
    """Cells with some unassigned cells, and some cells of a new batch."""
    query = synthetic(n_obs=50, n_vars=60, n_types=3, n_batches=3, seed=1)
    query.obs_names = [f"cell {number}" for number in range(query.n_obs)]
    return query


class Heard(logging.Handler):
    """What scvi-tools logs about the genes of a query."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages += [record.getMessage()] if "reference vars" in record.getMessage() else []


@pytest.fixture
def heard(monkeypatch):
    listener, logger = Heard(), logging.getLogger("scvi.model.base._archesmixin")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(listener)
    yield listener.messages
    logger.removeHandler(listener)
    assert not logger.filters


def test_scvi_tools_speaks_of_genes_to_the_user_and_not_of_every_chunk(model, query, heard, tmp_path):
    other_order = query[:, ::-1].copy()
    options = {"chunk_size": 20, **QUIET}
    with ThreadPoolExecutor(1) as another:
        tl.map_atlas(other_order, model, tmp_path / "here.zarr", **options)
        another.submit(tl.map_atlas, other_order, model, tmp_path / "there.zarr", **options).result()
        assert not heard
        with _compat.no_word_on_genes():  # a user who maps cells in another thread at the same time
            another.submit(tl.map, other_order, model).result()
            assert len(heard) == 1
    SCSiameseClu.load_query_data(query[:, ::-1].copy(), model)
    assert len(heard) == 2


def as_h5ad(query, folder):
    query.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def as_two_stores(query, folder):
    """Two stores with different orders of genes; batches are text in one store and categories in the other."""
    first, second = query[:21].copy(), query[21:, ::-1].copy()
    first.obs["batch"] = first.obs["batch"].astype(str).astype(object)
    second.X = second.X.toarray()
    first.write_zarr(folder / "first.zarr")
    second.write_h5ad(folder / "second.h5ad")
    return [folder / "first.zarr", str(folder / "second.h5ad")]


def as_collection(query, folder):
    store = zarr.open_group(folder / "collection.zarr", mode="w")
    for number, rows in ((2, slice(0, 9)), (10, slice(9, 50))):
        anndata.io.write_elem(store, f"dataset_{number}", query[rows].copy())
    return folder / "collection.zarr"


def as_backed(query, folder):
    return anndata.read_h5ad(as_h5ad(query, folder), backed="r")


def as_dask(query, folder):
    dask = pytest.importorskip("dask.array")
    query = query.copy()
    query.X = dask.from_array(query.X.toarray(), chunks=(7, 60)).map_blocks(sparse.csr_matrix)
    return query


@pytest.mark.parametrize("chunk_size", [16, 50, 1000])
@pytest.mark.parametrize("stored", [as_h5ad, as_two_stores, as_collection, as_backed, as_dask])
def test_results_are_those_in_memory(model, query, tmp_path, stored, chunk_size):
    out = tl.map_atlas(stored(query, tmp_path), model, tmp_path / "out.zarr", chunk_size=chunk_size, **QUIET)
    tl.map(query, model, accelerator="cpu")
    found = anndata.read_zarr(out)
    assert found.obs_names.equals(query.obs_names) and found.shape == (50, 0) and found.X is None
    assert (found.obs[KEY].astype(str) == query.obs[KEY].astype(str)).all()
    for name in (f"{KEY}_confidence", f"{KEY}_out_of_reference"):
        assert found.obs[name].dtype == np.float32
        np.testing.assert_allclose(found.obs[name], query.obs[name], atol=1e-5)
    np.testing.assert_allclose(found.obsm[f"X_{KEY}"], query.obsm[f"X_{KEY}"], atol=1e-5)
    assert found.uns[KEY]["n_unassigned"] == query.uns[KEY]["n_unassigned"]
    assert found.uns[KEY]["mean_confidence"] == pytest.approx(query.obs[f"{KEY}_confidence"].mean(), abs=1e-5)
    assert found.uns[KEY]["params"]["max_out_of_reference"] == 0.95
    assert {path.name for path in tmp_path.iterdir() if "out" in path.name} == {"out.zarr"}


def test_a_saved_model_counts_in_a_layer_and_the_limits(tmp_path):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=80, n_vars=40, n_types=2)
    adata.obsm["rep"] = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    adata.layers["counts"], adata.X = adata.X, None
    reference = tl.cluster(
        adata, 2, layer="counts", use_rep="rep", n_neighbors=5, train_kwargs={**SHORT, "max_epochs": 2}
    )
    reference.save(tmp_path / "model")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    limits = {"max_out_of_reference": None, "min_confidence": float(adata.obs[f"{KEY}_confidence"].median())}
    tl.map_atlas(tmp_path / "cells.h5ad", tmp_path / "model", tmp_path / "out", key_added="a", **limits, **QUIET)
    found = anndata.read_zarr(tmp_path / "out")
    assert ((found.obs["a"] == "unassigned") == (found.obs["a_confidence"] < limits["min_confidence"])).all()
    assert found.uns["a"]["n_unassigned"] == (found.obs["a"] == "unassigned").sum() > 0


KILLED = """
import os, signal, sys
from scsiameseclu import tl
from scsiameseclu.tl._map_output import MapOutput

write = MapOutput.write

def write_and_die(self, start, cells):
    write(self, start, cells[: cells.n_obs // 2].copy() if start >= 30 else cells)
    if start >= 30:
        os.kill(os.getpid(), signal.SIGKILL)

MapOutput.write = write_and_die
tl.map_atlas("cells.h5ad", "model", "out", chunk_size=10, accelerator="cpu", progress_bar=False)
"""


def test_a_killed_run_goes_on_after_the_last_complete_chunk(model, query, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    query.write_h5ad(tmp_path / "cells.h5ad")
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists()
    with (tmp_path / "out.partial" / "progress.jsonl").open("a") as file:
        file.write('{"chunk": 3, "n_ce')  # an incomplete line
    mapped = []

    def count(cells, *args, **options):
        mapped.append(list(cells.obs_names))
        return tl.map(cells, *args, **options)

    monkeypatch.setattr(_map_atlas, "map_cells", count)
    arguments = (tmp_path / "cells.h5ad", tmp_path / "model", tmp_path / "out")
    with pytest.raises(ValueError, match=r"other values of min_confidence.*overwrite=True"):
        tl.map_atlas(*arguments, chunk_size=10, min_confidence=0.5, **QUIET)
    tl.map_atlas(*arguments, chunk_size=10, **QUIET)
    assert mapped == [list(query.obs_names[30:40]), list(query.obs_names[40:])]
    tl.map(query, model, accelerator="cpu")
    found = anndata.read_zarr(tmp_path / "out")
    assert (found.obs[KEY].astype(str) == query.obs[KEY].astype(str)).all()
    np.testing.assert_allclose(found.obsm[f"X_{KEY}"], query.obsm[f"X_{KEY}"], atol=1e-5)
    assert found.uns[KEY]["n_unassigned"] == query.uns[KEY]["n_unassigned"]


def test_what_is_there_is_replaced_only_when_asked_and_by_a_whole(model, query, tmp_path, monkeypatch):
    as_h5ad(query, tmp_path)
    arguments = (tmp_path / "cells.h5ad", model, tmp_path / "out")
    tl.map_atlas(*arguments, chunk_size=20, **QUIET)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        tl.map_atlas(*arguments, **QUIET)

    def fail(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_map_atlas, "map_cells", fail)
        with pytest.raises(KeyboardInterrupt):
            tl.map_atlas(*arguments, key_added="b", overwrite=True, **QUIET)
    assert KEY in anndata.read_zarr(tmp_path / "out").obs
    tl.map_atlas(*arguments, key_added="c", overwrite=True, **QUIET)
    assert "c" in anndata.read_zarr(tmp_path / "out").obs
    assert {path.name for path in tmp_path.iterdir()} == {"cells.h5ad", "out"}


@pytest.mark.slow
def test_memory_is_that_of_a_chunk_whatever_the_number_of_cells(model, tmp_path):
    def peak(n_obs):
        adata = synthetic(n_obs=n_obs, n_vars=60, n_types=3, n_batches=2, seed=1)
        adata.write_h5ad(tmp_path / "cells.h5ad")
        del adata
        gc.collect()
        tracemalloc.start()
        tl.map_atlas(tmp_path / "cells.h5ad", model, tmp_path / "out", chunk_size=500, overwrite=True, **QUIET)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(500)  # memory that is needed once
    few, many = peak(1000), peak(6000)
    counts_of_all = 6000 * 60 * 0.3 * 8
    assert many - few < counts_of_all / 10


def test_workers_of_dask_find_the_same(model, query, tmp_path):
    distributed = pytest.importorskip("distributed")
    stores = as_two_stores(query, tmp_path)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            tl.map_atlas(stores, model, tmp_path / "out", client, chunk_size=12, **QUIET)
    tl.map(query, model, accelerator="cpu")
    found = anndata.read_zarr(tmp_path / "out")
    assert found.obs_names.equals(query.obs_names)
    assert (found.obs[KEY].astype(str) == query.obs[KEY].astype(str)).all()
    np.testing.assert_allclose(found.obsm[f"X_{KEY}"], query.obsm[f"X_{KEY}"], atol=1e-5)


def test_arguments_that_cannot_be_meant(model, query, tmp_path):
    path, out = as_h5ad(query, tmp_path), tmp_path / "out"
    (tmp_path / "folder").mkdir()
    bare = query.copy()
    del bare.obs["batch"]
    bad = query.copy()
    bad.X = sparse.csc_matrix(bad.X)
    bad.write_h5ad(tmp_path / "csc.h5ad")
    for error, match, store, options in [
        (ValueError, "chunk_size", path, {"chunk_size": 0}),
        (ValueError, "max_out_of_reference", path, {"max_out_of_reference": 2}),
        (ValueError, "key_added", path, {"key_added": "a/b"}),
        (FileNotFoundError, "nothing at", tmp_path / "absent.h5ad", {}),
        (ValueError, "another kind", tmp_path / "folder", {}),
        (ValueError, "at least one store", [], {}),
        (ValueError, "at least one cell", query[:0].copy(), {}),
        (KeyError, "batch", bare, {}),
        (NotImplementedError, "CSC", tmp_path / "csc.h5ad", {}),
    ]:
        with pytest.raises(error, match=match):
            tl.map_atlas(store, model, out, **{**QUIET, **options})
        assert not out.exists()
    with pytest.raises(ValueError, match="name of a zarr store.*found .*mapped.h5ad"):
        tl.map_atlas(path, model, tmp_path / "mapped.h5ad", **QUIET)


def test_a_part_of_the_job_is_known_by_the_model(model, query, tmp_path, monkeypatch):
    """After a change of the weights the job must start anew, or half of the cells would have other clusters."""
    as_h5ad(query, tmp_path)
    before = _map_atlas._digest(model)
    with monkeypatch.context() as patch:
        weights = model.module.state_dict()
        name = next(name for name, values in weights.items() if values.dtype.is_floating_point and values.numel() > 1)
        patch.setattr(model.module, "state_dict", lambda: {**weights, name: weights[name] + 1})
        assert _map_atlas._digest(model) != before
    assert _map_atlas._digest(model) == before
