"""A small data set and a model trained on it, shared by the tests of this folder. Tests must not change them."""

import pytest
import scvi

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

QUICK = {"accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_latent": 8, "n_hidden": 32}


@pytest.fixture
def adata():
    return synthetic(n_obs=200, n_vars=80, n_types=3, n_batches=2, seed=0)


@pytest.fixture
def setup_adata(adata):
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    return adata


@pytest.fixture(scope="session")
def trained():
    """Model with its data attached."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=200, n_vars=80, n_types=3, n_batches=2, seed=0)
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=3, **SMALL)
    model.train(max_epochs=60, batch_size=64, **QUICK)
    return model


@pytest.fixture(scope="session")
def quick():
    """Arguments of a quick, silent training run."""
    return dict(QUICK)


@pytest.fixture(scope="session")
def small():
    """Arguments of a small network."""
    return dict(SMALL)
