"""Mixtures agree with the densities of scipy."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from scsiameseclu.partition._mixture import fit_mixture


def make(widths, n_each=60, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(widths)), n_each)
    shape = np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.5]])
    points = rng.normal(size=(len(groups), 3)) @ shape * np.array(widths)[groups][:, None]
    return points + 3 * rng.normal(size=(len(widths), 3))[groups], groups


def fitted(points, member, widths):
    """Mean log-likelihood and new memberships after one fit to memberships, by definition."""
    n_groups, n_dims = member.shape[1], points.shape[1]
    sizes = member.sum(axis=0)
    shares = sizes / len(points)
    means = [np.average(points, axis=0, weights=weight) for weight in member.T]
    scatter = [np.cov(points.T, ddof=0, aweights=weight) for weight in member.T]
    ridge = 1e-3 * points.var(axis=0).mean() * np.eye(n_dims)
    scales = np.ones(n_groups)
    shape = sum(shares[k] * scatter[k] for k in range(n_groups)) + ridge
    if widths == "own":
        for _ in range(3):
            own = np.array([np.trace(each @ np.linalg.inv(shape)) / n_dims for each in scatter])
            scales = np.maximum((sizes * own + 5) / (sizes + 5), 0.01)
            shape = sum(shares[k] / scales[k] * scatter[k] for k in range(n_groups)) + ridge
    densities = [multivariate_normal(means[k], scales[k] * shape).logpdf(points) for k in range(n_groups)]
    joint = np.log(shares) + np.stack(densities, axis=1)
    total = logsumexp(joint, axis=1, keepdims=True)
    return total.mean(), np.exp(joint - total)


@pytest.mark.parametrize("widths", ["equal", "own"])
@pytest.mark.parametrize(
    "spread", [[1.0, 1.0, 1.0], [1.0, 5.0, 0.2], [1.0, 0.001, 1.0]], ids=["even", "uneven", "tiny"]
)
def test_every_fit_is_the_mixture_by_definition(widths, spread):
    """The first fit uses the groups, and each further fit uses the memberships of the fit before."""
    points, groups = make(spread)
    groups = groups.copy()
    groups[::7] = (groups[::7] + 1) % 3
    member = np.eye(3)[groups]
    for n_iter in (1, 2, 3):
        expected, member = fitted(points, member, widths)
        likelihood, labels = fit_mixture(points, groups, widths, n_iter)
        assert likelihood == pytest.approx(expected, rel=1e-3 if n_iter > 1 else 1e-6)
        assert (labels == member.argmax(axis=1)).mean() > 0.98
        assert labels.dtype == np.int64
    assert (labels != groups).any()


@pytest.mark.parametrize("n_each", [20, 800])
def test_the_width_of_a_group_without_spread_has_a_bound(n_each):
    """The width of a group is shrunk as if five cells of the overall width were added, and has a lower bound of 1 %."""
    points, groups = make([1.0, 0.0, 1.0], n_each)
    likelihood, _ = fit_mixture(points, groups, "own", n_iter=1)
    assert likelihood == pytest.approx(fitted(points, np.eye(3)[groups], "own")[0], rel=1e-6)


@pytest.mark.parametrize("widths", ["equal", "own"])
def test_fitting_ends_where_little_changes_and_gets_better_until_then(widths):
    points, groups = make([1.0, 2.0, 0.7])
    rng = np.random.default_rng(1)
    start = np.where(rng.random(len(groups)) < 0.5, groups, rng.permutation(groups))
    found = [fit_mixture(points, start, widths, n_iter)[0] for n_iter in range(1, 9)]
    assert (np.diff(found) > -1e-3).all() and found[-1] > found[0]
    long, longer = (fit_mixture(points, start, widths, n_iter)[0] for n_iter in (400, 800))
    assert long == longer > found[3]


def test_points_without_any_spread():
    likelihood, labels = fit_mixture(np.zeros((10, 2)), np.arange(10) % 2, "own")
    assert np.isfinite(likelihood) and len(labels) == 10
