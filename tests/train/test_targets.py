"""Targets of the clustering phase, computed by hand at the start of every epoch."""

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.module import SiameseModule
from scsiameseclu.ot import sinkhorn, target_from_duals
from scsiameseclu.partition import fit_discriminant
from scsiameseclu.train import SiameseTrainingPlan, _first_partition
from scsiameseclu.train._cells import sampled

QUICK = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 64}
SHARPENING, MOMENTUM, N_CLUSTERS = 2.2, 0.6, 3


class Look(pl.Callback):
    """Record the targets and their source before the first step of each epoch of the clustering phase."""

    def __init__(self):
        self.seen = []

    @torch.no_grad()
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        head = pl_module.module.head
        if batch_idx or head is None or not head.is_initialised:
            return
        rows = {"train": np.sort(trainer.datamodule.train_idx), "validation": np.sort(trainer.datamodule.val_idx)}
        z = {name: pl_module._embed(each) for name, each in rows.items()}
        rep = {name: torch.as_tensor(pl_module._representation(each)) for name, each in rows.items()}
        kept = {}
        for name, each in rows.items():
            cells = {SIAMESE_KEYS.CELL_INDEX: torch.as_tensor(each)[:, None], SIAMESE_KEYS.GRAPH_REP: rep[name]}
            kept[name] = pl_module._with_targets(cells)[SIAMESE_KEYS.CLUSTER_TARGET]
        self.seen.append(
            {
                "z": z,
                "rep": rep,
                "logits": {name: head(each) for name, each in z.items()},
                "kept": kept,
                "duals": head.log_duals.clone(),
                "marginals": head.marginals.clone(),
                "centers": head.centers.clone(),
                "origin": head.origin.clone(),
            }
        )


