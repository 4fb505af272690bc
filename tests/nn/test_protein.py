import pytest
import torch
from scvi.distributions import NegativeBinomial

from scsiameseclu.nn import ProteinBranch


@pytest.fixture
def branch():
    return ProteinBranch(4, 3, n_hidden=8)


@pytest.fixture
def values():
    return torch.poisson(torch.full((5, 4), 6.0))


def test_likelihood_of_counts_at_their_total(branch, values):
    z = torch.randn(5, 3)
    nll = branch.negative_log_likelihood(values, torch.zeros(5, 4), z)
    rate = branch.expected(z, values.sum(dim=1, keepdim=True))
    assert torch.allclose(rate.sum(dim=1), values.sum(dim=1), rtol=1e-4)
    expected = -NegativeBinomial(mu=rate, theta=branch.log_spread.exp()).log_prob(values).mean()
    assert torch.allclose(nll, expected, rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["nb", "normal"])
def test_unmeasured_proteins_carry_nothing(values, likelihood):
    branch = ProteinBranch(4, 3, n_hidden=8, likelihood=likelihood)
    z = torch.randn(5, 3, requires_grad=True)
    values[:, 1] = float("nan")
    scores = torch.randn(5, 4)
    branch.negative_log_likelihood(values, scores, z).backward()
    assert torch.isfinite(z.grad).all()
    assert branch.output.weight.grad[1].abs().max() == 0
    assert branch.output.weight.grad[0].abs().max() > 0
    nothing = torch.full((5, 4), float("nan"))
    assert branch.negative_log_likelihood(nothing, scores, z) == 0


def test_decoder_starts_at_the_mean_proportions(branch, values):
    values = values * torch.tensor([1.0, 2.0, 5.0, 10.0])
    with torch.no_grad():
        branch.output.weight.zero_()
    branch.fit(values, torch.zeros(4), torch.ones(4))
    share = branch.expected(torch.randn(2, 3), torch.ones(2, 1))[0]
    assert torch.allclose(share, values.mean(dim=0) / values.mean(dim=0).sum(), rtol=1e-4)


def test_standardised_as_the_input(branch, values):
    logs = torch.log1p(values)
    logs = logs - logs.mean(dim=1, keepdim=True)
    branch.fit(values, logs.mean(dim=0), logs.std(dim=0))
    z = torch.randn(5, 3)
    decoded = torch.log1p(branch.expected(z, branch.total))
    decoded = decoded - decoded.mean(dim=1, keepdim=True)
    expected = (decoded - logs.mean(dim=0)) / logs.std(dim=0)
    assert torch.allclose(branch.standardised(z), expected, atol=1e-5)


def test_starts_as_an_even_mixture(branch):
    z, scores = torch.randn(5, 3), torch.randn(5, 4)
    assert torch.allclose(branch.embed(scores, z), 0.5 * (z + branch.encoder(scores)), atol=1e-6)


def test_unknown_likelihood():
    with pytest.raises(ValueError, match="'nb' or 'normal'"):
        ProteinBranch(4, 3, likelihood="poisson")


def test_a_normalised_protein_that_is_known_for_certain_has_a_bounded_likelihood():
    branch = ProteinBranch(4, 3, n_hidden=8, likelihood="normal")
    with torch.no_grad():
        branch.output.weight.zero_()
        branch.output.bias.zero_()
    values = scores = torch.zeros(5, 4)
    found = []
    for log_spread in (0.0, -5.0, -50.0):
        branch.log_spread.data.fill_(log_spread)
        found.append(branch.negative_log_likelihood(values, scores, torch.randn(5, 3)).item())
    assert found[0] > found[1] > -3.0
    assert found[2] > -3.0
