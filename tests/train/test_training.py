import signal

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.module import SiameseModule
from scsiameseclu.ot import sinkhorn
from scsiameseclu.partition import fit_discriminant
from scsiameseclu.train import NonFiniteLossError, SiameseTrainingPlan
from scsiameseclu.train._plan import floored

QUICK = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def adata():
    adata = synthetic(n_obs=150, n_vars=50, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata)
    return adata


def make(adata, n_clusters=3, **options):
    return SCSiameseClu(adata, n_clusters=n_clusters, n_latent=6, n_hidden=16, **options)


class Interrupt(pl.Callback):
    """Press Ctrl-C in the first batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


class Poison(Interrupt):
    """Break the decoder in an epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            pl_module.module.decoder.scale_logits.weight.data.fill_(float("nan"))


class PoisonAt(pl.Callback):
    """Break a weight at the end or the start of an epoch, when no loss is computed that would show it."""

    def __init__(self, hook, epoch):
        self.epoch = epoch
        setattr(self, hook, self.poison)

    def poison(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            pl_module.module.expression_encoder.project.weight.data[0, 0] = float("nan")


class Record(pl.Callback):
    """Record the state of training at the end of every epoch."""

    def __init__(self):
        self.active, self.training, self.duals, self.optimizers = [], [], [], []

    def on_train_epoch_end(self, trainer, pl_module):
        head = pl_module.module.head
        self.active.append(pl_module.module.clustering_active)
        self.training.append(pl_module.module.training)
        self.duals.append(None if head is None else head.log_duals.clone())
        self.optimizers.append(trainer.optimizers[0])


def test_same_seed_gives_the_same_weights(adata):
    states = []
    for _ in range(2):
        scvi.settings.seed = 3
        model = make(adata)
        model.train(max_epochs=3, batch_size=64, **QUICK)
        states.append(model.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_another_seed_gives_other_weights(adata):
    centers = []
    for seed in (0, 1):
        scvi.settings.seed = seed
        model = make(adata)
        model.train(max_epochs=2, **QUICK)
        centers.append(model.module.head.centers)
    assert not torch.equal(*centers)


def test_clustering_starts_after_pretraining_with_a_fresh_optimizer(adata):
    model, record = make(adata), Record()
    model.train(max_epochs=5, plan_kwargs={"n_pretrain_epochs": 2}, callbacks=[record], **QUICK)
    assert record.active == [False, False, True, True, True]
    assert record.optimizers[0] is record.optimizers[1]
    assert record.optimizers[2] is not record.optimizers[1]
    trained = {id(p) for group in record.optimizers[2].param_groups for p in group["params"]}
    assert id(model.module.head.centers) in trained
    assert not model.module.clustering_active


def test_targets_are_refreshed_on_schedule(adata):
    model, record = make(adata), Record()
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": 0, "target_refresh_epochs": 2}
    model.train(max_epochs=5, plan_kwargs=plan, callbacks=[record], **QUICK)
    duals = record.duals[1:]
    assert torch.equal(duals[0], duals[1])
    assert not torch.equal(duals[1], duals[2])
    assert torch.equal(duals[2], duals[3])
    assert len(model.history["sinkhorn_marginal_error"]) == 2


@pytest.mark.parametrize(("n_warmup", "expected"), [(None, 4), (0, 0), (3, 3), (9, 4)])
def test_discriminants_give_the_targets_while_warming_up(adata, monkeypatch, n_warmup, expected):
    used, clustering = {True: [], False: []}, SiameseModule._clustering

    def spy(module, head, tensors, *z):
        for cells in (tensors, tensors.get(SIAMESE_KEYS.PARTNER, tensors)):
            targets, wanted = cells[SIAMESE_KEYS.CLUSTER_TARGET], discriminant[0].probabilities(cells[rep])
            assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)))
            used[module.training].append(torch.equal(targets, wanted))
        return clustering(module, head, tensors, *z)

    def fit(points, parts, *args, **kwargs):
        discriminant.append(fit_discriminant(points, parts, *args, **kwargs))
        fitted.append(points)
        return discriminant[0]

    discriminant, fitted, rep = [], [], SIAMESE_KEYS.GRAPH_REP
    monkeypatch.setattr("scsiameseclu.train._first_partition.fit_discriminant", fit)
    monkeypatch.setattr(SiameseModule, "_clustering", spy)
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": n_warmup}
    model = make(adata)
    model.train(max_epochs=5, train_size=0.8, check_val_every_n_epoch=1, plan_kwargs=plan, **QUICK)
    for same in used.values():  # training cells, and those held out for validation
        # Each epoch has one batch of both views, and there are four epochs of clustering.
        assert same == [True] * 2 * expected + [False] * 2 * (4 - expected)
    assert np.array_equal(fitted[0], model.adata_manager.get_from_registry(rep)[np.sort(model.train_indices)])


