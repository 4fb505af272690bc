"""No function of the package runs code from a file."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scvi.train import SaveCheckpoint

from scsiameseclu import _torch_file, cli
from scsiameseclu._torch_file import read_torch_file
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train import ResumeCheckpoint

CPU = {"accelerator": "cpu"}
QUICK = {**CPU, "enable_progress_bar": False}
STORED = Path(__file__).parent / "fixtures" / "stored_model"


class Payload:
    """An object whose pickle makes a folder when the pickle is run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def cells():
    return synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)


@pytest.fixture(scope="module")
def model():
    adata = cells()
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, **QUICK)
    return model


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "the code was run"


@pytest.fixture
def malicious(model, tmp_path, mark):
    """Folder of a model in the format of scvi-tools, with malicious code among the attributes."""
    folder = tmp_path / "malicious"
    model.save(folder, also_scvi_tools=True, save_anndata=True)
    stored = torch.load(folder / "model.pt", weights_only=False)
    stored["attr_dict"]["extra_"] = Payload(mark)
    torch.save(stored, folder / "model.pt")
    for name in ("manifest.json", "model.json", "model.safetensors"):
        (folder / name).unlink()
    cells().write_h5ad(tmp_path / "cells.h5ad")
    return folder


def test_the_payload_is_one(malicious, mark):
    torch.load(malicious / "model.pt", weights_only=False)
    assert mark.exists()


