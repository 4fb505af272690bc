"""Continuous covariates may have any scale."""

import logging

import numpy as np
import pytest
import scvi
import torch

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.nn import CovariateScaler
from scsiameseclu.train import SiameseTrainingPlan

QUICK = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False}


def made(values, n_obs=100):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=n_obs, n_vars=30, n_types=2, seed=0)
    adata.obs["cov"] = values
    SCSiameseClu.setup_anndata(adata, n_neighbors=5, continuous_covariate_keys=["cov"])
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).normal(size=100)


def test_scale_and_origin_do_not_matter(values, tmp_path):
    plain, other = made(values), made(20_000.0 + 5_000.0 * values)
    assert np.allclose(plain.get_latent_representation(), other.get_latent_representation(), atol=1e-3)
    assert (plain.predict() == other.predict()).all()
    new = synthetic(n_obs=20, n_vars=30, n_types=2, seed=1)
    new.obs["cov"] = 20_000.0 + 5_000.0 * values[:20]
    as_plain = new.copy()
    as_plain.obs["cov"] = values[:20]
    expected = plain.get_latent_representation(as_plain)
    assert np.allclose(other.get_latent_representation(new.copy()), expected, atol=1e-3)
    # The moments are the moments of the reference, also in a loaded model, and for a single cell.
    other.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=False, accelerator="cpu")
    mapped = SCSiameseClu.load_query_data(new[:1].copy(), tmp_path / "model", accelerator="cpu")
    assert np.allclose(loaded.get_latent_representation(new.copy()), expected, atol=1e-3)
    assert np.allclose(mapped.get_latent_representation(), expected[:1], atol=1e-3)
    # The covariates in the AnnData stay unscaled, because scvi-tools models on the same AnnData expect raw covariates.
    assert np.allclose(np.asarray(other.adata.obsm["_scvi_extra_continuous_covs"]).ravel(), other.adata.obs["cov"])


def test_models_saved_without_moments_see_values_as_they_are(values, tmp_path):
    model = made(values * 3.0)
    model.module.covariate_scaler = CovariateScaler(1)  # as in earlier versions: no standardisation
    expected = model.get_latent_representation()
    model.save(tmp_path / "model", also_scvi_tools=True)
    (tmp_path / "model" / "manifest.json").unlink()  # earlier versions wrote no manifest
    stored = torch.load(tmp_path / "model" / "model.pt", weights_only=False)
    for name in ("covariate_scaler.mean", "covariate_scaler.sd"):
        del stored["model_state_dict"][name]
    torch.save(stored, tmp_path / "model" / "model.pt")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=model.adata, accelerator="cpu", allow_pickle=True)
    assert np.allclose(loaded.get_latent_representation(), expected, atol=1e-5)
    query = synthetic(n_obs=100, n_vars=30, n_types=2, seed=0)
    query.obs["cov"] = values * 3.0
    mapped = SCSiameseClu.load_query_data(query, tmp_path / "model", accelerator="cpu", allow_pickle=True)
    assert np.allclose(mapped.get_latent_representation(), expected, atol=1e-3)


def test_a_constant_covariate_is_nothing():
    scaler = CovariateScaler(2)
    values = torch.tensor([[7e9, 1.0], [7e9, 3.0]], dtype=torch.float64)
    scaler.fit(values)
    assert torch.allclose(scaler(values.float()), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    assert np.isfinite(made(np.full(100, 1e6)).get_latent_representation()).all()


@pytest.mark.parametrize(
    ("covariate", "lr", "cause"),
    [
        ("extreme", 1e-3, "'cov': 10 standard deviations"),
        ("plain", 1.0, "learning rate of 1:"),
        ("plain", 1e-3, "fewer clusters"),
    ],
)
def test_lost_clusters_are_explained_by_what_is_there(values, monkeypatch, caplog, covariate, lr, cause):
    monkeypatch.setattr(
        SiameseTrainingPlan, "_count_occupied", lambda self, left=[2, 1]: left.pop(0) if len(left) > 1 else left[0]
    )
    if covariate == "extreme":
        values = np.zeros(102)
        values[0] = 1e6
    adata = synthetic(n_obs=len(values), n_vars=30, n_types=2, seed=0)
    adata.obs["cov"] = values
    SCSiameseClu.setup_anndata(adata, n_neighbors=5, continuous_covariate_keys=["cov"])
    with caplog.at_level(logging.WARNING, logger="scsiameseclu"):
        SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8).train(plan_kwargs={"lr": lr}, **QUICK)
    (message,) = [record.getMessage() for record in caplog.records if "lost their cells" in record.getMessage()]
    assert cause in message
