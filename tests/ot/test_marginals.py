import math

import pytest
import torch

from scsiameseclu.ot import ema_marginals, estimate_marginals, sinkhorn


def test_sizes_are_smoothed_as_documented():
    labels = torch.tensor([0, 0, 0, 1, 1, 0])
    torch.testing.assert_close(
        estimate_marginals(labels, 3, smoothing=2.0), torch.tensor([6.0, 4.0, 2.0], dtype=torch.float64) / 12
    )
    torch.testing.assert_close(
        estimate_marginals(labels, 3, smoothing=0.0), torch.tensor([4.0, 2.0, 0.0], dtype=torch.float64) / 6
    )


def test_default_smoothing_keeps_an_empty_cluster_alive():
    masses = estimate_marginals(torch.zeros(99, dtype=torch.int64), 2)
    assert masses[1] > 0
    result = sinkhorn(torch.randn(99, 2, generator=torch.Generator().manual_seed(0)), masses, n_iter=1000)
    assert result.converged
    torch.testing.assert_close(result.column_masses, masses, atol=1e-6, rtol=0)


def test_moving_average():
    prior, mean = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    torch.testing.assert_close(ema_marginals(prior, mean, 0.75), torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(ema_marginals(prior, mean, 1.0), prior)
    torch.testing.assert_close(ema_marginals(prior, mean, 0.0), mean)


def test_moving_average_keeps_total_dtype_and_has_no_gradient():
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    mean = torch.randn(50, 3, requires_grad=True).softmax(1).mean(0)
    for _ in range(200):
        prior = ema_marginals(prior, mean)
    assert prior.dtype == torch.float64
    assert not prior.requires_grad
    assert prior.sum().item() == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(prior, mean.detach().double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("labels", "n_clusters", "smoothing", "message"),
    [
        (torch.tensor([0.0, 1.0]), 2, 1.0, "torch.float32"),
        (torch.tensor([], dtype=torch.int64), 2, 1.0, r"found shape \(0,\)"),
        (torch.tensor([0, 2]), 2, 1.0, r"labels in \[0, 2\), found 0 to 2"),
        (torch.tensor([-1, 1]), 2, 1.0, "found -1 to 1"),
        (torch.tensor([0, 1]), 2, -1.0, "smoothing >= 0, found -1.0"),
        (torch.tensor([0, 1]), 2, math.nan, "smoothing >= 0, found nan"),
    ],
)
def test_bad_partitions_are_refused(labels, n_clusters, smoothing, message):
    with pytest.raises(ValueError, match=message):
        estimate_marginals(labels, n_clusters, smoothing)


def test_bad_averages_are_refused():
    with pytest.raises(ValueError, match=r"found \(2,\) and \(3,\)"):
        ema_marginals(torch.ones(2) / 2, torch.ones(3) / 3)
    with pytest.raises(ValueError, match="momentum in"):
        ema_marginals(torch.ones(2) / 2, torch.ones(2) / 2, 1.5)
