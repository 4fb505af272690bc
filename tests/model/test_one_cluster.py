"""One cluster is valid in all functions."""

import numpy as np
import pandas as pd
import pytest

import scsiameseclu as ssc
from scsiameseclu.cli import main
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

QUICK = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False, "batch_size": 64}
SIZE = {"n_latent": 4, "n_hidden": 16}


def one_population(seed=0, n_obs=120):
    """Cells of one type."""
    adata = synthetic(n_obs=3 * n_obs, n_vars=50, n_types=3, seed=seed)
    return adata[(adata.obs["cell_type"] == adata.obs["cell_type"].iloc[0]).to_numpy()].copy()


@pytest.fixture
def model():
    adata = one_population()
    SCSiameseClu.setup_anndata(adata, n_neighbors=8)
    model = SCSiameseClu(adata, n_clusters=1, **SIZE)
    model.train(**QUICK)
    return model


def test_every_getter(model, tmp_path):
    n_obs = model.adata.n_obs
    assert model.n_clusters == 1
    assert model.predict().tolist() == ["0"] * n_obs
    soft = model.predict(soft=True)
    assert soft.shape == (n_obs, 1) and (soft.to_numpy() == 1.0).all()
    summary = model.get_cluster_summary()
    assert len(summary) == 1
    assert np.isfinite(summary.select_dtypes("number").to_numpy()).all()
    assert np.isfinite(model.get_latent_representation()).all()
    history = model.history
    assert all(np.isfinite(pd.to_numeric(frame.iloc[:, 0])).all() for frame in history.values())
    model.write_to_adata()
    assert model.adata.obs["siamese_clu"].cat.categories.tolist() == ["0"]
    model.adata.write_h5ad(tmp_path / "written.h5ad")


def test_saved_loaded_mapped_and_trained_again(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=model.adata)
    assert (loaded.predict() == model.predict()).all()
    query = SCSiameseClu.load_query_data(one_population(1, 40), model)
    assert set(query.predict()) == {"0"}
    model.train(**QUICK)
    assert model.n_clusters == 1


def test_plots_and_tools(model):
    model.write_to_adata()
    ssc.pl.training_curves(model)
    ssc.pl.embedding(model.adata)
    with pytest.raises(ValueError, match="at least two clusters"):
        ssc.tl.annotate(model.adata, {"a": [model.adata.var_names[0]]}, "siamese_clu")


def test_auto_says_one_for_one_population(tmp_path):
    adata = one_population()
    model = ssc.tl.cluster(adata, n_neighbors=8, model_kwargs=SIZE, train_kwargs=QUICK)
    assert model.n_clusters == 1
    assert model.n_clusters_search_["n_clusters"] == 1
    assert model.n_clusters_search_["separability"] < 1.8
    assert adata.uns["siamese_clu"]["n_clusters_search"]["separability"] < 1.8
    ssc.pl.n_clusters_search(model)


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_is_refused(number):
    adata = one_population()
    SCSiameseClu.setup_anndata(adata, n_neighbors=8)
    with pytest.raises(ValueError, match=f"n_clusters of at least 1, found {number}"):
        SCSiameseClu(adata, n_clusters=number)


def test_command_line(tmp_path, capsys):
    one_population().write_h5ad(tmp_path / "cells.h5ad")
    fast = ["--max-epochs", "4", "--accelerator", "cpu", "--n-neighbors", "8", "--n-clusters", "1"]
    assert main(["fit", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), *fast]) == 0
    assert "1 clusters" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "pred.csv")["cluster"]) == {0}
