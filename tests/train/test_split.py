"""Settings depend on the cells that are trained on, and a model counts as trained only after a step."""

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch import Callback
from scvi.dataloaders import DataSplitter

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.model._split import Split

QUICK = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
ROWS = [np.arange(70), np.arange(70, 100), np.arange(0)]


def made(n_clusters=2, n_obs=100):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=n_obs, n_vars=30, n_types=2, seed=0)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    return SCSiameseClu(adata, n_clusters=n_clusters, n_latent=4, n_hidden=8)


@pytest.mark.parametrize("batch_size", [0, -1, 10.5])
def test_batches_have_a_whole_number_of_cells(batch_size):
    with pytest.raises(ValueError, match="Expected batch_size as a whole number of at least 1"):
        Split.of(100, 1.0, None, {}).check_batches(batch_size, False)


def moved(model, before):
    """Whether every weight of both encoders changed; cluster centres are placed without any step."""
    encoders = {key: value for key, value in model.module.named_parameters() if "encoder" in key}
    return bool(encoders) and not any(torch.equal(value, before[key]) for key, value in encoders.items())


@pytest.mark.parametrize(
    "split",
    [
        {"datasplitter_kwargs": {"external_indexing": ROWS}},
        {"datasplitter_kwargs": {"external_indexing": [list(range(70)), range(70, 100)]}},
        {"datasplitter_kwargs": {"external_indexing": [np.arange(100) < 70]}},
        {"train_size": 0.7},
        {"validation_size": 0.3},
    ],
    ids=["arrays", "lists", "a mask", "train_size", "validation_size"],
)
def test_fewer_training_cells_than_a_batch_train(split):
    """All 100 cells are more than a batch of 80, but the 70 training cells are not."""
    model = made()
    before = {key: value.clone() for key, value in model.module.named_parameters()}
    model.train(batch_size=80, **split, **QUICK)
    assert model.is_trained_ and moved(model, before)
    assert len(model.train_indices) == 70
    assert len(model.predict()) == 100


def test_what_a_training_needs_to_know_of_the_split():
    assert Split.of(100, 0.7, None, {}).n_held_out == 30
    assert Split.of(100, 0.7, 0.1, {}).n_held_out == 10
    given = Split.of(10, 1.0, None, {"external_indexing": [np.arange(4), np.array([4.0, 5.0])]})
    assert (given.n_train, given.n_held_out) == (4, 2)
    assert given.external[2].tolist() == [6, 7, 8, 9]
    for rows, message in (
        ([np.array([0, 10])], "rows of 10 cells"),
        ([np.array([0, 0])], "every row once"),
        ([np.array([0]), np.array([0])], "every row once"),
        ([], "arrays of rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Split.of(10, 1.0, None, {"external_indexing": rows})


USERS = {
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 1},
    "reduce_lr_on_plateau": {"plan_kwargs": {"reduce_lr_on_plateau": True}},
    "early_stopping": {"early_stopping": True},
    "learning_rate_monitor": {"learning_rate_monitor": True},
}


@pytest.mark.parametrize("user", USERS)
def test_cells_are_held_out_where_something_needs_them(user):
    model = made()
    model.train(**USERS[user], **QUICK)
    assert model.is_trained_ and len(model.validation_indices) == 10
    for split in (
        {"train_size": 1.0},
        {"datasplitter_kwargs": {"external_indexing": [np.arange(100)]}},
        {"validation_size": 0.0},
    ):
        with pytest.raises(ValueError, match=rf"{user} need.*train_size=0.9"):
            made().train(**USERS[user], **split, **QUICK)


def test_no_whole_batch_is_refused_before_training():
    model = made()
    with pytest.raises(ValueError, match="at least one whole batch of 256 training cells with drop_last, found 100"):
        model.train(datasplitter_kwargs={"drop_last": True}, **QUICK)
    splitter = DataSplitter(model.adata_manager, train_size=0.7, batch_size=80, drop_last=True)
    with pytest.raises(ValueError, match="whole batch of 80 training cells with drop_last, found 70"):
        model.train(datamodule=splitter, **QUICK)
    assert not model.is_trained_


@pytest.mark.parametrize("n_clusters", [2, "auto"])
def test_a_model_is_trained_only_after_a_step(n_clusters):
    model = made(n_clusters)
    with pytest.raises(RuntimeError, match="at least one training step, found none"):
        model.train(limit_train_batches=0, **QUICK)
    assert (model.module.head is None) == (n_clusters == "auto")
    with pytest.raises(RuntimeError, match="trained"):
        model.predict()
    assert not model.is_trained_ and model.n_clusters == n_clusters

    class Interrupt(Callback):
        def on_train_batch_start(self, *args):
            raise KeyboardInterrupt

    model.train(callbacks=[Interrupt()], **QUICK)
    assert not model.is_trained_ and model.n_clusters == n_clusters
    assert (model.module.head is None) == (n_clusters == "auto")
    with pytest.warns(UserWarning, match="trained"):
        model.get_latent_representation()
    model.train(**QUICK)
    assert model.is_trained_ and len(model.predict()) == 100

    clusters = model.predict(soft=True)
    model.train(callbacks=[Interrupt()], **QUICK)
    assert model.is_trained_ and model.predict(soft=True).equals(clusters)


def test_numbers_of_numpy_are_numbers(tmp_path):
    adata = made().adata
    model = SCSiameseClu(
        adata, n_clusters=np.int64(2), n_latent=np.int32(4), n_hidden=np.int64(8), dropout_rate=np.float64(0.1)
    )
    options = model.init_params_["non_kwargs"]
    assert {type(options[name]) for name in ("n_clusters", "n_latent", "n_hidden")} == {int}
    model.train(
        max_epochs=np.int64(2),
        batch_size=np.int64(40),
        train_size=np.float32(0.9),
        check_val_every_n_epoch=np.int64(1),
        plan_kwargs={"n_pretrain_epochs": np.int64(1), "lr": np.float64(1e-3)},
        accelerator="cpu",
        enable_progress_bar=False,
    )
    model.save(tmp_path / "model")
    assert SCSiameseClu.load(tmp_path / "model", adata=adata, accelerator="cpu").is_trained
