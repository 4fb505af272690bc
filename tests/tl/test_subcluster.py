"""Clusters within a cluster: other cells keep their cluster, names follow scanpy, the new model uses these names."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
from anndata import AnnData, read_h5ad

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic

FAST = {
    "train_kwargs": {"max_epochs": 8, "accelerator": "cpu", "enable_progress_bar": False},
    "model_kwargs": {"n_hidden": 32, "n_latent": 8},
    "n_neighbors": 8,
}


@pytest.fixture
def adata() -> AnnData:
    """Three clusters, of which the first holds two types."""
    adata = synthetic(n_obs=240, n_vars=100, n_types=4, n_batches=2, seed=0)
    types = adata.obs["cell_type"].cat.codes
    adata.obs["siamese_clu"] = pd.Categorical(np.maximum(types - 1, 0).astype(str))
    adata.obs["siamese_clu_confidence"] = np.linspace(0.5, 1.0, 240, dtype=np.float32)
    return adata


def part_of(adata, clusters, n_clusters=2, **options):
    scvi.settings.seed = 0
    return tl.subcluster(adata, clusters, n_clusters, **{**FAST, **options})


def test_only_the_cells_of_the_cluster_get_other_labels(adata, tmp_path):
    before = adata.copy()
    model = part_of(adata, "0", n_top_genes=60)
    inside = (adata.obs["siamese_clu"] == "0").to_numpy()
    labels = adata.obs["siamese_clu_R"]
    assert list(labels.cat.categories) == ["0,0", "0,1", "1", "2"]
    assert set(labels[inside]) == {"0,0", "0,1"}
    assert (labels[~inside].astype(str) == before.obs["siamese_clu"][~inside].astype(str)).all()
    assert labels.value_counts()["0,0"] >= labels.value_counts()["0,1"]
    assert (model.predict().astype(str) == labels[inside].astype(str)).all()
    pd.testing.assert_frame_equal(adata.obs[before.obs.columns.tolist()], before.obs)
    assert set(adata.obs) - set(before.obs) == {"siamese_clu_R", "siamese_clu_R_confidence"}
    assert set(adata.uns) - set(before.uns) == {"siamese_clu_R"} and set(adata.obsm) == set(before.obsm)
    assert (adata.X != before.X).nnz == 0 and not adata.obsp and model.adata.shape == (inside.sum(), 60)
    adata.write_h5ad(tmp_path / "result.h5ad")
    assert list(read_h5ad(tmp_path / "result.h5ad").uns["siamese_clu_R"]["params"]["restricted_to"]) == ["0"]


def test_confidences_are_multiplied(adata):
    model = part_of(adata, "0")
    inside = (adata.obs["siamese_clu"] == "0").to_numpy()
    found, before = adata.obs["siamese_clu_R_confidence"], adata.obs["siamese_clu_confidence"]
    within = model.predict(soft=True).max(axis=1)
    np.testing.assert_allclose(found[inside], before[inside] * within, rtol=1e-5)
    np.testing.assert_array_equal(found[~inside], before[~inside])
    del adata.obs["siamese_clu_confidence"]
    part_of(adata, "0", key_added="other")
    assert "other_confidence" not in adata.obs


def test_names_are_those_of_scanpy(adata):
    part_of(adata, ["0", "2"], 3)
    cells = adata.copy()
    sc.pp.neighbors(cells, use_rep="X")
    sc.tl.leiden(cells, restrict_to=("siamese_clu", ["0", "2"]), flavor="igraph", n_iterations=2, directed=False)
    ours, theirs = (cells.obs[name].cat.categories for name in ("siamese_clu_R", "leiden_R"))
    assert {name.split(",")[0] for name in ours} == {name.split(",")[0] for name in theirs} == {"0-2", "1"}


def test_settings_of_the_clusters_are_followed(adata):
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X * 0.37
    adata.uns["siamese_clu"] = {"params": {"layer": "counts", "batch_key": "batch", "n_clusters_requested": "3"}}
    model = part_of(adata, "0")
    assert model.registry["setup_args"]["layer"] == "counts" and model.registry["setup_args"]["batch_key"] == "batch"
    assert part_of(adata, "0", batch_key=None).registry["setup_args"]["batch_key"] is None
    assert adata.uns["siamese_clu_R"]["n_clusters"] == 4  # a second call with the same name


def test_a_query_gets_the_names_of_the_parts(adata, tmp_path):
    part_of(adata, "0").save(tmp_path / "part")
    query = synthetic(n_obs=40, n_vars=100, n_types=4, n_batches=2, seed=1)
    tl.map(query, tmp_path / "part", max_out_of_reference=None)
    assert set(query.obs["siamese_clu"]) <= {"0,0", "0,1"}


def test_wrong_calls(adata):
    for clusters, message in (("7", r"found \['7'\]"), ([], "at least one cluster")):
        with pytest.raises(ValueError, match=message):
            tl.subcluster(adata, clusters)
    with pytest.raises(KeyError, match="Expected clusters in obs"):
        tl.subcluster(adata, "0", key="leiden")
    with pytest.raises(ValueError, match="would replace"):
        tl.subcluster(adata, "0", key_added="batch")
    with pytest.raises(TypeError, match="Expected an AnnData"):
        tl.subcluster(adata.obs, "0")
    assert "siamese_clu_R" not in adata.obs


def test_one_population_is_said_to_be_one(adata, caplog):
    tl.subcluster(adata, list(adata.obs["siamese_clu"].cat.categories[:1]), n_clusters=1)
    assert "Only one part was found in the" in caplog.text
