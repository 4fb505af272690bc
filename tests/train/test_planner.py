"""Settings that depend on the devices of a training."""

import pytest
import torch

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.module import SiameseModule
from scsiameseclu.train import SiameseTrainingPlan, _planner, default_batch_size, learning_rate
from scsiameseclu.train._planner import DevicePlan, check_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("devices", "strategy", "n_devices", "is_distributed"),
    [
        ("auto", "auto", 1, False),
        (1, None, 1, False),
        ("1", None, 1, False),
        (2, None, 2, True),
        ("3", None, 3, True),
        (1, "ddp_find_unused_parameters_true", 1, True),
    ],
    ids=["auto", "one", "one as text", "two", "three as text", "one with a strategy"],
)
def test_devices_are_counted_as_lightning_counts_them(devices, strategy, n_devices, is_distributed):
    plan = DevicePlan.of("cpu", devices, strategy)
    assert (plan.device, plan.n_devices, plan.is_distributed) == (CPU, n_devices, is_distributed)


@pytest.mark.parametrize(("parsed", "n_devices"), [([1], 1), ([0, 1], 2), ([0, 1, 2, 3], 4)])
def test_gpus_come_as_a_list(monkeypatch, parsed, n_devices):
    """For ``-1``, ``"0,1"`` and ``[0, 1]`` Lightning names the GPUs."""
    monkeypatch.setattr(_planner, "parse_device_args", lambda *args, **kwargs: ("cuda", parsed, GPU))
    plan = DevicePlan.of("gpu", "anything")
    assert (plan.device, plan.n_devices, plan.is_distributed) == (GPU, n_devices, n_devices > 1)


@pytest.mark.parametrize("n_train", [100, 300_000, 20_000_000])
@pytest.mark.parametrize("n_devices", [1, 4])
def test_batches_grow_on_gpus_only(n_train, n_devices):
    assert DevicePlan(CPU, n_devices).batch_size(n_train) == 256
    assert DevicePlan(GPU, n_devices).batch_size(n_train) == default_batch_size(n_train, n_devices)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("n_devices", [1, 2, 8])
def test_the_learning_rate_follows_from_the_cells_of_all_devices(device, n_devices):
    for batch_size in (64, 256, 512):
        assert DevicePlan(device, n_devices).learning_rate(batch_size) == learning_rate(batch_size * n_devices)


def test_an_incomplete_batch_is_left_out_if_there_are_others_and_one_process():
    assert DevicePlan(CPU).drops_last(257, 256)
    assert not DevicePlan(CPU).drops_last(256, 256)
    assert not DevicePlan(CPU, 2, is_distributed=True).drops_last(1000, 256)
    assert not DevicePlan(CPU, 1, is_distributed=True).drops_last(1000, 256)


@pytest.mark.parametrize("fits", [True, False])
def test_data_are_held_where_they_fit_and_nothing_stands_in_the_way(monkeypatch, fits):
    asked = []
    monkeypatch.setattr(_planner, "fits_on", lambda *args: asked.append(args) or fits)
    alone, together = DevicePlan(GPU), DevicePlan(GPU, 1, is_distributed=True)
    assert alone.holds_data("manager", "auto", loads_elsewhere=False) is fits
    assert asked == [(GPU, "manager")]
    assert not alone.holds_data("manager", "auto", loads_elsewhere=True)
    assert not together.holds_data("manager", "auto", loads_elsewhere=False)
    # The setting of the user is used, whether the data fit or not.
    assert alone.holds_data("manager", True, loads_elsewhere=False) is True
    for plan in (alone, together):
        for elsewhere in (True, False):
            assert plan.holds_data("manager", False, loads_elsewhere=elsewhere) is False
    for plan, elsewhere in ((alone, True), (together, False)):
        with pytest.raises(ValueError, match="one process, no workers and no pinned memory"):
            plan.holds_data("manager", True, loads_elsewhere=elsewhere)


class Seen(Exception):
    """Stop a training before its first step."""


@pytest.mark.parametrize(("batch_size", "n_devices"), [(None, 1), (None, 4), (512, 2)])
def test_a_training_takes_its_settings_from_the_plan(monkeypatch, batch_size, n_devices):
    adata = synthetic(n_obs=100, n_vars=30, n_types=2, seed=0)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    asked, plan = [], DevicePlan(CPU, n_devices)
    monkeypatch.setattr(DevicePlan, "of", lambda *args: asked.append(args) or plan)

    def stop(training_plan):
        raise Seen(training_plan.lr, training_plan.trainer.datamodule.data_loader_kwargs["batch_size"])

    monkeypatch.setattr(SiameseTrainingPlan, "on_fit_start", stop)
    with pytest.raises(Seen) as seen:
        model.train(max_epochs=1, batch_size=batch_size, accelerator="cpu", devices=1, strategy="auto")
    assert asked == [("cpu", 1, "auto")]
    expected = 256 if batch_size is None else batch_size
    assert seen.value.args == (pytest.approx(learning_rate(expected * n_devices)), expected)


@pytest.mark.parametrize("precision", [None, 16, 32, "32-true", "bf16", "bf16-mixed", "16-mixed"])
def test_precisions_with_float32_weights_are_taken(precision):
    check_precision(precision)


def test_arguments_that_no_plan_has_are_refused():
    with pytest.raises(
        TypeError, match=r"SiameseTrainingPlan, found \['nonsense'\].*marginal_relaxation.*weight_decay"
    ):
        SiameseTrainingPlan(SiameseModule(10, 5, 2), nonsense=1, reduce_lr_on_plateau=True)
    assert SiameseTrainingPlan(SiameseModule(10, 5, 2), reduce_lr_on_plateau=True).reduce_lr_on_plateau
    with pytest.raises(ValueError, match="marginal_relaxation >= 0, found -1"):
        SiameseTrainingPlan(SiameseModule(10, 5, 2), marginal_relaxation=-1)
