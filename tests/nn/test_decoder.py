import pytest
import torch

from scsiameseclu.nn import AdaptiveFusion, CountDecoder


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
    assert (z >= torch.minimum(first, second) - 1e-6).all()
    assert (z <= torch.maximum(first, second) + 1e-6).all()


def test_decoding_can_start_at_mean_expression():
    decoder = CountDecoder(3, 4)
    decoder.scale_logits.weight.data.zero_()
    proportions = torch.tensor([0.7, 0.2, 0.0999, 0.0001])
    decoder.start_at(proportions)
    scale = decoder(torch.randn(5, 3), torch.ones(5, 1)).get_normalized("scale")
    assert torch.allclose(scale, proportions.expand(5, 4), atol=1e-5)
