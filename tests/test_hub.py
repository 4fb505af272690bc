import json

import numpy as np
import pytest

from scsiameseclu import hub
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


@pytest.fixture(scope="module")
def model():
    adata = synthetic(n_obs=80, n_vars=30, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=3, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    return tmp_path / "model"


def test_card_describes_the_model(folder):
    text = hub.model_card(folder, "cc-by-4.0", description="A small model.", training_data="simulated")
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    for fact in ("A small model.", "simulated", "80 cells, 30 genes, 1 batch(es)", "3 clusters", '"n_latent": 4'):
        assert fact in text
    assert "model_cls_name:SCSiameseClu" in text
    assert "data of 80 single cells" in text


def test_card_of_a_model_without_single_cells(model, tmp_path):
    model.save(tmp_path / "model", landmarks=0)
    assert "data of 0 single cells" in hub.model_card(tmp_path / "model", "mit")


def test_no_model(tmp_path):
    with pytest.raises(ValueError, match="found no manifest.json"):
        hub.model_card(tmp_path, "mit")


def test_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'scsiameseclu\[hub\]'"):
        hub.prepare_hub_model(folder, "mit")


def test_hub_model_loads_from_its_folder(model, folder):
    pytest.importorskip("huggingface_hub")
    from scvi.hub import HubModel

    hub.prepare_hub_model(folder, "mit", description="A small model.")
    metadata = json.loads((folder / "_scvi_required_metadata.json").read_text())
    assert (metadata["model_parent_module"], metadata["model_cls_name"]) == ("scsiameseclu", "SCSiameseClu")
    with pytest.raises(FileExistsError):
        hub.prepare_hub_model(folder, "mit")
    hub.prepare_hub_model(folder, "mit", description="A small model.", overwrite=True)

    shared = HubModel(str(folder))
    shared.load_model(accelerator="cpu")
    assert isinstance(shared.model, SCSiameseClu)
    assert np.allclose(shared.model.predict(soft=True), model.predict(soft=True), atol=1e-5)
    assert "A small model." in shared.model_card.text
    assert shared.model_card.data.license == "mit"
