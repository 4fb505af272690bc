"""The folder of a model: written files, read files, and damaged files."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch
from scvi.model.base._save_load import _load_saved_files

from scsiameseclu import _file_format
from scsiameseclu._file_format import Manifest, read_state, write_state
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

CPU = {"accelerator": "cpu"}
FILES = ["manifest.json", "model.json", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained.save(folder, save_anndata=True)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def test_state_comes_back_bit_for_bit(trained, saved):
    loaded = SCSiameseClu.load(saved, adata=False, **CPU)
    for key, value in trained.module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[key]), key
    assert np.array_equal(loaded.reference.latent, trained.reference.latent)
    assert loaded.cluster_tree_ == trained.cluster_tree_
    assert loaded.init_params_ == trained.init_params_
    assert loaded.registry_["setup_args"] == trained.registry_["setup_args"]
    for name, frame in trained.history.items():
        assert np.array_equal(loaded.history[name].to_numpy(float), frame.to_numpy(float))
        assert loaded.history[name].index.equals(frame.index) and loaded.history[name].index.name == frame.index.name


def test_saving_what_was_loaded_makes_the_same_files(saved, tmp_path):
    SCSiameseClu.load(saved, adata=False, **CPU).save(tmp_path / "again")
    for name in FILES[1:]:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_scvi_tools_reads_a_model_where_that_is_asked_for(trained, tmp_path):
    folder = tmp_path / "model"
    trained.save(folder, also_scvi_tools=True)
    assert names(folder) == {*FILES, "model.pt"}
    attributes, genes, weights, _ = _load_saved_files(str(folder), load_adata=False, map_location="cpu")
    assert attributes["registry_"]["model_name"] == "SCSiameseClu"
    assert list(genes) == list(trained.adata.var_names)
    assert torch.equal(weights["decoder.log_dispersion"], trained.module.decoder.log_dispersion)
    for name in FILES:
        (folder / name).unlink()
    alone = SCSiameseClu.load(folder, adata=trained.adata, allow_pickle=True, **CPU)
    assert np.array_equal(alone.predict(soft=True), trained.predict(soft=True))
    alone.save(folder, overwrite=True)
    assert names(folder) == set(FILES), "a model.pt of another model stayed"


def test_several_models_in_one_folder(trained, tmp_path):
    for prefix in ("one_", "two_"):
        trained.save(tmp_path, prefix=prefix, overwrite=True, save_anndata=True)
    loaded = SCSiameseClu.load(tmp_path, prefix="two_", **CPU)
    assert (loaded.predict() == trained.predict()).all()
    assert SCSiameseClu.load_registry(tmp_path, prefix="one_")["model_name"] == "SCSiameseClu"
    with pytest.raises(ValueError, match=r"found no manifest\.json .* there is one_manifest\.json, two_manifest\.json"):
        SCSiameseClu.load(tmp_path, **CPU)


def test_arguments_that_mean_nothing_are_refused(trained, saved, tmp_path):
    with pytest.raises(TypeError, match=r"with save_anndata=True only, found \['compression'\]"):
        trained.save(tmp_path / "model", compression="gzip")
    with pytest.raises(ValueError, match="found a model without"):
        SCSiameseClu.load(saved, adata=False, **CPU).save(tmp_path / "model", save_anndata=True)
    assert not (tmp_path / "model").exists()


def test_files_are_read_once(saved, trained, monkeypatch):
    read = []
    content = Manifest.content
    monkeypatch.setattr(Manifest, "content", lambda self, name: read.append(name) or content(self, name))
    SCSiameseClu.load(saved, adata=trained.adata.copy(), **CPU)
    assert sorted(read) == FILES[1:]


def test_loading_does_not_move_the_random_numbers(saved):
    states = []
    for _ in range(2):
        scvi.settings.seed = 3
        SCSiameseClu.load(saved, adata=False, **CPU)
        states.append(torch.rand(2))
    scvi.settings.seed = 3
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], torch.rand(2))


# -- data beside ------------------------------------------------------------------------------------------------------


def test_damaged_data_are_found(folder):
    path = folder / "adata.h5ad"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"adata\.h5ad.*found other bytes"):
        SCSiameseClu.load(folder, **CPU)
    path.unlink()
    with pytest.raises(ValueError, match=r"adata\.h5ad.*found none"):
        SCSiameseClu.load(folder, **CPU)
    SCSiameseClu.load(folder, adata=False, **CPU)


def test_data_of_another_time_are_named(trained, folder, caplog):
    trained.save(folder, overwrite=True)  # without the data, which stay in the folder
    with caplog.at_level("WARNING", logger="scsiameseclu"):
        assert SCSiameseClu.load(folder, **CPU).adata.n_obs == 200
    assert "was not written together with the model" in caplog.text
    (folder / "adata.h5ad").unlink()
    caplog.clear()
    with caplog.at_level("WARNING", logger="scsiameseclu"):
        assert SCSiameseClu.load(folder, **CPU).adata is None
    assert "No data are saved with the model" in caplog.text


def test_data_of_another_model_are_refused(trained, folder):
    """A model is saved over a model with data: the data stay, and are not taken for data of the new model."""
    fewer, changed = trained.adata[:150].copy(), trained.adata.copy()
    changed.X = 2 * changed.X
    for other in (fewer, changed):
        SCSiameseClu.setup_anndata(other)
        model = SCSiameseClu(other, n_clusters=3, n_latent=4, n_hidden=8)
        model.train(max_epochs=1, enable_progress_bar=False, **CPU)
        model.save(folder, overwrite=True)
        with pytest.raises(ValueError, match=r"adata\.h5ad.*not saved with the model and does not fit"):
            SCSiameseClu.load(folder, **CPU)
        assert SCSiameseClu.load(folder, adata=other, **CPU).adata.n_obs == other.n_obs
        assert SCSiameseClu.load(folder, adata=False, **CPU).adata is None
        assert (folder / "adata.h5ad").exists()


def test_a_file_is_no_folder_to_save_to(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="'.*file' is a file"):
        trained.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


# -- what is wrong with the files -------------------------------------------------------------------------------------


def refused(folder, match="copy the whole folder|Expected a model of scsiameseclu|Expected finite weights"):
    with pytest.raises(ValueError, match=match) as caught:
        SCSiameseClu.load(folder, adata=False, **CPU)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("n_flips", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_loaded(folder, name, n_flips):
    draw, path = random.Random(name), folder / name
    content = path.read_bytes()
    for _ in range(n_flips):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        refused(folder)


def test_nothing_to_load(tmp_path):
    refused(tmp_path / "nothing", r"found no manifest\.json")
    (tmp_path / "model.pt").write_bytes(b"not a model")
    refused(tmp_path, "is a pickle")
    with pytest.raises(ValueError, match=r"model\.pt.* found no torch archive"):
        SCSiameseClu.load(tmp_path, allow_pickle=True, **CPU)


@pytest.mark.parametrize(
    "content", [[1], {"a": 1}, 3, {"model_state_dict": 1, "var_names": 2, "attr_dict": 3}], ids=repr
)
def test_other_files_of_torch_are_no_models(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"Expected a model of scsiameseclu in .*model\.pt"):
        SCSiameseClu.load(tmp_path, allow_pickle=True, **CPU)


def pop(*path):
    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    change.__name__ = "/".join(path)
    return change


def put(value, *path):
    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value

    change.__name__ = f"{'/'.join(path)}={str(value)[:20]}"
    return change


FIELDS = ("attributes", "registry_", "field_registries")
GRAPH = (*FIELDS, "siamese_cell_graph", "state_registry")
WRONG = [
    pop("attributes"),
    pop("weights"),
    pop("var_names"),
    put([], "attributes"),
    put({}, "weights"),
    put({"a": 1}, "weights"),
    put(["a"], "var_names"),
    put(None, "attributes", "history_"),
    put({"loss": 3}, "attributes", "history_"),
    pop("attributes", "registry_"),
    put([], "attributes", "registry_"),
    pop("attributes", "init_params_"),
    put(3, "attributes", "init_params_"),
    put({}, "attributes", "init_params_", "non_kwargs"),
    put("many", "attributes", "init_params_", "non_kwargs", "n_latent"),
    put(99, "attributes", "init_params_", "non_kwargs", "n_latent"),
    pop(*FIELDS),
    pop(*FIELDS, "batch"),
    pop(*FIELDS, "siamese_cell_graph"),
    pop(*GRAPH, "landmarks"),
    put({}, *GRAPH, "landmarks"),
    pop(*GRAPH, "landmarks", "rep"),
    put(np.zeros((3, 2)), *GRAPH, "landmarks", "rep"),
    put([], *GRAPH, "projection"),
    pop(*GRAPH, "projection", "components"),
    pop("attributes", "registry_", "setup_args"),
    pop("attributes", "registry_", "model_name"),
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_files_with_other_content_are_one_error(folder, change):
    """The files are complete, but were written by another program."""
    state = read_state(Manifest.read(folder))
    change(state)
    write_state(folder, state)
    refused(folder, match="Expected a model of (scsiameseclu|class SCSiameseClu)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(folder, value):
    state = read_state(Manifest.read(folder))
    state["weights"]["decoder.log_dispersion"][0] = value
    write_state(folder, state)
    refused(folder, match=r"finite weights in .*decoder\.log_dispersion")


def test_a_model_with_weights_that_are_not_finite_is_not_saved(saved, tmp_path):
    model = SCSiameseClu.load(saved, adata=False, **CPU)
    with torch.no_grad():
        model.module.decoder.log_dispersion[0] = torch.nan
    with pytest.raises(ValueError, match=r"finite weights to save.*decoder\.log_dispersion"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_of_a_newer_format_names_its_writer(folder, monkeypatch):
    state = read_state(Manifest.read(folder))
    with monkeypatch.context() as patch:
        patch.setattr(_file_format, "VERSION", 2)
        patch.setattr(_file_format, "package_version", lambda name="scsiameseclu": "1.7")
        write_state(folder, state)
    with pytest.raises(ValueError, match=r"format 2 .* written by scsiameseclu 1\.7\. .* scsiameseclu 1\.7 or newer"):
        SCSiameseClu.load(folder, adata=False, **CPU)


def test_a_set_up_that_cannot_be_saved_is_refused_before_training(small):
    adata = synthetic(n_obs=60, n_vars=20, n_types=2, seed=0)
    adata.obs["batch"] = np.array([b"a", b"b"], dtype=object)[np.arange(60) % 2]
    SCSiameseClu.setup_anndata(adata, batch_key="batch", n_neighbors=4)
    with pytest.raises(TypeError, match=r"found a bytes as 'registry_/.*batch"):
        SCSiameseClu(adata, n_clusters=2, **small)
