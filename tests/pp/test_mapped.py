"""Counts copied to memory-mapped files."""

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from scsiameseclu.datasets import synthetic
from scsiameseclu.pp import read_mapped, write_mapped


@pytest.fixture
def adata():
    return synthetic(n_obs=60, n_vars=12, n_types=3, seed=0)


def is_mapped(array) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


def equal(first, second) -> bool:
    return first.shape == second.shape and (sparse.csr_matrix(first) != sparse.csr_matrix(second)).nnz == 0


@pytest.mark.parametrize("kind", ["csr", "dense", "layer"])
def test_counts_stay_on_disk_and_are_the_same(adata, tmp_path, kind):
    layer, counts = None, adata.X
    if kind == "dense":
        adata.X = adata.X.toarray()
    if kind == "layer":
        layer, adata.layers["raw"], adata.X = "raw", counts, sparse.csr_matrix(adata.shape)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    mapped = write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped", layer=layer)
    assert equal(mapped.X, counts)
    assert mapped.X.dtype == counts.dtype
    assert all(is_mapped(array) for array in (mapped.X.data, mapped.X.indices, mapped.X.indptr))
    pd.testing.assert_frame_equal(mapped.obs, adata.obs)
    pd.testing.assert_frame_equal(mapped.var, adata.var)
    with pytest.raises(ValueError, match="read-only"):
        mapped.X.data[0] = 1


def test_a_collection_is_one_matrix_in_the_order_of_its_numbers(adata, tmp_path):
    store = zarr.open_group(tmp_path / "collection.zarr", mode="w")
    adata.obs["type"] = pd.Categorical(np.repeat(["a", "b", "c"], 20))
    # dataset_10 comes after dataset_2, and no data set has all categories.
    for number, rows in ((0, slice(0, 25)), (2, slice(25, 30)), (10, slice(30, 60))):
        part = adata[rows].copy()
        anndata.io.write_elem(store, f"dataset_{number}", part)
    store.create_group("something else")
    mapped = write_mapped(tmp_path / "collection.zarr", tmp_path / "mapped")
    assert list(mapped.obs_names) == list(adata.obs_names)
    assert equal(mapped.X, adata.X)
    assert list(mapped.obs["type"]) == list(adata.obs["type"])
    assert isinstance(mapped.obs["type"].dtype, pd.CategoricalDtype)


def test_several_files_and_a_choice_of_genes(adata, tmp_path):
    adata[:20].copy().write_h5ad(tmp_path / "a.h5ad")
    adata[20:].copy().write_zarr(tmp_path / "b.zarr")
    genes = list(adata.var_names[[7, 2, 4]])
    mapped = write_mapped([tmp_path / "a.h5ad", tmp_path / "b.zarr"], tmp_path / "mapped", genes=genes)
    assert list(mapped.var_names) == genes
    assert equal(mapped.X, adata[:, genes].X)
    assert mapped.X.has_sorted_indices


def test_opened_again(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    write_mapped(str(tmp_path / "cells.h5ad"), tmp_path / "mapped")
    assert equal(read_mapped(str(tmp_path / "mapped")).X, adata.X)


def test_cells_without_counts(adata, tmp_path):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.int64)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    mapped = write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
    assert mapped.X.nnz == 0
    assert mapped.X.dtype == np.int64


def test_existing_data_are_replaced_only_when_asked(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
    adata[:5].copy().write_h5ad(tmp_path / "five.h5ad")
    assert write_mapped(tmp_path / "five.h5ad", tmp_path / "mapped", overwrite=True).n_obs == 5
    (tmp_path / "mapped" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        write_mapped(tmp_path / "five.h5ad", tmp_path / "mapped", overwrite=True)
    assert read_mapped(tmp_path / "mapped").n_obs == 5


def test_a_copy_that_was_cut_short_leaves_the_old_one(adata, tmp_path, monkeypatch):
    adata.write_h5ad(tmp_path / "cells.h5ad")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scsiameseclu.pp._mapped._write_counts", killed)
        with pytest.raises(KeyboardInterrupt):
            write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
        with pytest.raises(FileNotFoundError, match="write the data again"):
            read_mapped(tmp_path / "mapped")
        patch.undo()
        write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
        patch.setattr("scsiameseclu.pp._mapped._write_counts", killed)
        with pytest.raises(KeyboardInterrupt):
            write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped", genes=adata.var_names[:2], overwrite=True)
    assert read_mapped(tmp_path / "mapped").shape == adata.shape


def test_bad_sources(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    other = adata[:, ::-1].copy()
    other.write_h5ad(tmp_path / "other.h5ad")
    adata.X = sparse.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "csc.h5ad")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    (tmp_path / "folder").mkdir()
    target = tmp_path / "mapped"
    for error, match, sources, options in [
        (FileNotFoundError, "nothing at", tmp_path / "absent.h5ad", {}),
        (ValueError, "at least one source", [], {}),
        (ValueError, "found none in", tmp_path / "empty.zarr", {}),
        (ValueError, "folder of another kind", tmp_path / "folder", {}),
        (ValueError, "same genes", [tmp_path / "cells.h5ad", tmp_path / "other.h5ad"], {}),
        (NotImplementedError, "CSC", tmp_path / "csc.h5ad", {}),
        (KeyError, "layers/raw", tmp_path / "cells.h5ad", {"layer": "raw"}),
        (KeyError, "nowhere", tmp_path / "cells.h5ad", {"genes": ["nowhere"]}),
    ]:
        with pytest.raises(error, match=match):
            write_mapped(sources, target, **options)
        assert not target.exists()
