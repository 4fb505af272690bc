import random
import signal

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train import ResumeCheckpoint
from scsiameseclu.train._resume import rng_state, set_rng_state

QUICK = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 64}
PLAN = {"n_pretrain_epochs": 2, "n_warmup_epochs": 1}


class Stop(pl.Callback):
    """Stop at the first batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped")


def make(n_clusters=3, n_obs=150):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=n_obs, n_vars=50, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata)
    return SCSiameseClu(adata, n_clusters=n_clusters, n_latent=6, n_hidden=16, n_embedding_genes=40)


def same_weights(first, second):
    states = [model.module.state_dict() for model in (first, second)]
    return set(states[0]) == set(states[1]) and all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def stopped_and_resumed(epochs, path, **options):
    """A model whose training was stopped at each of the epochs and resumed by a new model each time."""
    made = {"n_clusters": options.pop("n_clusters", 3)}
    checkpoint = {}
    for epoch in epochs:
        with pytest.raises(RuntimeError, match="stopped"):
            make(**made).train(callbacks=[Stop(epoch), ResumeCheckpoint(path)], **checkpoint, **options)
        checkpoint = {"ckpt_path": path}
    model = make(**made)
    # Random numbers that are drawn before must not change the result.
    torch.rand(5), np.random.rand(5), random.random()
    model.train(callbacks=[ResumeCheckpoint(path)], **checkpoint, **options)
    return model


# 2 is the first epoch of the clustering phase, 3 the first with transport targets.
@pytest.mark.parametrize("epochs", [[1], [2], [3, 4]])
def test_resumed_training_ends_with_the_same_model(tmp_path, epochs):
    options = {"max_epochs": 5, "plan_kwargs": PLAN, **QUICK}
    whole = make()
    whole.train(**options)
    model = stopped_and_resumed(epochs, tmp_path / "run.ckpt", **options)
    assert same_weights(whole, model)
    assert set(model.history) == set(whole.history)
    for name, frame in whole.history.items():
        assert model.history[name].index.tolist() == frame.index.tolist(), name
        assert np.allclose(model.history[name].to_numpy(float), frame.to_numpy(float), rtol=1e-5), name
    assert (model.predict() == whole.predict()).all()


def test_resuming_finds_the_same_clusters_and_split(tmp_path):
    options = {
        "n_clusters": "auto",
        "max_epochs": 5,
        "train_size": 0.8,
        "check_val_every_n_epoch": 1,
        "plan_kwargs": PLAN,
        **QUICK,
    }
    whole = make("auto")
    whole.train(**{name: value for name, value in options.items() if name != "n_clusters"})
    model = stopped_and_resumed([4], tmp_path / "run.ckpt", **options)
    assert same_weights(whole, model)
    assert model.n_clusters == whole.n_clusters
    assert model.n_clusters_search_ == whole.n_clusters_search_
    assert np.array_equal(model.validation_indices, whole.validation_indices)


def test_checkpoints_are_written_on_schedule(tmp_path):
    class Note(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            found.append(torch.load(path, weights_only=True)["epoch"] if path.exists() else None)

    path, found = tmp_path / "run.ckpt", []
    make().train(max_epochs=5, plan_kwargs=PLAN, callbacks=[ResumeCheckpoint(path, 2), Note()], **QUICK)
    assert found == [None, None, 1, 1, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["run.ckpt"]
    with pytest.raises(ValueError, match="every_n_epochs"):
        ResumeCheckpoint(path, 0)


def test_checkpoints_to_resume_from_are_whole_files_also_beside_a_way_of_writing_that_the_user_chose(tmp_path):
    """A kill while Lightning writes would leave half a file."""

    class Own(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            written.append(path)

    written, own = [], Own()
    path, model = tmp_path / "run.ckpt", make()
    model.train(max_epochs=2, plan_kwargs=PLAN, callbacks=[ResumeCheckpoint(path)], plugins=[own], **QUICK)
    assert path.exists() and written == []
    model.trainer.save_checkpoint(tmp_path / "other.ckpt")
    assert written == [tmp_path / "other.ckpt"]


def test_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    make().train(max_epochs=2, plan_kwargs=PLAN, callbacks=[ResumeCheckpoint(path)], **QUICK)
    with pytest.raises(ValueError, match="Expected a checkpoint for 120 cells, found a checkpoint for 150"):
        make(n_obs=120).train(max_epochs=3, ckpt_path=path, **QUICK)
    with pytest.raises(ValueError, match="Expected a checkpoint with 5 clusters, found a checkpoint with 3"):
        trained = tmp_path / "trained.ckpt"
        make().train(max_epochs=4, plan_kwargs=PLAN, callbacks=[ResumeCheckpoint(trained)], **QUICK)
        make(n_clusters=5).train(max_epochs=5, ckpt_path=trained, **QUICK)
    with pytest.raises(ValueError, match="train_size"):
        make().train(max_epochs=3, ckpt_path=path, train_size=0.5, **QUICK)
    renamed = make()
    renamed.adata.obs_names = [f"other_{i}" for i in range(150)]
    with pytest.raises(ValueError, match="found a checkpoint for cells or genes with other"):
        renamed.train(max_epochs=3, ckpt_path=path, **QUICK)
    changed = synthetic(n_obs=150, n_vars=50, n_types=3, seed=1)
    changed.obs_names, changed.var_names = make().adata.obs_names, make().adata.var_names
    SCSiameseClu.setup_anndata(changed)
    with pytest.raises(ValueError, match="found a checkpoint for other data with the same names"):
        model = SCSiameseClu(changed, n_clusters=3, n_latent=6, n_hidden=16, n_embedding_genes=40)
        model.train(max_epochs=3, ckpt_path=path, **QUICK)
    moved = make().adata.copy()  # two counts of each of two cells moved between two genes: all totals are the same
    dense = moved.X.toarray()
    first, second = np.flatnonzero(dense[:, 0])[0], np.flatnonzero(dense[:, 1])[-1]
    assert first != second
    dense[first, [0, 1]] += [-1, 1]
    dense[second, [0, 1]] += [1, -1]
    moved.X = dense
    SCSiameseClu.setup_anndata(moved)
    with pytest.raises(ValueError, match="found a checkpoint for other data with the same names"):
        model = SCSiameseClu(moved, n_clusters=3, n_latent=6, n_hidden=16, n_embedding_genes=40)
        model.train(max_epochs=3, ckpt_path=path, **QUICK)
    state = torch.load(path, weights_only=True)
    del state["scsiameseclu"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="Expected a checkpoint of SCSiameseClu"):
        make().train(max_epochs=3, ckpt_path=path, **QUICK)


def test_random_generators_go_back():
    state = rng_state()
    drawn = torch.rand(3), np.random.rand(3), random.random()
    set_rng_state(state)
    again = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]


KILLED = """
import os, signal, sys
import lightning.pytorch as pl
import scvi, torch
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train import ResumeCheckpoint

