"""Linear discriminants of a partition."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scsiameseclu.metrics import expected_calibration_error
from scsiameseclu.partition import fit_discriminant


def normal_groups(n_obs, distance, shares=(0.6, 0.3, 0.1), n_dims=6, seed=0):
    """Cells of normal groups with one elongated covariance, and their groups."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(len(shares), n_obs, p=shares)
    shape = rng.normal(size=(n_dims, n_dims)) / n_dims + np.eye(n_dims)
    centres = distance * rng.normal(size=(len(shares), n_dims))
    return (rng.normal(size=(n_obs, n_dims)) + centres[groups]) @ shape + 7.0, groups


def probabilities(points, parts, n_clusters, **options):
    found = fit_discriminant(points, parts, n_clusters, **options)
    return found.probabilities(torch.as_tensor(points)).numpy()


def test_discriminants_of_well_known_groups_are_those_of_scikit_learn():
    points, groups = normal_groups(3000, 0.7)
    ours = probabilities(points, groups, 3)
    theirs = LinearDiscriminantAnalysis().fit(points, groups).predict_proba(points)
    assert np.abs(ours - theirs).mean() < 0.01
    assert ours.dtype == np.float32


def test_without_masses_all_parts_are_equally_likely():
    """Without transport, the probabilities are the densities of the parts."""
    points, groups = normal_groups(3000, 0.7)
    ours = probabilities(points, groups, 3, marginal_relaxation=0.0)
    theirs = LinearDiscriminantAnalysis(priors=[1 / 3] * 3).fit(points, groups).predict_proba(points)
    assert np.abs(ours - theirs).mean() < 0.01


def test_coefficients_follow_the_formula_with_a_ridge_of_a_thousandth_of_the_mean_variance():
    """Along an axis without variation within the parts, only the ridge bounds the coefficients."""
    points, groups = normal_groups(300, 0.7)
    points[:, 0] = 2.0 * groups
    found = fit_discriminant(points, groups, 3, marginal_relaxation=0.0)
    x = points - points.mean(axis=0)
    means = np.stack([x[groups == part].mean(axis=0) for part in range(3)])
    covariance = ledoit_wolf(x - means[groups], assume_centered=True)[0] + 1e-3 * x.var(axis=0).mean() * np.eye(6)
    coefficients = means @ np.linalg.inv(covariance)
    np.testing.assert_allclose(found.coefficients, coefficients, rtol=1e-4, atol=1e-4)
    intercepts = -0.5 * np.einsum("kd,kd->k", coefficients, means)
    np.testing.assert_allclose(found.intercepts, intercepts, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.origin, points.mean(axis=0), rtol=1e-5)


def test_probabilities_are_the_shares_of_right_cells():
    points, groups = normal_groups(4000, 0.5)
    found = probabilities(points, groups, 3)
    hits = found.argmax(axis=1) == groups
    assert 0.6 < hits.mean() < 0.95
    assert expected_calibration_error(found.max(axis=1), hits) < 0.03


def test_masses_are_the_shares_of_the_parts():
    points, groups = normal_groups(2000, 0.5)
    found = fit_discriminant(points, groups, 4)
    values = found.probabilities(torch.as_tensor(points))
    wanted = torch.bincount(torch.as_tensor(groups), minlength=4) / 2000
    assert torch.allclose(values.mean(dim=0), wanted, atol=1e-4)
    assert torch.equal(values[:, 3], torch.zeros(2000))  # no cell belongs to this part
    assert found.marginal_error < 1e-4
    free = fit_discriminant(points, groups, 4, marginal_relaxation=0.1)
    assert free.marginal_error > found.marginal_error


def test_exact_transport_holds_the_shares_of_the_cells_by_likeliest_part():
    points, groups = normal_groups(2000, 0.5)
    found = fit_discriminant(points, groups, 4, transport="exact")
    values = found.probabilities(torch.as_tensor(points))
    sizes = torch.bincount(values.argmax(dim=1), minlength=4)
    assert (sizes - torch.bincount(torch.as_tensor(groups), minlength=4)).abs().max() <= 3  # cells on a border
    assert found.marginal_error < 1e-6
    assert 0.5 < float(values.amax(dim=1).mean()) < 0.99  # probabilities, not certainties


def test_cells_on_the_wrong_side_move():
    points, groups = normal_groups(2000, 1.5)
    wrong = np.random.default_rng(1).random(2000) < 0.1
    parts = np.where(wrong, (groups + 1) % 3, groups)
    moved = probabilities(points, parts, 3).argmax(axis=1)
    assert (parts != groups).mean() > 0.05
    assert (moved != groups).mean() < 0.5 * (parts != groups).mean()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_neither_the_scale_nor_the_place_matters(scale):
    points, groups = normal_groups(500, 0.6)
    ours = probabilities(points, groups, 3)
    assert np.allclose(probabilities(scale * (points + 3.0), groups, 3), ours, atol=1e-3)


@pytest.mark.parametrize(
    ("points", "parts", "n_clusters"),
    [
        (np.zeros((5, 3)), np.zeros(5, dtype=int), 1),  # all cells are the same
        (np.eye(4), np.arange(4), 4),  # a part for each cell
        (np.random.default_rng(0).normal(size=(6, 40)), np.array([0, 0, 0, 1, 1, 2]), 3),  # more dimensions than cells
        (np.ones((1, 2)), np.zeros(1, dtype=int), 2),
    ],
)
def test_small_cases_stay_finite(points, parts, n_clusters):
    found = probabilities(points, parts, n_clusters)
    assert np.isfinite(found).all()
    assert np.allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert (found.argmax(axis=1) == parts).all()


def test_state_makes_an_equal_one():
    points, groups = normal_groups(100, 1.0)
    found = fit_discriminant(points, groups, 3)
    again = type(found)(**found.to_state())
    assert torch.equal(again.probabilities(torch.as_tensor(points)), found.probabilities(torch.as_tensor(points)))
