"""Hooks of the training plan, tested without training."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from scsiameseclu.model import SCSiameseClu
from scsiameseclu.module import SiameseModule
from scsiameseclu.train import NonFiniteLossError, SiameseTrainingPlan
from scsiameseclu.train._checkpoint import follow_clustering
from scsiameseclu.train._hooks import _moved, broadcast
from scsiameseclu.train._metrics import EpochMeans
from scsiameseclu.train._resume import fill_history, history_state


def make(trainer=None, **options):
    plan = SiameseTrainingPlan(SiameseModule(12, 3, 2, n_latent=4, n_hidden=8), **options)
    if trainer is not None:
        plan.trainer = SimpleNamespace(world_size=1, **trainer)
    return plan


# -- optimiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize(("clip", "fused"), [(None, True), (0.0, True), (1.0, None)])
def test_weights_are_updated_in_one_operation_unless_gradients_are_clipped(name, clip, fused):
    plan = make({"gradient_clip_val": clip}, optimizer=name, lr=0.3, eps=0.02, weight_decay=0.4)
    optimizer = plan.get_optimizer_creator()(plan.module.parameters())
    assert type(optimizer) is getattr(torch.optim, name)
    assert {key: optimizer.defaults[key] for key in ("lr", "eps", "weight_decay", "fused")} == {
        "lr": 0.3, "eps": 0.02, "weight_decay": 0.4, "fused": fused,
    }  # fmt: skip


def test_an_optimiser_of_the_user_is_taken_as_it_is():
    def creator(parameters):
        return torch.optim.SGD(parameters, lr=0.5)

    assert make(optimizer="Custom", optimizer_creator=creator).get_optimizer_creator() is creator


# -- batches -------------------------------------------------------------------------------------------------------


def test_batches_with_partners_move_as_a_whole():
    plan, device = make(), torch.device("meta")
    batch = {"a": torch.ones(2), "partner": {"b": torch.ones(3), "more": {"c": torch.ones(1)}}}
    assert plan.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    for moved in (_moved(batch, device), plan.transfer_batch_to_device(batch, device, 0)):
        tensors = [moved["a"], moved["partner"]["b"], moved["partner"]["more"]["c"]]
        assert [tensor.device for tensor in tensors] == [device] * 3
        assert [len(tensor) for tensor in tensors] == [2, 3, 1]
    assert broadcast([1, "a"]) == [1, "a"]


# -- logging -------------------------------------------------------------------------------------------------------


def loss_of(n_cells, loss, reconstruction, term):
    return SimpleNamespace(
        n_obs_minibatch=n_cells,
        loss=torch.tensor(loss),
        reconstruction_loss_sum=torch.tensor(reconstruction * n_cells),
        extra_metrics={"term": torch.tensor(term)},
    )


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_the_log_has_means_over_cells_under_the_names_of_scvi_tools(mode):
    plan = make()
    plan.compute_and_log_metrics(loss_of(30, 2.0, 10.0, 1.0), {}, mode)
    plan.compute_and_log_metrics(loss_of(10, 6.0, 50.0, 5.0), {}, mode)
    found = {name: mean.item() for name, mean in plan._means[mode].current().items()}
    assert found == {
        f"{mode}_loss": 3.0,
        f"elbo_{mode}": 20.0,
        f"reconstruction_loss_{mode}": 20.0,
        f"kl_local_{mode}": 0.0,
        f"kl_global_{mode}": 0.0,
        f"term_{mode}": 2.0,
    }
    assert plan._means["validation" if mode == "train" else "train"].current() == {}


def test_the_log_keeps_no_graph_of_a_batch_alive():
    plan, term = make(), torch.tensor(2.0, requires_grad=True)
    batch = SimpleNamespace(
        n_obs_minibatch=3, loss=3 * term, reconstruction_loss_sum=4 * term, extra_metrics={"term": 5 * term}
    )
    plan.compute_and_log_metrics(batch, {}, "train")
    assert not any(mean.requires_grad for mean in plan._means["train"].current().values())


def test_terms_that_come_later_are_means_over_their_own_cells():
    means = EpochMeans()
    means.add({"a": torch.tensor(2.0)}, 30)
    means.add({"a": torch.tensor(4.0), "b": torch.tensor(8.0)}, 10)
    means.add({"a": torch.tensor(4.0), "b": torch.tensor(2.0)}, 20)
    assert means.current()["b"].item() == 4.0


# -- the last good weights ---------------------------------------------------------------------------------------


def test_good_weights_are_kept_and_come_back():
    plan = make({"current_epoch": 7})
    weight, buffer = plan.module.decoder.log_dispersion, plan.module.expression_scaler.mean
    plan.keep_weights()
    kept = weight.detach().clone()
    weight.data += 1.0
    assert plan.restore_weights() is False  # no epoch has been completed
    assert torch.equal(weight, kept)
    plan._n_good_epochs = 1
    assert plan.restore_weights() is True
    for values, value in ((weight.data, float("nan")), (buffer, float("inf"))):
        values.view(-1)[0] = value
        assert not plan.weights_are_finite()
        with pytest.raises(NonFiniteLossError, match="finite weights.*in epoch 7.*last good epoch are kept"):
            plan.keep_weights()
        plan.restore_weights()
        assert plan.weights_are_finite()
    plan._n_good_epochs = 0
    assert "from before training" in str(plan._not_finite("x"))


def covariates(values, **options):
    """A plan on data with these two continuous covariates."""
    values = np.asarray(values, dtype=float)
    counts = np.random.default_rng(0).poisson(3.0, size=(len(values), 12)).astype(np.float32)
    adata = ad.AnnData(
        counts, obs=pd.DataFrame(values, columns=["age", "reads"], index=list(map(str, range(len(values)))))
    )
    SCSiameseClu.setup_anndata(adata, continuous_covariate_keys=["age", "reads"], n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    plan = SiameseTrainingPlan(model.module, **options)
    plan.trainer = SimpleNamespace(datamodule=SimpleNamespace(adata_manager=model.adata_manager))
    return plan


def test_the_cause_of_lost_clusters_is_an_extreme_covariate_a_high_rate_or_the_data():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(150, 2)) * [1, 1000]
    assert "do not fall into 4 groups" in covariates(values, lr=4e-3).likely_cause(4)
    assert "the learning rate of 0.005" in covariates(values, lr=5e-3).likely_cause(4)
    values[7, 1] = 1e6
    far = (values[7, 1] - values[:, 1].mean()) / values[:, 1].std()
    cause = covariates(values, lr=5e-3).likely_cause(4)
    assert f"('reads': {far:.0f} standard deviations from the mean)" in cause and "age" not in cause
    values[:, 1] = -values[:, 1]
    assert "'reads'" in covariates(values).likely_cause(4)


@pytest.mark.parametrize(("n_sd", "extreme"), [(9.5, False), (10.5, True)])
def test_ten_standard_deviations_are_extreme(n_sd, extreme):
    plan = covariates(np.random.default_rng(0).normal(size=(150, 2)))
    values = np.zeros((150, 2))
    values[3, 1] = n_sd
    scaler = plan.module.covariate_scaler
    scaler.mean.zero_()
    scaler.sd.fill_(1.0)
    manager = SimpleNamespace(
        registry=plan._data.adata_manager.registry,
        data_registry=plan._data.adata_manager.data_registry,
        get_from_registry=lambda key: values,
    )
    plan.trainer = SimpleNamespace(datamodule=SimpleNamespace(adata_manager=manager))
    found = plan._extreme_covariates()
    assert found == (["'reads': 10 standard deviations from the mean"] if extreme else [])


def test_without_covariates_none_is_extreme():
    plan = make({"datamodule": SimpleNamespace(adata_manager=None)})
    assert plan._extreme_covariates() == []


# -- random numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "epoch"), [(0, 0), (0, 3), (1, 0), (2, 3)])
def test_every_process_but_the_first_has_random_numbers_of_its_own(rank, epoch):
    torch.manual_seed(5)
    make({"global_rank": rank, "current_epoch": epoch})._seed_process()
    assert torch.initial_seed() == 5 + (1009 * rank + epoch if rank else 0)


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_history_comes_back():
    history = {
        "a": pd.DataFrame({"a": [1.0, 2.5]}, index=pd.Index([0, 1], name="epoch")),
        "b": pd.DataFrame({"b": [7.0]}, index=pd.Index([4], name="epoch")),
    }
    again = {}
    fill_history(again, history_state(history))
    assert list(again) == ["a", "b"]
    for name, frame in history.items():
        pd.testing.assert_frame_equal(again[name], frame, check_dtype=False)


class Checkpoint:
    """Replacement for a checkpoint callback that records which of its hooks ran."""

    check_nan_gradients = True

    def __init__(self, best, load_best_on_end):
        self.best_model_path, self.load_best_on_end, self.ran = best, load_best_on_end, []

    def on_train_epoch_end(self, trainer, plan):
        self.ran.append(("epoch", trainer, plan))

    def on_validation_end(self, trainer, plan):
        self.ran.append(("validation", trainer, plan))


class Weights:
    """Replacement for a module that records the weights it gets."""

    clustering_active, loaded = True, None

    def load_state_dict(self, weights):
        self.loaded = weights


@pytest.mark.parametrize("clustering", [True, False])
def test_checkpoints_see_the_clustering_phase_only(clustering):
    callback, plan = Checkpoint("best", load_best_on_end=False), SimpleNamespace(module=Weights())
    plan.module.clustering_active = clustering
    follow_clustering(callback, lambda path: f"weights in {path}")
    callback.on_train_epoch_end("trainer", plan)
    callback.on_validation_end("trainer", plan)
    assert callback.ran == [(hook, "trainer", plan) for hook in ("epoch", "validation") if clustering]


@pytest.mark.parametrize("best", ["best", ""])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_best_weights_come_back_if_wanted_and_if_there_are_any(best, wanted):
    def loaded(hook, *args):
        callback, plan = Checkpoint(best, load_best_on_end=wanted), SimpleNamespace(module=Weights())
        callback.check_nan_gradients = wanted
        follow_clustering(callback, lambda path: f"weights in {path}")
        getattr(callback, hook)(None, plan, *args)
        return plan.module.loaded

    expected = "weights in best" if best and wanted else None
    assert loaded("on_train_end") == expected
    assert loaded("on_exception", ValueError()) == expected
    assert loaded("on_exception", KeyboardInterrupt()) is None