class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
scvi.settings.seed = 0
adata = synthetic(n_obs=150, n_vars=50, n_types=3, seed=0)
SCSiameseClu.setup_anndata(adata)
model = SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16, n_embedding_genes=40)
model.train(
    max_epochs=5, batch_size=64, accelerator="cpu", enable_progress_bar=False,
    plan_kwargs={"n_pretrain_epochs": 2, "n_warmup_epochs": 1},
    callbacks=[Kill(), ResumeCheckpoint("run.ckpt")], ckpt_path="run.ckpt" if os.path.exists("run.ckpt") else None,
)
"""


@pytest.mark.slow
def test_killed_processes_lose_nothing(tmp_path, run_script):
    """Killed in pretraining, resumed and killed in the clustering phase, resumed here."""
    for epoch in (1, 3):
        assert run_script(KILLED, str(epoch)).returncode == -signal.SIGKILL
    options = {"max_epochs": 5, "plan_kwargs": PLAN, **QUICK}
    whole = make()
    whole.train(**options)
    model = make()
    model.train(ckpt_path=tmp_path / "run.ckpt", **options)
    assert same_weights(whole, model)


def test_counts_of_a_query_are_known_by_the_checkpoint(tmp_path):
    """The digest of the reference is the same for every query, so the checkpoint needs a digest of the query."""
    reference = make()
    reference.train(max_epochs=2, **QUICK)

    def mapped(seed):
        query = synthetic(n_obs=60, n_vars=50, n_types=3, seed=seed)
        query.obs_names = [f"cell_{i}" for i in range(60)]
        return SCSiameseClu.load_query_data(query, reference, accelerator="cpu", unfrozen=True)

    path = tmp_path / "query.ckpt"
    mapped(1).train(max_epochs=1, callbacks=[ResumeCheckpoint(path)], **QUICK)
    mapped(1).train(max_epochs=2, ckpt_path=path, **QUICK)
    with pytest.raises(ValueError, match="found a checkpoint for other data with the same names"):
        mapped(2).train(max_epochs=2, ckpt_path=path, **QUICK)
