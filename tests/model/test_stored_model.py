"""A model saved by an earlier state of the package still loads and gives the same results as then."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.model import SCSiameseClu

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EARLY = FIXTURES / "stored_model"  # a pickle
OPTIONS = {
    EARLY: {"accelerator": "cpu", "allow_pickle": True},
    FIXTURES / "stored_model_format_1": {"accelerator": "cpu"},
}

pytestmark = pytest.mark.skipif(not all(map(Path.is_dir, OPTIONS)), reason="no stored models; see tests/fixtures")


@pytest.fixture(params=OPTIONS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


@pytest.fixture
def expected(folder):
    with np.load(folder / "expected.npz") as stored:
        return dict(stored)


def test_it_is_small(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300 * 1024


def test_it_loads_and_predicts_what_it_did(folder, expected):
    model = SCSiameseClu.load(folder, **OPTIONS[folder])
    assert (model.predict().to_numpy() == expected["labels"]).all()
    assert np.allclose(model.get_latent_representation(), expected["latent"], atol=1e-4)


def test_its_graph_stays_diffused():
    model = SCSiameseClu.load(EARLY, **OPTIONS[EARLY])
    assert model.adata_manager.registry["setup_args"]["diffusion"]
    assert SIAMESE_KEYS.DIFFUSED_INDEX in model.adata_manager.data_registry
    stored = ad.read_h5ad(EARLY / "adata.h5ad")
    query = ad.AnnData(stored.X, obs=stored.obs[["batch"]], var=stored.var[[]])
    mapped = SCSiameseClu.load_query_data(query, EARLY, **OPTIONS[EARLY])
    assert SIAMESE_KEYS.DIFFUSED_INDEX in mapped.adata_manager.data_registry


def test_it_has_a_reference(folder):
    model = SCSiameseClu.load(folder, **OPTIONS[folder])
    assert not model.is_query_
    assert model.reference.cluster_names == ("0", "1", "2")
    assert model.adata_manager.blocks.are_reference
    score = np.sort(model.get_out_of_reference_score())
    assert np.allclose(score, np.arange(80) / 80, atol=0.05)
    model.cut(n_clusters=2)
    assert model.n_clusters == 2


def test_bare_cells_are_mapped_to_it(folder, expected):
    stored = ad.read_h5ad(folder / "adata.h5ad")
    rows = np.arange(0, stored.n_obs, 3)
    query = ad.AnnData(stored.X[rows], obs=stored.obs[["batch"]].iloc[rows], var=stored.var[[]])
    mapped = SCSiameseClu.load_query_data(query, folder, **OPTIONS[folder])
    assert (mapped.predict().to_numpy() == expected["labels"][rows]).all()
    assert np.allclose(mapped.get_latent_representation(), expected["latent"][rows], atol=1e-3)