def test_assignments_are_as_certain_as_the_targets(adata, monkeypatch):
    found = []

    def fit(*args, **kwargs):
        found.append(fit_discriminant(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr("scsiameseclu.train._first_partition.fit_discriminant", fit)
    model = make(adata)
    model.train(max_epochs=4, **QUICK)
    rep = torch.as_tensor(model.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP))
    wanted = found[0].probabilities(rep).amax(dim=1).mean().item()
    assert model.predict(soft=True).max(axis=1).mean() == pytest.approx(wanted, abs=1e-3)
    model.train(max_epochs=2, **QUICK)  # existing clusters get their own discriminants
    wanted = found[1].probabilities(rep).amax(dim=1).mean().item()
    assert len(found) == 2
    assert model.predict(soft=True).max(axis=1).mean() == pytest.approx(wanted, abs=1e-3)


def test_targets_are_kept_between_refreshes(adata, monkeypatch):
    """Within an epoch only the targets fix the cluster masses, so the targets must not follow the network."""
    seen, clustering = {}, SiameseModule._clustering

    def spy(module, head, tensors, *z):
        for row, target in zip(tensors[SIAMESE_KEYS.CELL_INDEX].flatten().tolist(), tensors[key], strict=True):
            seen.setdefault(row, []).append(target)
        return clustering(module, head, tensors, *z)

    key = SIAMESE_KEYS.CLUSTER_TARGET
    monkeypatch.setattr(SiameseModule, "_clustering", spy)
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": 0, "target_refresh_epochs": 2}
    make(adata).train(max_epochs=5, plan_kwargs=plan, **QUICK)
    assert all(torch.equal(t[0], t[1]) and torch.equal(t[2], t[3]) for t in seen.values())
    assert not all(torch.equal(t[1], t[2]) for t in seen.values())


def test_masses_are_held_above_half_of_the_first(adata, monkeypatch):
    floor = torch.tensor([0.3, 0.15, 0.05])
    assert torch.allclose(floored(torch.tensor([0.6, 0.3, 0.1]), floor), torch.tensor([0.6, 0.3, 0.1]))
    raised = floored(torch.tensor([0.98, 0.02, 0.0]), floor)
    assert torch.allclose(raised, torch.tensor([0.8, 0.15, 0.05]))

    first, masses = [], []

    def everything_to_one(marginals, *_):
        first.append(marginals.clone())
        return torch.nn.functional.one_hot(torch.tensor(0), 3).to(marginals)

    def solve(scaled, marginals, **options):
        masses.append(marginals.clone())
        return sinkhorn(scaled, marginals, **options)

    monkeypatch.setattr("scsiameseclu.train._plan.ema_marginals", everything_to_one)
    monkeypatch.setattr("scsiameseclu.train._plan.sinkhorn", solve)
    make(adata).train(max_epochs=4, plan_kwargs={"n_pretrain_epochs": 1, "n_warmup_epochs": 0}, **QUICK)
    assert len(masses) == 3
    assert torch.allclose(masses[-1][1:], 0.5 * first[0][1:])
    assert masses[-1].sum().item() == pytest.approx(1.0)


def test_collapsed_clusters_are_reported_and_undone(adata, caplog):
    class Collapse(pl.Callback):
        """Make all centres equal at the end of the training, so that every cell is in the first cluster."""

        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                pl_module.module.head.centers.data[:] = pl_module.module.head.origin + 1.0

    model = make(adata)
    model.train(max_epochs=4, plan_kwargs={"n_pretrain_epochs": 2}, callbacks=[Collapse()], **QUICK)
    assert "Expected 3 clusters with cells, found 1" in caplog.text
    assert (model.get_cluster_summary()["size"] > 0).all()


def test_history_has_every_term(adata):
    terms = (
        "reconstruction",
        "cell_correlation",
        "latent_correlation",
        "cross_correlation",
        "propagation",
        "clustering",
    )
    model = make(adata, loss_weights=dict.fromkeys(terms, 0.1))
    model.train(max_epochs=3, check_val_every_n_epoch=1, train_size=0.8, **QUICK)
    for term in terms:
        assert np.isfinite(model.history[f"{term}_train"].to_numpy(dtype=float)).all()
        assert f"{term}_validation" in model.history
    assert (model.history["sinkhorn_marginal_error"].to_numpy(dtype=float) < 0.1).all()


def test_loss_falls(adata):
    """The comparison is a run with learning rate 0, whose loss changes by chance only."""
    ends = []
    for lr in (4e-3, 0.0):
        scvi.settings.seed = 0
        model = make(adata)
        model.train(max_epochs=20, plan_kwargs={"lr": lr}, **QUICK)
        loss = model.history["reconstruction_train"].to_numpy(dtype=float).ravel()
        ends.append((loss[0], loss[-1]))
    by_chance = abs(ends[1][1] - ends[1][0])
    assert ends[0][0] - ends[0][1] > 5 * by_chance


def test_default_length_follows_the_schedule(adata, monkeypatch):
    from scsiameseclu.train import _schedule

    monkeypatch.setattr(_schedule, "PRETRAIN_CELLS", 300)
    monkeypatch.setattr(_schedule, "_PRETRAIN_RANGE", (1, 10))
    monkeypatch.setattr(_schedule, "CLUSTER_CELLS", 150)
    monkeypatch.setattr(_schedule, "_CLUSTER_RANGE", (1, 10))
    model, record = make(adata), Record()
    model.train(callbacks=[record], **QUICK)
    assert record.active == [False, False, True]


def test_frozen_marginals_stay_those_of_the_first_partition(adata):
    model = make(adata)
    plan = {"marginal_momentum": 1.0, "n_pretrain_epochs": 1}
    model.train(max_epochs=4, plan_kwargs=plan, **QUICK)
    counts = model.module.head.marginals * (150 + 3) - 1
    assert torch.allclose(counts, counts.round(), atol=1e-3)


def test_incomplete_last_batch_is_dropped_only_if_there_are_others(adata):
    batches = []

    class Count(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(batch["X"].shape[0])

    make(adata).train(max_epochs=1, batch_size=64, callbacks=[Count()], **QUICK)
    assert batches == [64, 64]
    batches.clear()
    make(adata).train(max_epochs=1, batch_size=1000, callbacks=[Count()], **QUICK)
    assert batches == [150]


def test_batches_of_one_cell(adata):
    small = adata[:8].copy()
    SCSiameseClu.setup_anndata(small)
    model = make(small, n_clusters=2)
    model.train(max_epochs=2, batch_size=1, **QUICK)
    assert np.isfinite(model.get_latent_representation()).all()


def test_early_stopping_spares_pretraining(adata):
    model = make(adata)
    model.train(
        max_epochs=40,
        early_stopping=True,
        early_stopping_min_delta=1e6,
        plan_kwargs={"n_pretrain_epochs": 6},
        **QUICK,
    )
    # The first clustering epoch is the best. Training ends after three more epochs without improvement.
    assert len(model.history["train_loss"]) == 6 + 1 + 3
    assert len(model.validation_indices) == 15
    assert len(model.predict()) == 150


@pytest.mark.parametrize("epoch", [1, 2, 4])  # before the first step: tests/train/test_split.py
def test_interrupt_leaves_a_model_that_predicts(adata, epoch, caplog):
    model = make(adata, "auto")
    handler = signal.getsignal(signal.SIGINT)
    model.train(max_epochs=6, plan_kwargs={"n_pretrain_epochs": 3}, callbacks=[Interrupt(epoch)], **QUICK)
    assert "interrupted" in caplog.text
    assert ("before the clustering phase" in caplog.text) == (epoch < 3)
    assert model.is_trained and not model.module.training
    assert model.n_clusters >= 1
    assert len(model.predict()) == 150
    assert len(model.train_indices) == 150
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("epoch", [1, 4])
def test_loss_that_is_not_finite_stops_with_the_last_good_weights(adata, epoch):
    model, record = make(adata), Record()
    with pytest.raises(NonFiniteLossError, match=r"reconstruction.*last good epoch are kept"):
        model.train(max_epochs=6, plan_kwargs={"n_pretrain_epochs": 3}, callbacks=[Poison(epoch), record], **QUICK)
    assert all(torch.isfinite(value).all() for value in model.module.state_dict().values())
    assert model.is_trained
    assert model.predict(soft=True).notna().all(axis=None)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_epoch_start"])
@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_broken_weights_between_epochs_are_never_kept(adata, hook, epoch):
    model = make(adata)
    with pytest.raises(NonFiniteLossError, match="last good epoch are kept"):
        model.train(max_epochs=6, plan_kwargs={"n_pretrain_epochs": 3}, callbacks=[PoisonAt(hook, epoch)], **QUICK)
    assert all(torch.isfinite(value).all() for value in model.module.state_dict().values())
    assert model.predict(soft=True).notna().all(axis=None)


def test_broken_weights_after_the_first_epoch_leave_the_untrained_ones(adata):
    model = make(adata)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="from before training"):
        model.train(max_epochs=3, callbacks=[PoisonAt("on_train_epoch_end", 0)], **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_loss_that_is_not_finite_from_the_start(adata):
    model = make(adata)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="from before training"):
        model.train(max_epochs=3, callbacks=[Poison(0)], **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert not model.is_trained


def test_training_again_keeps_the_clusters(adata):
    model = make(adata)
    model.train(max_epochs=20, **QUICK)
    before = model.predict()
    record = Record()
    model.train(max_epochs=2, callbacks=[record], **QUICK)
    assert record.active == [True, True]
    # scvi-tools leaves a trained module in evaluation mode, in which there is no augmentation.
    assert record.training == [True, True]
    assert (model.predict() == before).mean() > 0.9


def test_default_length_of_a_trained_model_is_the_clustering_phase(adata, monkeypatch):
    from scsiameseclu.train import _schedule

    monkeypatch.setattr(_schedule, "PRETRAIN_CELLS", 1)
    monkeypatch.setattr(_schedule, "_PRETRAIN_RANGE", (4, 4))
    monkeypatch.setattr(_schedule, "_CLUSTER_RANGE", (2, 2))
    model = make(adata)
    lengths = []
    for _ in range(2):
        record = Record()
        model.train(callbacks=[record], **QUICK)
        lengths.append(len(record.active))
    assert lengths == [6, 2]
    query = adata[:50].copy()
    mapped, record = SCSiameseClu.load_query_data(query, model, accelerator="cpu"), Record()
    mapped.train(callbacks=[record], **QUICK)
    assert record.active == [True, True]


def test_early_stopping_of_a_trained_model_starts_at_once(adata):
    model = make(adata)
    model.train(max_epochs=2, **QUICK)
    record = Record()
    model.train(max_epochs=30, early_stopping=True, early_stopping_min_delta=1e6, callbacks=[record], **QUICK)
    assert len(record.active) == 1 + 3


def test_large_data_are_sampled_for_the_targets(adata, monkeypatch):
    numbers = {"partition": [], "sinkhorn": [], "kept": []}
    from scsiameseclu.train import _first_partition, _plan

    partition, sinkhorn, keep = _first_partition.partition_cells, _plan.sinkhorn, SiameseTrainingPlan._keep_targets
    monkeypatch.setattr(
        _first_partition,
        "partition_cells",
        lambda space, *a: numbers["partition"].append(space.n_obs) or partition(space, *a),
    )
    monkeypatch.setattr(
        _plan, "sinkhorn", lambda s, *a, **k: numbers["sinkhorn"].append(len(s)) or sinkhorn(s, *a, **k)
    )
    monkeypatch.setattr(
        SiameseTrainingPlan, "_keep_targets", lambda plan, rows, t: numbers["kept"].append(rows) or keep(plan, rows, t)
    )
    model = make(adata)
    plan = {"max_init_cells": 40, "max_target_cells": 60, "n_pretrain_epochs": 1, "n_warmup_epochs": 1}
    model.train(max_epochs=4, plan_kwargs=plan, **QUICK)
    assert numbers["partition"] == [40]
    assert numbers["sinkhorn"] == [60, 60]
    assert [len(np.unique(rows)) for rows in numbers["kept"]] == [60, 60]
    assert np.array_equal(*numbers["kept"])
    assert len(model.predict()) == 150


@pytest.mark.parametrize(
    "option", [{"convolution": "attention"}, {"kernel": "student_t"}, {"gene_likelihood": "poisson"}]
)
def test_variants_train(adata, option):
    model = make(adata, **option)
    model.train(max_epochs=3, **QUICK)
    assert np.isfinite(model.get_latent_representation()).all()


DISTRIBUTED = """
import sys
import scvi
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

if __name__ == "__main__":
    scvi.settings.seed = 0
    adata = synthetic(n_obs=150, n_vars=100, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata)
    n_clusters = int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1]
    model = SCSiameseClu(adata, n_clusters=n_clusters, n_latent=6, n_hidden=16)
    model.train(
        max_epochs=16, batch_size=50, accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true",
        enable_progress_bar=False,
    )
    weights = [value.double().sum().item() for value in model.module.state_dict().values()]
    print("result", model.n_clusters, weights, "".join(model.predict()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", ["3", "auto"])
def test_two_processes_end_with_one_model(run_script, n_clusters):
    done = run_script(DISTRIBUTED, n_clusters)
    assert done.returncode == 0, done.stdout
    results = [line for line in done.stdout.splitlines() if line.startswith("result")]
    assert len(results) == 2
    assert results[0] == results[1]
    assert int(results[0].split()[1]) == 3


def test_fewer_kinds_of_cells_than_clusters(adata, caplog, monkeypatch):
    """A message names clusters that k-means could not fill, and the training is not undone."""
    parts = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    monkeypatch.setattr("scsiameseclu.train._first_partition.partition_cells", lambda *_: parts)
    make(adata, n_clusters=5).train(max_epochs=4, **QUICK)
    assert "Expected 5 clusters, found only 3 groups of different cells" in caplog.text
    assert "lost their cells" not in caplog.text


SIGTERM = """
import os, signal
import lightning.pytorch as pl
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

class Terminate(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

adata = synthetic(n_obs=150, n_vars=50, n_types=3, seed=0)
SCSiameseClu.setup_anndata(adata)
model = SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16)
model.train(max_epochs=6, accelerator="cpu", enable_progress_bar=False, callbacks=[Terminate()])
print("went on")
"""


def test_a_scheduler_that_ends_the_process_ends_it(run_script):
    done = run_script(SIGTERM)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout
    assert "went on" not in done.stdout and "ended by SIGTERM in epoch" in done.stdout
