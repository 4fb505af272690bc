"""Options for large data: precision, batch size, sources of data that are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import scvi
import torch

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train import Schedule, SiameseTrainingPlan, default_batch_size, learning_rate
from scsiameseclu.train._metrics import EpochMeans

QUICK = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def model():
    adata = synthetic(n_obs=150, n_vars=50, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata)
    return SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16, n_embedding_genes=40)


def test_trains_in_mixed_precision(model):
    used = []
    model.module.expression_encoder.project.register_forward_hook(lambda m, i, z: used.append((m.training, z.dtype)))
    model.train(max_epochs=4, precision="bf16-mixed", **QUICK)
    assert (True, torch.bfloat16) in used
    assert (False, torch.float32) in used  # targets are computed in full precision
    history = np.concatenate([frame.to_numpy(float).ravel() for frame in model.history.values()])
    assert np.isfinite(history).all()
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.get_latent_representation().dtype == np.float32


@pytest.mark.parametrize("precision", ["64-true", 64, "bf16-true", "16-true", "transformer-engine"])
def test_precisions_that_change_the_weights_are_refused(model, precision):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(ValueError, match=f"'32-true', 'bf16-mixed' or '16-mixed', found {precision!r}"):
        model.train(max_epochs=1, precision=precision, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert not model.is_trained


@pytest.mark.parametrize("precision", [None, 32, "32-true", "bf16", "bf16-mixed"])
def test_precisions_that_keep_the_weights_are_taken(model, precision):
    model.train(max_epochs=1, precision=precision, **QUICK)
    assert {value.dtype for value in model.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("options", "expected"), [({}, 1e-3), ({"batch_size": 1024}, 2e-3), ({"lr": 5e-4}, 5e-4)])
def test_learning_rate_grows_with_the_batch(model, monkeypatch, options, expected):
    class Rate(Exception):
        pass

    def stop(plan):
        raise Rate(plan.lr)

    monkeypatch.setattr(SiameseTrainingPlan, "on_fit_start", stop)
    plan = {name: options[name] for name in options if name == "lr"}
    rest = {name: options[name] for name in options if name != "lr"}
    with pytest.raises(Rate) as error:
        model.train(max_epochs=1, plan_kwargs=plan, **rest, **QUICK)
    assert error.value.args[0] == pytest.approx(expected)


def test_learning_rate_rule():
    assert learning_rate(1) == learning_rate(256) == 1e-3
    assert learning_rate(1024) == pytest.approx(2e-3)
    assert learning_rate(10**6) == 4e-3


@pytest.mark.parametrize(
    ("n_obs", "expected", "of_two"),
    [(300, 256, 256), (5000, 256, 256), (100_000, 1024, 512), (10**6, 8192, 4096), (10**7, 8192, 8192)],
)
def test_batches_on_a_gpu_leave_enough_steps(n_obs, expected, of_two):
    size = default_batch_size(n_obs)
    assert size == expected
    assert size == 256 or n_obs * Schedule.for_cells(n_obs).max_epochs / size >= 500
    assert default_batch_size(n_obs, n_devices=2) == of_two


def test_means_weigh_batches_by_their_cells():
    means = EpochMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(4.0)}, 30)
    means.add({"a": torch.tensor(5.0), "b": torch.tensor(4.0)}, 10)
    means.add({"c": torch.tensor(7.0)}, 1)
    assert {name: float(mean) for name, mean in means.current().items()} == {"a": 2.0, "b": 4.0, "c": 7.0}
    assert means.pop()
    assert means.pop() == {}


def test_other_genes_cost_a_quarter_in_training_only(model):
    (batch,) = model._make_data_loader(model.adata, batch_size=150)
    for training, rows in ((True, 38), (False, 150)):
        _, outputs, loss = model.module.train(training)(batch)
        assert outputs["others_nll"].shape == (rows, 10)
        assert outputs["nll"].shape == (150, 40)
        assert loss.reconstruction_loss["reconstruction_loss"].shape == (150,)


def test_sources_without_random_access_are_refused(model):
    with pytest.raises(NotImplementedError, match=r"found a .*setup_mapped"):
        model.train(datamodule=object())


def test_targets_of_many_cells_held_out_are_those_of_a_random_sample(model, monkeypatch):
    rows = SimpleNamespace(train_idx=np.arange(100), val_idx=np.arange(100, 300)[::-1])
    monkeypatch.setattr(SiameseTrainingPlan, "_data", rows)
    samples = []
    for seed in (0, 0, 1):
        scvi.settings.seed = seed
        samples.append(SiameseTrainingPlan(model.module, max_target_cells=50)._validation_rows())
    assert np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[0], samples[2])
    assert len(np.unique(samples[0])) == 50 and np.isin(samples[0], rows.val_idx).all()
    assert samples[0].max() > 250 and (np.diff(samples[0]) > 0).all()
    few = SiameseTrainingPlan(model.module, max_target_cells=500)._validation_rows()
    assert np.array_equal(few, np.arange(100, 300))
