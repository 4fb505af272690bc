"""Whole runs on any data give finite results that can be saved and loaded, or an error with a reason."""

import json

import anndata as ad
import numpy as np
import pytest
import scvi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy import sparse

from scsiameseclu import cli
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.tl import cluster

some = settings(
    derandomize=True, deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FAST = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_latent": 3, "n_hidden": 8}

KINDS = (
    "two types",
    "duplicates",
    "one cell again and again",
    "a million",
    "empty cells",
    "one informative gene",
    "nothing",
    "one batch without counts",
    "isolated cells",
)


def cells(kind, n_obs, n_vars, n_batches, seed):
    """Cells with a property that occurs in real data."""
    rng = np.random.default_rng(seed)
    types, batch = np.arange(n_obs) % 2, rng.integers(0, n_batches, n_obs)
    rates = rng.gamma(1.0, 2.0, (2, n_vars))
    counts = rng.poisson(rates[types])
    if kind == "duplicates":
        counts = counts[rng.integers(0, max(n_obs // 3, 1), n_obs)]
    elif kind == "one cell again and again":
        counts[:] = counts[0]
    elif kind == "a million":
        counts = rng.poisson(rates[types] * rng.choice([1, 10**6], (n_obs, 1)))
    elif kind == "empty cells":
        counts[rng.random(n_obs) < 0.3] = 0
    elif kind == "one informative gene":
        counts[:] = 1
        counts[:, 0] = 20 * types
    elif kind == "nothing":
        counts[:] = 0
    elif kind == "one batch without counts":
        counts[batch == 0] = 0
    elif kind == "isolated cells":
        counts[0] = rng.permutation(counts[0]) * 1000
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs["batch"] = batch.astype(str)
    return adata


@st.composite
def data(draw):
    sizes = draw(st.integers(1, 60)), draw(st.integers(1, 30)), draw(st.sampled_from([1, 2, 5]))
    return cells(draw(st.sampled_from(KINDS)), *sizes, seed=draw(st.integers(0, 99)))


def check_results(adata, model, key="siamese_clu"):
    """The written results are finite, complete and equal to the results of the model."""
    latent, probs = adata.obsm["X_siamese_clu"], adata.obsm[f"{key}_probs"]
    assert np.isfinite(latent).all() and np.isfinite(probs).all()
    assert latent.shape[0] == probs.shape[0] == adata.n_obs
    assert np.allclose(probs.sum(axis=1), 1.0, atol=1e-4)
    assert adata.obs[key].notna().all() and set(adata.obs[key]) <= set(map(str, range(model.n_clusters)))
    assert np.isfinite(model.get_normalized_expression(return_numpy=True)).all()
    assert model.get_out_of_reference_score().between(0, 1).all()


@pytest.mark.slow
@some
@given(data(), st.sampled_from(["auto", 1, 2, 7]), st.booleans(), st.sampled_from([None, 5]), st.integers(1, 40))
def test_one_call(tmp_path_factory, adata, n_clusters, with_batches, n_top_genes, n_neighbors):
    scvi.settings.seed = 0
    try:
        model = cluster(
            adata,
            n_clusters,
            batch_key="batch" if with_batches else None,
            n_top_genes=n_top_genes,
            n_neighbors=n_neighbors,
            model_kwargs=SMALL,
            train_kwargs=FAST,
        )
    except ValueError as error:
        assert str(error).startswith("Expected"), error
        assert "siamese_clu" not in adata.obs
        return
    check_results(adata, model)
    folder = tmp_path_factory.mktemp("model") / "saved"
    model.save(folder)
    loaded = SCSiameseClu.load(folder, adata=adata, accelerator="cpu")
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert np.array_equal(loaded.predict(soft=True), model.predict(soft=True))
    query = cells("empty cells", 5, adata.n_vars, 1, seed=1)
    query.obs["batch"] = adata.obs["batch"].iloc[0]
    soft = loaded.predict(query[:, loaded.adata.var_names].copy(), soft=True).to_numpy()
    assert np.isfinite(soft).all() and np.allclose(soft.sum(axis=1), 1.0, atol=1e-4)


@pytest.fixture
def no_umap(monkeypatch):
    """Draw an empty picture, which takes no time."""
    monkeypatch.setattr("scsiameseclu.pl.embedding", lambda *args, **kwargs: plt.figure())


@settings(some, max_examples=8)
@given(data(), st.sampled_from(["auto", "1", "3"]), st.booleans(), st.sampled_from(["0", "5"]))
def test_command_line(tmp_path_factory, capsys, no_umap, adata, n_clusters, with_batches, n_top_genes):
    folder = tmp_path_factory.mktemp("run")
    adata.write_h5ad(folder / "cells.h5ad")
    argv = [
        "fit",
        str(folder / "cells.h5ad"),
        "--out",
        str(folder / "out"),
        "--accelerator",
        "cpu",
        "--max-epochs",
        "2",
    ]
    argv += ["--n-clusters", n_clusters, "--n-top-genes", n_top_genes, *(["--batch-key", "batch"] * with_batches)]
    capsys.readouterr()
    status = cli.main(argv)
    error = capsys.readouterr().err
    if status:
        assert status == 1 and not (folder / "out").exists()
        assert len([line for line in error.splitlines() if "error: Expected" in line]) == 1, error
        assert "Traceback" not in error
        return
    written = ad.read_h5ad(folder / "out" / "clustered.h5ad")
    assert np.isfinite(written.obsm["X_siamese_clu"]).all()
    assert json.loads((folder / "out" / "metrics.json").read_text())["n_cells"] == adata.n_obs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_batches_and_variable_genes(kind):
    """These kinds of data led to errors of other packages before."""
    adata = cells(kind, 60, 20, 2, seed=0)
    try:
        model = cluster(
            adata, 2, batch_key="batch", n_top_genes=10, n_neighbors=5, model_kwargs=SMALL, train_kwargs=FAST
        )
    except ValueError as error:
        assert str(error).startswith("Expected"), error
        assert kind in ("one cell again and again", "nothing", "one batch without counts", "one informative gene")
        return
    check_results(adata, model)
