"""Files for viewers hold no internal entries, and everything that viewers need."""

import h5py
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData, read_h5ad

from scsiameseclu import pl, tl
from scsiameseclu._keys import ADATA_KEYS
from scsiameseclu.datasets import synthetic

SHORT = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False}
PLAIN = {"array", "csr_matrix", "csc_matrix", "dataframe", "dict", "categorical", "string-array", "string"}
PLAIN |= {"numeric-scalar", "anndata", "raw"}


@pytest.fixture(scope="module")
def clustered() -> AnnData:
    """Cells on which a model was trained, with the columns that scvi-tools writes."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=120, n_vars=50, n_types=3, n_batches=2)
    tl.cluster(adata, 3, batch_key="batch", train_kwargs=SHORT, model_kwargs={"n_hidden": 32, "n_latent": 6})
    pl.embedding(adata, return_fig=True)
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_a_viewer_finds_what_it_asks_for_and_nothing_internal(clustered, tmp_path):
    assert any(name.startswith("_scvi") for name in clustered.obs)  # the test needs internal columns
    assert {ADATA_KEYS.GRAPH_REP, ADATA_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.NEIGHBOR_WEIGHT} <= set(clustered.obsm)
    before = clustered.copy()
    tl.export(clustered, tmp_path / "new" / "cells.h5ad")
    assert set(clustered.obs) == set(before.obs) and set(clustered.uns) == set(before.uns)
    assert set(clustered.obsm) == set(before.obsm)
    read = read_h5ad(tmp_path / "new" / "cells.h5ad")
    for slot in (read.obs, read.var, read.uns, read.obsm, read.obsp, read.layers):
        assert not [name for name in slot if str(name).startswith("_")]
    assert set(read.obsm) == {"X_siamese_clu", "X_siamese_clu_umap", "siamese_clu_probs"}
    assert read.obs_names.is_unique and read.var_names.is_unique
    for name in ("X_siamese_clu", "X_siamese_clu_umap"):
        assert read.obsm[name].ndim == 2 and read.obsm[name].shape[1] >= 2 and np.isfinite(read.obsm[name]).all()
    for name in ("siamese_clu", "batch"):
        assert all(type(each) is str for each in read.obs[name].cat.categories)
    assert (read.X != clustered.X).nnz == 0 and (read.layers["counts"] != clustered.X).nnz == 0
    assert read.raw.shape == clustered.shape
    pd.testing.assert_series_equal(read.obs["siamese_clu"], clustered.obs["siamese_clu"])


def test_every_part_of_the_file_is_of_a_kind_that_other_languages_read(clustered, tmp_path):
    tl.export(clustered, tmp_path / "cells.h5ad")
    kinds = set()
    with h5py.File(tmp_path / "cells.h5ad") as file:
        file.visititems(lambda _, item: kinds.add(item.attrs.get("encoding-type")))
    assert kinds - {None} <= PLAIN


def test_the_table_has_the_embedding(clustered, tmp_path):
    tl.export(clustered, tmp_path / "cells.h5ad", csv=tmp_path / "tables" / "cells.csv")
    table = pd.read_csv(tmp_path / "tables" / "cells.csv", index_col="cell", dtype={"siamese_clu": str})
    assert list(table.index) == list(clustered.obs_names)
    assert list(table["siamese_clu"]) == list(clustered.obs["siamese_clu"])
    latent = table[[f"siamese_clu_{number}" for number in range(1, 7)]]
    np.testing.assert_allclose(latent, clustered.obsm["X_siamese_clu"], rtol=1e-4, atol=1e-6)
    plane = table[["siamese_clu_umap_1", "siamese_clu_umap_2"]]
    np.testing.assert_allclose(plane, clustered.obsm["X_siamese_clu_umap"], rtol=1e-4)


def test_what_viewers_refuse_is_refused(clustered, tmp_path):
    bare = clustered.copy()
    del bare.obsm["X_siamese_clu_umap"]
    with pytest.raises(ValueError, match="call pl.embedding"):
        tl.export(bare, tmp_path / "cells.h5ad")
    broken = clustered.copy()
    broken.obsm["X_siamese_clu_umap"][3, 0] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['X_siamese_clu_umap'\], found NaN"):
        tl.export(broken, tmp_path / "cells.h5ad")
    for slot in ("obs", "var"):
        twice = clustered.copy()
        setattr(twice, f"{slot}_names", ["same"] * len(getattr(twice, slot)))
        with pytest.raises(ValueError, match=f"adata.{slot}_names_make_unique"):
            tl.export(twice, tmp_path / "cells.h5ad")
    with pytest.raises(KeyError, match="Expected clusters in obs"):
        tl.export(clustered, tmp_path / "cells.h5ad", key="other", csv=tmp_path / "cells.csv")
    assert list(tmp_path.iterdir()) == []
