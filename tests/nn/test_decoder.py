import pytest
import torch

from scsiameseclu.nn import AdaptiveFusion, CountDecoder, build_fusion


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_rates_are_library_times_proportions(likelihood):
    decoder = CountDecoder(3, 7, n_hidden=8, gene_likelihood=likelihood)
    library = torch.tensor([[10.0], [500.0]])
    px = decoder(torch.randn(2, 3), library)
    scale = px.get_normalized("scale")
    assert torch.allclose(scale.sum(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(px.get_normalized("mu"), scale * library)
    assert torch.isfinite(px.log_prob(torch.ones(2, 7))).all()


def test_only_zinb_inflates_zeros():
    torch.manual_seed(0)
    zinb = CountDecoder(3, 7, gene_likelihood="zinb")
    nb = CountDecoder(3, 7, gene_likelihood="nb")
    nb.load_state_dict(zinb.state_dict(), strict=False)
    z, library, zeros = torch.randn(2, 3), torch.full((2, 1), 100.0), torch.zeros(2, 7)
    assert (zinb(z, library).log_prob(zeros) > nb(z, library).log_prob(zeros)).all()


def test_dispersion_may_depend_on_the_batch():
    decoder = CountDecoder(3, 4, n_cat_list=[2], dispersion="gene-batch", gene_likelihood="nb")
    with torch.no_grad():
        decoder.log_dispersion[:, 1] = 2.0
    batch = torch.tensor([[0], [1]])
    theta = decoder(torch.randn(2, 3), torch.ones(2, 1), [batch]).theta
    assert torch.allclose(theta[0], torch.ones(4))
    assert torch.allclose(theta[1], torch.full((4,), 2.0).exp())


@pytest.mark.parametrize("option", ["gene_likelihood", "dispersion"])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match=option):
        CountDecoder(3, 4, **{option: "normal"})


def test_fusion_starts_even_and_stays_between_its_inputs():
    fusion = AdaptiveFusion(4)
    first, second = torch.randn(5, 4), torch.randn(5, 4)
    z, gate = fusion(first, second)
    assert torch.allclose(gate, torch.full((5, 4), 0.5))
    assert torch.allclose(z, (first + second) / 2)
    torch.nn.init.normal_(fusion.gate.weight, std=0.3)
    z, gate = fusion(first, second)
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(z, gate * first + (1 - gate) * second)
    assert (z >= torch.minimum(first, second) - 1e-6).all()
    assert (z <= torch.maximum(first, second) + 1e-6).all()


@pytest.mark.parametrize(("name", "share"), [("mean", 0.5), ("expression", 1.0), ("graph", 0.0)])
def test_fixed_fusion_mixes_all_cells_alike(name, share):
    first, second = torch.randn(5, 4), torch.randn(5, 4)
    fusion = build_fusion(name, 4)
    z, gate = fusion(first, second)
    assert not list(fusion.parameters())
    assert torch.equal(gate, torch.full((5, 4), share))
    assert torch.allclose(z, share * first + (1 - share) * second)


def test_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="Expected a fusion among"):
        build_fusion("attention", 4)


def test_decoding_starts_at_mean_expression():
    decoder = CountDecoder(3, 4, n_embedding_genes=2)
    decoder.scale_logits.weight.data.zero_()
    decoder.other_logits.weight.data.zero_()
    proportions = torch.tensor([0.7, 0.2, 0.0999, 0.0001])
    decoder.assign(torch.tensor([1, 3]), torch.tensor([2, 0]), proportions)
    scale = decoder(torch.randn(5, 3), torch.ones(5, 1)).get_normalized("scale")
    assert torch.allclose(scale, proportions.expand(5, 4), atol=1e-5)
    among = decoder.embedding_scale(torch.randn(5, 3))
    assert torch.allclose(among, torch.tensor([0.2, 0.0001]).expand(5, 2) / 0.2001, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_likelihood_is_that_of_the_distribution(likelihood):
    torch.manual_seed(0)
    decoder = CountDecoder(3, 6, gene_likelihood=likelihood)
    decoder.log_dispersion.data.normal_()
    z, library, x = torch.randn(4, 3), torch.full((4, 1), 30.0), torch.poisson(torch.full((4, 6), 2.0))
    nll, other_nll = decoder.negative_log_likelihood(x, None, z, library)
    assert other_nll is None
    assert torch.allclose(nll, -decoder(z, library).log_prob(x), atol=1e-4)


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_other_genes_are_decoded_but_do_not_shape_the_embedding(likelihood):
    torch.manual_seed(0)
    decoder = CountDecoder(3, 6, n_embedding_genes=4, gene_likelihood=likelihood)
    decoder.assign(torch.tensor([0, 2, 3, 5]), torch.tensor([1, 4]), torch.full((6,), 1 / 6))
    z = torch.randn(8, 3, requires_grad=True)
    x = torch.poisson(torch.full((8, 6), 2.0))
    library = x.sum(dim=1, keepdim=True)
    nll, other_nll = decoder.negative_log_likelihood(x[:, [0, 2, 3, 5]], x[:, [1, 4]], z, library)
    assert nll.shape == (8, 4)
    assert other_nll.shape == (8, 2)
    other_nll.sum().backward(retain_graph=True)
    assert z.grad is None
    assert decoder.other_logits.weight.grad.abs().sum() > 0
    assert decoder.scale_logits.weight.grad is None
    nll.sum().backward()
    assert z.grad.abs().sum() > 0


def test_embedding_genes_are_conditioned_on_their_total():
    """Whatever the library size, the expected counts of the embedding genes add up to their observed total."""
    decoder = CountDecoder(3, 6, n_embedding_genes=4, gene_likelihood="poisson")
    x, z = torch.tensor([[3.0, 0.0, 1.0, 6.0]]), torch.randn(1, 3)
    rates = decoder.embedding_scale(z) * 10.0
    expected = rates - x * rates.log() + torch.lgamma(x + 1)
    for library in (10.0, 500.0):
        nll, _ = decoder.negative_log_likelihood(x, torch.zeros(1, 2), z, torch.full((1, 1), library))
        assert torch.allclose(nll, expected, atol=1e-4)


def test_cells_without_counts_have_a_finite_gradient():
    for likelihood in ("zinb", "nb", "poisson"):
        decoder = CountDecoder(3, 6, n_embedding_genes=4, gene_likelihood=likelihood)
        z = torch.randn(2, 3, requires_grad=True)
        nll, other_nll = decoder.negative_log_likelihood(torch.zeros(2, 4), torch.zeros(2, 2), z, torch.zeros(2, 1))
        (nll.sum() + other_nll.sum()).backward()
        assert torch.isfinite(z.grad).all()


def test_genes_keep_their_columns():
    decoder = CountDecoder(3, 5, n_embedding_genes=2, dispersion="gene")
    decoder.assign(torch.tensor([1, 4]), torch.tensor([0, 2, 3]), torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]))
    decoder.log_dispersion.data[:, 0] = torch.tensor([1.0, 4.0, 0.0, 2.0, 3.0])  # embedding genes first
    px = decoder(torch.zeros(1, 3), torch.ones(1, 1))
    assert torch.allclose(px.theta.log().squeeze(), torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
