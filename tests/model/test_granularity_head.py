"""The clustering head is fitted to other clusters after training, and clusters keep their names."""

import numpy as np
import pytest
import torch

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.model._cluster_names import free_number, numbers_first
from scsiameseclu.model._granularity import refine
from scsiameseclu.nn import ClusterHead


def placed_head(centers):
    centers = torch.as_tensor(centers, dtype=torch.float32)
    head = ClusterHead(*centers.shape)
    head.initialise(centers, head.marginals, torch.zeros(centers.shape[1]))
    return head


def halves(n_cells=200, angle=0.6):
    """Cells around a circle, in two halves, and a head whose border is turned against the border of the halves."""
    turn = torch.linspace(0, 2 * np.pi, n_cells + 1)[:-1]
    z = torch.stack([turn.cos(), turn.sin()], dim=1)
    head = placed_head([[np.cos(angle), np.sin(angle)], [-np.cos(angle), -np.sin(angle)]])
    return head, z, (z[:, 0] < 0).long()


def test_a_head_that_assigns_as_wanted_stays():
    head, z, labels = halves(angle=0.0)
    before = head.centers.detach().clone()
    assert refine(head, z, labels, torch.ones(200)) >= 0.99
    assert torch.equal(head.centers, before) and torch.equal(head.origin, torch.zeros(2))


def test_a_head_is_fitted_to_clusters_it_does_not_assign():
    head, z, labels = halves()
    share = refine(head, z, labels, torch.ones(200))
    assert share > 0.97
    found = (head(z).argmax(dim=1) == labels).float().mean().item()
    assert found == pytest.approx(share, abs=0.005)
    assert head.centers.grad is None and head.centers.requires_grad and not head.origin.requires_grad


def test_cells_of_weight_zero_do_not_count():
    head, z, labels = halves()
    wrong = torch.arange(200) % 3 == 0
    given = torch.where(wrong, 1 - labels, labels)
    assert refine(head, z, given, (~wrong).float()) > 0.97
    assert (head(z).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_fitting_never_makes_it_worse(seed):
    """The clusters are random here, so that no head can assign them."""
    torch.manual_seed(seed)
    z, labels, weights = torch.randn(100, 3), torch.randint(0, 4, (100,)), torch.rand(100)
    head = placed_head(torch.randn(4, 3))

    def agreement():
        return (((head(z).argmax(dim=1) == labels) * weights).sum() / weights.sum()).item()

    before = agreement()
    refine(head, z, labels, weights)
    assert agreement() >= before - 0.002


def test_names_for_new_clusters():
    assert [free_number(names) for names in ([], ["1"], ["0", "2", "T"], ["1", "0"])] == ["0", "0", "1", "2"]
    # Numbers come first, in numerical order. Digits that are not ASCII are not numbers.
    assert sorted(["b", "10", "2", "²", "a", "0"], key=numbers_first) == ["0", "2", "10", "a", "b", "²"]


# -- clusters without cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["merge", "merge with an empty one", "split", "cut"])
def test_clusters_without_cells_end(model_with_empty_clusters, change):
    model, before = model_with_empty_clusters
    occupied = sorted(before.unique())
    if change == "merge":
        model.merge(["0", "1"])
        left_over = [name for name in occupied if name != "1"]
    elif change == "merge with an empty one":
        model.merge(["0", "4"])
        left_over = occupied
    elif change == "split":
        model.split("0")
        left_over = [*occupied, "5"]
    else:
        model.cut(2)
        left_over = ["0", "1"]
    hard, soft = model.predict(), model.predict(soft=True)
    assert list(hard.cat.categories) == list(soft.columns) == left_over
    assert model.n_clusters == len(left_over) == len(model.get_cluster_summary())
    if change != "cut":  # the cells of a cluster that was not changed
        assert ((hard.astype(str) == "2") == (before == "2")).mean() > 0.95


@pytest.fixture
def model_with_empty_clusters(monkeypatch, quick):
    """Model with five clusters on cells of three groups; the last cluster has no cell."""
    adata = synthetic(n_obs=150, n_vars=50, n_types=3, seed=0)
    parts = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    monkeypatch.setattr("scsiameseclu.train._first_partition.partition_cells", lambda *_: parts)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=5, n_latent=6, n_hidden=16)
    model.train(max_epochs=8, batch_size=64, **quick)
    before = model.predict().astype(str)
    assert {"0", "1", "2"} <= set(before) and "4" not in set(before) and model.n_clusters == 5
    return model, before