@pytest.fixture(scope="module")
def trained():
    """A training with one epoch before clustering and four with it; two of the four have the first partition as
    target."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=150, n_vars=50, n_types=3, proportions=[4, 2, 1], seed=0)
    SCSiameseClu.setup_anndata(adata)
    options = {"sharpening": SHARPENING, "temperature": 0.3}
    model = SCSiameseClu(adata, n_clusters=N_CLUSTERS, n_latent=6, n_hidden=16, **options)
    look, parts = Look(), []
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": 2, "marginal_momentum": MOMENTUM}
    with pytest.MonkeyPatch.context() as patch:
        partition = _first_partition.partition_cells
        patch.setattr(_first_partition, "partition_cells", lambda *args: parts.append(partition(*args)) or parts[-1])
        model.train(max_epochs=5, train_size=0.8, plan_kwargs=plan, callbacks=[look], **QUICK)
    assert len(look.seen) == 4 and len(parts) == 1
    return model, look.seen, parts[0]


def test_centres_are_the_means_of_the_first_partition(trained):
    _, (first, *_), parts = trained
    z = first["z"]["train"]
    for cluster in range(N_CLUSTERS):
        torch.testing.assert_close(first["centers"][cluster], z[parts == cluster].mean(dim=0))
    torch.testing.assert_close(first["origin"], z.mean(dim=0))
    sizes = torch.bincount(torch.as_tensor(parts), minlength=N_CLUSTERS)
    torch.testing.assert_close(first["marginals"], (sizes + 1.0) / (sizes.sum() + N_CLUSTERS))


def test_discriminants_of_the_first_partition_are_the_target_while_warming_up(trained):
    model, seen, parts = trained
    discriminant = fit_discriminant(seen[0]["rep"]["train"].numpy(), parts, N_CLUSTERS)
    for epoch in seen[:2]:
        for name in ("train", "validation"):
            torch.testing.assert_close(epoch["kept"][name], discriminant.probabilities(epoch["rep"][name]))
    error = model.history["sinkhorn_marginal_error"].to_numpy(float).ravel()[0]
    assert error == pytest.approx(discriminant.marginal_error, abs=1e-6)


def test_the_assignments_are_as_certain_as_the_discriminants_in_the_end(trained):
    model, seen, parts = trained
    discriminant = fit_discriminant(seen[0]["rep"]["train"].numpy(), parts, N_CLUSTERS)
    wanted = discriminant.probabilities(seen[0]["rep"]["train"]).amax(dim=1).mean().item()
    found = model.predict(indices=np.sort(model.train_indices), soft=True).max(axis=1).mean()
    assert found == pytest.approx(wanted, abs=1e-3)


def test_targets_are_the_transport_of_sharpened_logits_after_that(trained):
    """The logits at the start of the epoch, times the sharpening, are transported to the masses of the epoch."""
    model, seen, _ = trained
    errors = model.history["sinkhorn_marginal_error"].to_numpy(float).ravel()[1:]
    assert len(errors) == 2  # no error is logged during the warm-up
    for epoch, error in zip(seen[2:], errors, strict=True):
        solved = sinkhorn(SHARPENING * epoch["logits"]["train"], epoch["marginals"])
        torch.testing.assert_close(epoch["duals"], solved.column_duals.float(), rtol=1e-3, atol=1e-3)
        assert error == pytest.approx(solved.marginal_error, abs=1e-5)
        for name in ("train", "validation"):
            expected = target_from_duals(SHARPENING * epoch["logits"][name], epoch["duals"])
            torch.testing.assert_close(epoch["kept"][name], expected)


def test_masses_follow_the_sharpened_assignments_by_the_momentum(trained):
    """The masses do not change during the warm-up."""
    seen = trained[1]
    assert torch.equal(seen[0]["marginals"], seen[1]["marginals"])
    for before, epoch in zip(seen[1:], seen[2:], strict=False):
        found = (SHARPENING * epoch["logits"]["train"]).softmax(dim=1).mean(dim=0)
        expected = MOMENTUM * before["marginals"] + (1 - MOMENTUM) * found
        assert (expected > 0.5 * seen[0]["marginals"]).all()  # above the floor
        torch.testing.assert_close(epoch["marginals"], expected, rtol=1e-5, atol=1e-6)


def test_clusters_are_numbered_by_size_in_the_end(trained):
    model = trained[0]
    sizes = model.predict(indices=model.train_indices).value_counts(sort=False)
    assert (sizes.diff().dropna() <= 0).all() and len(sizes) == N_CLUSTERS


def test_cells_without_a_target_have_a_row_of_zero(trained):
    """With more cells than ``max_target_cells``, some cells have no target."""

    class Rows(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.module.clustering_active:
                rows = {"train": trainer.datamodule.train_idx, "validation": trainer.datamodule.val_idx}
                index = torch.arange(150)[:, None]
                kept = pl_module._with_targets({SIAMESE_KEYS.CELL_INDEX: index})[SIAMESE_KEYS.CLUSTER_TARGET]
                self.found = (kept.sum(dim=1) > 0).nonzero().flatten().tolist()
                self.rows = {name: sampled(each, 20).tolist() for name, each in rows.items()}

    look = Rows()
    model = SCSiameseClu(trained[0].adata, n_clusters=N_CLUSTERS, n_latent=6, n_hidden=16)
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": 0, "max_target_cells": 20}
    model.train(max_epochs=2, train_size=0.8, plan_kwargs=plan, callbacks=[look], **QUICK)
    assert look.found == sorted(look.rows["train"] + look.rows["validation"])


@pytest.mark.parametrize("n_rows", [20, 21, 50])
def test_samples_of_rows(n_rows):
    rows = np.random.default_rng(0).permutation(100)[:n_rows]
    found = sampled(rows, 20)
    assert len(found) == 20 and (np.diff(found) > 0).all() and set(found) <= set(rows.tolist())
    assert np.array_equal(found, sampled(rows, 20))
    if n_rows == 50:  # not the first rows
        assert not np.array_equal(found, np.sort(rows)[:20])
    assert sampled([], 20).tolist() == [] and sampled([], 20).dtype == np.int64


@pytest.mark.parametrize("new_cells", [False, True])
def test_further_training_describes_the_clusters_there_are(new_cells):
    """Discriminants of the existing clusters are the targets, and new cells have their own masses."""
    scvi.settings.seed = 1
    adata = synthetic(n_obs=120, n_vars=50, n_types=3, proportions=[4, 2, 1], seed=0)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=N_CLUSTERS, n_latent=6, n_hidden=16)
    model.train(max_epochs=12, **QUICK)
    before, masses = model.predict().astype(str), model.module.head.marginals.clone()
    look = Look()
    model.train(max_epochs=2, train_size=0.9, plan_kwargs={"new_cells": new_cells}, callbacks=[look], **QUICK)
    first = look.seen[0]
    labels = first["logits"]["train"].argmax(dim=1).numpy()
    assert len(np.unique(labels)) == N_CLUSTERS
    discriminant = fit_discriminant(first["rep"]["train"].numpy(), labels, N_CLUSTERS)
    for name in ("train", "validation"):
        torch.testing.assert_close(first["kept"][name], discriminant.probabilities(first["rep"][name]))
    found = first["logits"]["train"].softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(first["marginals"], found if new_cells else masses)
    assert not torch.allclose(found, masses, atol=1e-3)
    assert (model.predict().astype(str) == before).mean() > 0.9


@pytest.mark.parametrize("partner_views", [True, False])
def test_training_has_partners_with_targets_and_validation_has_none(monkeypatch, trained, partner_views):
    seen, forward = {True: [], False: []}, SiameseModule.forward

    def spy(module, tensors, *args, **kwargs):
        if kwargs.get("loss_kwargs") is not None and module.clustering_active:
            seen[module.training].append(tensors)
        return forward(module, tensors, *args, **kwargs)

    monkeypatch.setattr(SiameseModule, "forward", spy)
    adata = trained[0].adata
    model = SCSiameseClu(adata, n_clusters=N_CLUSTERS, n_latent=6, n_hidden=16)
    plan = {"n_pretrain_epochs": 1, "partner_views": partner_views}
    model.train(max_epochs=2, train_size=0.8, check_val_every_n_epoch=1, plan_kwargs=plan, **QUICK)
    assert seen[True] and seen[False]
    assert not any(SIAMESE_KEYS.PARTNER in batch for batch in seen[False])
    for batch in seen[True]:
        assert (SIAMESE_KEYS.PARTNER in batch) == partner_views
        if partner_views:
            partner = batch[SIAMESE_KEYS.PARTNER]
            rows = partner[SIAMESE_KEYS.CELL_INDEX].flatten().tolist()
            assert set(rows) <= set(np.asarray(model.train_indices).tolist())
            assert len(partner[SIAMESE_KEYS.CLUSTER_TARGET]) == len(batch[SIAMESE_KEYS.CELL_INDEX])
            assert rows != batch[SIAMESE_KEYS.CELL_INDEX].flatten().tolist()


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (None, [1, 2, 0, 3]),  # by size; clusters of equal size keep their order
        ([0] * 2 + [1] * 4 + [2] * 3, [0, 1, 2, 3]),
        ([2] * 2 + [0] * 4 + [3] * 3, [1, 3, 0, 2]),  # a cluster without cells takes the free number
        ([1] * 2 + [1] * 4 + [0] * 3, [2, 1, 0, 3]),
    ],
)
def test_clusters_keep_the_numbers_of_those_they_overlap(before, expected):
    """Of four clusters, cluster 0 has two cells now, cluster 1 four, cluster 2 three, and cluster 3 none."""
    module = SiameseModule(12, 3, 4, n_latent=4, n_hidden=8)
    module.head.initialise(torch.eye(4), torch.full((4,), 0.25), torch.zeros(4))
    plan = SiameseTrainingPlan(module)
    plan._embed_training_cells = lambda: torch.eye(4)[[0] * 2 + [1] * 4 + [2] * 3]
    plan._clusters_before = None if before is None else torch.tensor(before)
    assert plan._order_of_clusters(module.head).tolist() == expected


def test_exact_transport_makes_the_targets_if_asked_for():
    """With exact transport the cells by likeliest target have the masses, in both kinds of targets."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=150, n_vars=50, n_types=3, proportions=[4, 2, 1], seed=0)
    SCSiameseClu.setup_anndata(adata)
    model, look = SCSiameseClu(adata, n_clusters=N_CLUSTERS, n_latent=6, n_hidden=16), Look()
    plan = {"n_pretrain_epochs": 1, "n_warmup_epochs": 1, "transport": "exact", "marginal_momentum": 1.0}
    model.train(max_epochs=3, train_size=0.8, plan_kwargs=plan, callbacks=[look], **QUICK)
    for seen in look.seen:
        targets = seen["kept"]["train"]
        shares = torch.bincount(targets.argmax(dim=1), minlength=N_CLUSTERS) / len(targets)
        # The marginals are smoothed by one cell a cluster; a cell on a border may go either way.
        torch.testing.assert_close(shares, seen["marginals"], atol=4 / len(targets), rtol=0)
        assert float(targets.amax(dim=1).mean()) < 0.999
    assert float(model.history["sinkhorn_marginal_error"].max().iloc[0]) < 1e-6


def test_transport_is_checked_before_training():
    module = SiameseModule(10, 5, 2)
    with pytest.raises(ValueError, match="'entropic' or 'exact', found 'emd'"):
        SiameseTrainingPlan(module, transport="emd")
    with pytest.raises(ValueError, match="marginal_relaxation=inf with transport='exact', found 1"):
        SiameseTrainingPlan(module, transport="exact", marginal_relaxation=1.0)