ENTRANCES = {
    "load": lambda folder: SCSiameseClu.load(folder, **CPU),
    "load_without_data": lambda folder: SCSiameseClu.load(folder, adata=False, **CPU),
    "load_query_data": lambda folder: SCSiameseClu.load_query_data(cells(), folder, **CPU),
    "prepare_query_anndata": lambda folder: SCSiameseClu.prepare_query_anndata(cells(), folder),
    "load_registry": SCSiameseClu.load_registry,
    "view_setup_args": SCSiameseClu.view_setup_args,
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_a_pickle_is_refused_unread(malicious, mark, name):
    with pytest.raises(ValueError, match=r"is a pickle.*allow_pickle=True"):
        ENTRANCES[name](malicious)
    assert not mark.exists()


def test_a_pickle_is_not_run_even_where_it_is_allowed(malicious, mark):
    for load in (SCSiameseClu.load, lambda folder, **options: SCSiameseClu.load_query_data(cells(), folder, **options)):
        with pytest.raises(ValueError, match=r"which was not run \(.*mkdir.*\)"):
            load(malicious, allow_pickle=True, **CPU)
    assert not mark.exists()


def test_formats_before_this_one_are_not_converted(malicious, tmp_path):
    with pytest.raises(NotImplementedError):
        SCSiameseClu.convert_legacy_save(malicious, tmp_path / "out")


def test_a_pickle_beside_the_files_is_not_looked_at(model, malicious, mark):
    model.save(malicious.with_name("good"))
    for path in malicious.with_name("good").iterdir():
        shutil.copy(path, malicious)
    loaded = SCSiameseClu.load(malicious, adata=model.adata, allow_pickle=True, **CPU)
    assert (loaded.predict() == model.predict()).all()
    assert not mark.exists()


def test_a_pickle_in_place_of_a_file_is_not_read(model, tmp_path, mark):
    for name in ("manifest.json", "model.json", "model.safetensors"):
        folder = tmp_path / name
        model.save(folder)
        torch.save(Payload(mark), folder / name)
        with pytest.raises(ValueError, match="copy the whole folder"):
            SCSiameseClu.load(folder, adata=False, allow_pickle=True, **CPU)
    assert not mark.exists()


def test_the_command_line_refuses(malicious, mark, tmp_path, capsys):
    query = ["predict", str(tmp_path / "cells.h5ad"), "--model", str(malicious), "--out", str(tmp_path / "out")]
    for argv in (["info", str(malicious)], query):
        assert cli.main(argv) == 1
        assert "is a pickle" in capsys.readouterr().err
    assert not mark.exists()


def test_the_hub_refuses(model, malicious, mark, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from scvi.hub import HubModel

    from scsiameseclu.hub import prepare_hub_model, pull_hub_model

    with pytest.raises(ValueError, match="is a pickle"):
        prepare_hub_model(malicious, "mit")
    good = tmp_path / "good"
    model.save(good)
    prepare_hub_model(good, "mit")
    for name in ("README.md", "_scvi_required_metadata.json"):
        shutil.copy(good / name, malicious)
    with pytest.raises(ValueError, match="is a pickle"):
        HubModel(str(malicious)).load_model(**CPU)

    def download(repo_name, allow_patterns, **options):
        assert "model.pt" not in allow_patterns
        folder = tmp_path / f"downloaded {repo_name}"
        folder.mkdir(exist_ok=True)
        for name in allow_patterns:
            if (tmp_path / repo_name / name).exists():
                shutil.copy(tmp_path / repo_name / name, folder)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    pulled = pull_hub_model("good", revision="abc")
    assert SCSiameseClu.load(pulled.local_dir, adata=False, **CPU).n_clusters == 2
    with pytest.raises(ValueError, match=r"found no manifest\.json"):
        pull_hub_model("malicious")
    metadata = json.loads((good / "_scvi_required_metadata.json").read_text())
    metadata |= {"model_parent_module": "scvi.model", "model_cls_name": "SCVI"}  # the load of this class runs model.pt
    (good / "_scvi_required_metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"found scvi\.model\.SCVI"):
        pull_hub_model("good")
    assert not mark.exists()


def test_resuming_refuses(model, tmp_path, mark):
    path = tmp_path / "run.ckpt"
    adata = cells()
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)

    def train(**options):
        SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8).train(max_epochs=2, **options, **QUICK)

    train(callbacks=[ResumeCheckpoint(path)])
    whole = path.read_bytes()
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"] = {"_instantiator": "os.system", "extra": Payload(mark)}
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="which was not run"):
        train(ckpt_path=path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="or an incomplete archive"):
        train(ckpt_path=path)
    with zipfile.ZipFile(path.with_suffix(".old"), "w") as archive:
        archive.writestr("a/data.pkl", b"no pickle")
    with pytest.raises(ValueError, match="torch cannot read"):
        train(ckpt_path=path.with_suffix(".old"))
    torch.save({"some": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="Expected a checkpoint of SCSiameseClu"):
        train(ckpt_path=path)
    assert not mark.exists()


def test_coming_back_to_the_best_epoch_reads_no_pickle(tmp_path, monkeypatch):
    """The callback of scvi-tools would look for ``model.pt`` and run its code."""
    monkeypatch.setattr("scvi.train._callbacks._load_saved_files", None)
    adata = cells()
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    best = SaveCheckpoint(tmp_path, monitor="validation_loss", load_best_on_end=True)
    model.train(max_epochs=3, train_size=0.8, check_val_every_n_epoch=1, callbacks=[best], **QUICK)
    saved = SCSiameseClu.load(best.best_model_path, adata=False, **CPU)
    assert torch.equal(saved.module.decoder.log_dispersion, model.module.decoder.log_dispersion)


def test_attributes_and_setups_of_other_names_are_refused(model, tmp_path):
    """A file may set only certain attributes and call only certain methods, also of derived classes."""
    from scsiameseclu._file_format import Manifest, read_state, write_state

    for change in (
        lambda state: state["attributes"].update(load="x"),
        lambda state: state["attributes"].update(_private_="x"),
        lambda state: state["attributes"]["registry_"].update(setup_method_name="setup_annbatch"),
        lambda state: state["attributes"]["registry_"].update(setup_method_name="load"),
    ):
        folder = tmp_path / "model"
        model.save(folder, overwrite=True)
        state = read_state(Manifest.read(folder))
        change(state)
        write_state(folder, state)
        with pytest.raises(ValueError, match="Expected a model of scsiameseclu"):
            SCSiameseClu.load(folder, adata=model.adata, **CPU)
        state["attributes"]["registry_"]["model_name"] = "Derived"
        write_state(folder, state)
        with pytest.raises(ValueError, match="Expected a model of scsiameseclu"):
            type("Derived", (SCSiameseClu,), {}).load(folder, adata=model.adata, **CPU)


# -- files of torch ---------------------------------------------------------------------------------------------------


def test_damage_that_torch_does_not_see_is_found(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weights": torch.zeros(5000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weights"].any()  # wrong numbers without an error
    with pytest.raises(ValueError, match="found other bytes in its part"):
        read_torch_file(path)


def test_what_other_packages_allow_is_not_allowed(tmp_path, mark):
    torch.save(Payload(mark), tmp_path / "file.pt")
    with torch.serialization.safe_globals([os.mkdir]):
        before = torch.serialization.get_safe_globals()
        with pytest.raises(ValueError, match="was not run"):
            read_torch_file(tmp_path / "file.pt")
        assert set(torch.serialization.get_safe_globals()) == set(before)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("version", "warns"), [("2.6.0", True), ("2.9.1+cu130", True), ("2.10.0", False), ("2.13.0+cpu", False)]
)
def test_a_torch_with_a_known_flaw_is_named_once(monkeypatch, caplog, tmp_path, version, warns):
    torch.save({"a": torch.ones(1)}, tmp_path / "file.pt")
    monkeypatch.setattr(torch, "__version__", version)
    _torch_file._warn_of_old_torch.cache_clear()
    with caplog.at_level("WARNING", logger="scsiameseclu"):
        for _ in range(2):
            read_torch_file(tmp_path / "file.pt")
    assert [version in record.message for record in caplog.records] == [True] * warns
    _torch_file._warn_of_old_torch.cache_clear()


def test_an_early_model_is_read_where_that_is_allowed():
    with np.load(STORED / "expected.npz") as expected:
        assert (SCSiameseClu.load(STORED, allow_pickle=True, **CPU).predict() == expected["labels"]).all()
