"""Features of scvi-tools that a model supports: checkpoints, callbacks, stores, devices, loaders."""

import warnings
from importlib.util import find_spec

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from scvi.dataloaders import DataSplitter
from scvi.train import SaveCheckpoint, ScibCallback

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


@pytest.fixture
def model(setup_adata, small):
    return SCSiameseClu(setup_adata, n_clusters=3, **small)


@pytest.fixture
def logging_dir(tmp_path):
    before = scvi.settings.logging_dir
    scvi.settings.logging_dir = tmp_path / "log"
    yield tmp_path / "log"
    scvi.settings.logging_dir = before


class Recorder(pl.Callback):
    """Record the epochs of the clustering phase."""

    def __init__(self):
        self.clustering = []

    def on_validation_end(self, trainer, pl_module):
        if pl_module.module.clustering_active:
            self.clustering.append(trainer.current_epoch)


def test_checkpoints_are_of_the_clustering_phase_and_can_be_loaded(setup_adata, small, quick, tmp_path):
    model = SCSiameseClu(setup_adata, n_clusters="auto", **small)
    checkpoint = SaveCheckpoint(tmp_path, monitor="validation_loss", load_best_on_end=True, save_top_k=-1)
    recorder = Recorder()
    model.train(max_epochs=4, train_size=0.8, check_val_every_n_epoch=1, callbacks=[recorder, checkpoint], **quick)
    saved = sorted(folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert 0 < len(saved) == len(recorder.clustering) < 4
    loaded = SCSiameseClu.load(checkpoint.best_model_path, adata=setup_adata, accelerator="cpu")
    assert loaded.n_clusters == model.n_clusters
    # Training ends with the weights of the best epoch (clusters may have been renumbered by size).
    assert np.allclose(loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-5)
    assert len(loaded.predict()) == 200


def test_logging_directory_is_where_checkpoints_go(model, quick, logging_dir):
    checkpoint = SaveCheckpoint(monitor="validation_loss")
    model.train(max_epochs=2, train_size=0.8, check_val_every_n_epoch=1, callbacks=[checkpoint], **quick)
    assert str(logging_dir) in checkpoint.best_model_path
    assert SCSiameseClu.load(checkpoint.best_model_path, adata=model.adata, accelerator="cpu").n_clusters == 3


def test_cells_reach_the_scib_callback(setup_adata, small, quick):
    model = SCSiameseClu(setup_adata, n_clusters=3, extra_payload_autotune=True, **small)
    callback = ScibCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*(workers|transfer_batch_to_device|isinstance).*")
        model.train(max_epochs=1, batch_size=200, callbacks=[callback], **quick)
    assert callback.pl_module.module is model.module
    metrics = model.module.loss(*_forward(model)).extra_metrics
    assert metrics["z"].shape == (16, 8)
    assert metrics["batch"].shape[0] == metrics["labels"].shape[0] == 16
    assert all(value.ndim == 0 for value in metrics.values())
    assert not {"z_train", "batch_train", "labels_train"} & set(model.history)


def _forward(model):
    tensors = next(iter(model._make_data_loader(model.adata, indices=np.arange(16))))
    inference, generative = model.module.forward(
        tensors, compute_loss=False, get_generative_input_kwargs={"for_loss": True}
    )
    return tensors, inference, generative


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_autotune_knows_the_metrics(setup_adata):
    from scvi.autotune import AutotuneExperiment

    AutotuneExperiment(SCSiameseClu, setup_adata, metrics="validation_loss", mode="min", search_space={}, num_samples=1)


def test_datamodules(model, quick, setup_adata, small):
    splitter = DataSplitter(model.adata_manager, train_size=0.75, batch_size=64)
    model.train(max_epochs=1, datamodule=splitter, **quick)
    assert len(model.train_indices) == 150
    with pytest.raises(NotImplementedError, match="found a LightningDataModule"):
        model.train(max_epochs=1, datamodule=pl.LightningDataModule(), **quick)
    other = synthetic(n_obs=60, n_vars=80, n_types=3, n_batches=2, seed=1)
    SCSiameseClu.setup_anndata(other, batch_key="batch")
    foreign = DataSplitter(SCSiameseClu(other, n_clusters=3, **small).adata_manager)
    with pytest.raises(ValueError, match="model's data"):
        model.train(max_epochs=1, datamodule=foreign, **quick)


def test_description_of_the_setup(trained, tmp_path, capsys):
    trained.view_anndata_setup()
    shown = capsys.readouterr().out
    assert "siamese_cell_graph" in shown
    assert "n_neighbors" in shown
    trained.view_setup_method_args()
    trained.save(tmp_path / "model")
    SCSiameseClu.view_setup_args(str(tmp_path / "model"))
    assert "batch_key" in capsys.readouterr().out
    registry = SCSiameseClu.load_registry(str(tmp_path / "model"))
    assert registry["setup_args"]["batch_key"] == "batch"
    assert registry["model_name"] == "SCSiameseClu"


def test_history_is_one_frame_per_term(trained):
    history = trained.history
    assert {"train_loss", "reconstruction_train", "clustering_train", "sinkhorn_marginal_error"} <= set(history)
    assert len(history["reconstruction_train"]) == 60
    assert history["reconstruction_train"].index.name == "epoch"
    assert np.isfinite(history["clustering_train"].to_numpy(dtype=float)).all()


def test_moved_to_a_device_and_back(trained):
    before = trained.predict(soft=True)
    trained.to_device("cpu")
    assert trained.device == torch.device("cpu")
    assert np.array_equal(trained.predict(soft=True), before)


def test_workers_load_the_same(model, quick, trained):
    before = scvi.settings.dl_num_workers
    expected = trained.predict(soft=True)
    scvi.settings.dl_num_workers = 1
    try:
        assert np.allclose(trained.predict(soft=True), expected, atol=1e-6)
        model.train(max_epochs=1, batch_size=100, **quick)
    finally:
        scvi.settings.dl_num_workers = before
    assert np.isfinite(model.predict(soft=True)).all(axis=None)


def test_mlflow_stays_off_unless_asked_for(trained):
    assert scvi.settings.mlflow_set_tracking_uri == ""
    assert trained.run_id == ""
