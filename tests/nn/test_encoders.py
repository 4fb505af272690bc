import numpy as np
import pytest
import torch

from scsiameseclu.nn import ExpressionEncoder, ExpressionScaler, GraphEncoder, RepresentationScaler


def fitted_scaler(counts, library):
    expression = torch.log1p(1e4 * counts / library)
    scaler = ExpressionScaler(counts.shape[1])
    scaler.fit(expression.mean(dim=0), expression.std(dim=0, unbiased=False), 1e4)
    return scaler


def test_scaled_expression_has_mean_zero_and_unit_overall_variance():
    counts = torch.poisson(torch.rand(300, 40) * 5 + 0.5)
    library = counts.sum(dim=1, keepdim=True)
    x = fitted_scaler(counts, library)(counts, library)
    assert torch.allclose(x.mean(dim=0), torch.zeros(40), atol=1e-4)
    assert x.var(unbiased=False) == pytest.approx(1.0, abs=1e-3)


def test_scaler_is_between_z_scores_and_no_scaling():
    scaler = ExpressionScaler(2)
    scaler.fit(torch.zeros(2), torch.tensor([1.0, 4.0]), 1e4)
    assert scaler.weight[0] / scaler.weight[1] == pytest.approx(2.0)


def test_constant_genes_and_empty_cells_give_finite_zeros():
    scaler = ExpressionScaler(2)
    scaler.fit(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1.0]), 1e4)
    x = scaler(torch.zeros(1, 2), torch.zeros(1, 1))
    assert x.tolist() == [[0.0, -1.0]]


def test_scaler_clips():
    scaler = ExpressionScaler(1, clip=2.0)
    scaler.fit(torch.zeros(1), torch.full((1,), 1e-3), 1e4)
    assert scaler(torch.ones(1, 1), torch.ones(1, 1)).item() == 2.0


def test_offsets_are_taken_out_of_cells_of_their_batch():
    scaler = ExpressionScaler(2, n_batch=3)
    scaler.offset.copy_(torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, -1.0]]))
    counts, library = torch.ones(3, 2), torch.full((3, 1), 100.0)
    x = scaler(counts, library, torch.tensor([[0], [1], [2]]))
    assert torch.allclose(x - scaler(counts, library), -scaler.offset.T, atol=1e-6)


def test_states_from_before_there_were_offsets_load_without_any():
    scaler = ExpressionScaler(2, n_batch=3)
    state = scaler.state_dict()
    del state["offset"]
    scaler.offset.fill_(1.0)
    scaler.load_state_dict(state)
    assert not scaler.offset.any()


def test_representation_scaler_keeps_proportions_of_axes():
    rep = torch.randn(1000, 2) * torch.tensor([10.0, 1.0]) + 5
    scaler = RepresentationScaler(2)
    scaler.fit(rep)
    scaled = scaler(rep)
    assert scaled.var(dim=0, unbiased=False).mean() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(2), atol=1e-4)
    assert scaled[:, 0].std() / scaled[:, 1].std() == pytest.approx(
        (rep[:, 0].std() / rep[:, 1].std()).item(), rel=1e-4
    )


def test_expression_encoder_reads_its_covariates():
    encoder = ExpressionEncoder(6, 3, n_hidden=8, n_cat_list=[2, 3], n_cont=1)
    x = torch.randn(4, 6)
    codes, more = torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 1, dtype=torch.long)
    base = encoder(x, [codes, more], torch.zeros(4, 1))
    assert base.shape == (4, 3)
    for changed in (
        encoder(x, [codes + 1, more], torch.zeros(4, 1)),
        encoder(x, [codes, more + 2], torch.zeros(4, 1)),
        encoder(x, [codes, more], torch.ones(4, 1)),
    ):
        assert not torch.allclose(base, changed)


@pytest.fixture(params=["mean", "attention"])
def graph_encoder(request):
    torch.manual_seed(0)
    return GraphEncoder(5, 3, n_hidden=8, convolution=request.param).eval()


def test_graph_encoder_does_not_care_about_order_of_neighbours(graph_encoder):
    rep, neighbors, weights = torch.randn(4, 5), torch.randn(4, 6, 5), torch.rand(4, 6)
    order = torch.randperm(6)
    permuted = graph_encoder(rep, neighbors[:, order], weights[:, order])
    assert torch.allclose(graph_encoder(rep, neighbors, weights), permuted, atol=1e-6)


def test_edges_of_weight_zero_carry_nothing(graph_encoder):
    rep, neighbors, weights = torch.randn(4, 5), torch.randn(4, 6, 5), torch.rand(4, 6) + 0.1
    weights[:, 4:] = 0.0
    other = neighbors.clone()
    other[:, 4:] = 100.0
    assert torch.allclose(graph_encoder(rep, neighbors, weights), graph_encoder(rep, other, weights))
    assert torch.allclose(graph_encoder(rep, neighbors, weights), graph_encoder(rep, neighbors[:, :4], weights[:, :4]))


def test_each_cell_sees_only_its_own_block(graph_encoder):
    rep, neighbors, weights = torch.randn(4, 5), torch.randn(4, 6, 5), torch.rand(4, 6) + 0.1
    alone = torch.cat([graph_encoder(rep[[i]], neighbors[[i]], weights[[i]]) for i in range(4)])
    assert torch.allclose(graph_encoder(rep, neighbors, weights), alone, atol=1e-6)


def test_a_cell_without_edges_stands_in_for_its_neighbours(graph_encoder):
    rep, neighbors = torch.randn(2, 5), torch.randn(2, 3, 5)
    isolated = graph_encoder(rep, neighbors, torch.zeros(2, 3))
    assert torch.isfinite(isolated).all()
    assert not torch.allclose(isolated, graph_encoder(rep, neighbors, torch.ones(2, 3)))
    assert not torch.allclose(isolated, graph_encoder(rep + 1.0, neighbors, torch.zeros(2, 3)))


def test_the_mean_of_the_neighbours_does_not_see_the_cell():
    encoder = GraphEncoder(5, 3, n_hidden=8, convolution="mean")
    rep, neighbors, weights = torch.randn(4, 5), torch.randn(4, 6, 5), torch.rand(4, 6) + 0.1
    assert torch.equal(encoder(rep, neighbors, weights), encoder(rep + 5.0, neighbors, weights))


def test_only_attention_has_weights_of_its_own():
    convolutions = {name: GraphEncoder(2, 2, convolution=name) for name in ("mean", "attention")}
    weights = {name: any("conv" in key for key in each.state_dict()) for name, each in convolutions.items()}
    assert weights == {"mean": False, "attention": True}


def test_mean_convolution_is_the_weighted_mean():
    encoder = GraphEncoder(2, 2, n_hidden=2, convolution="mean")
    weights = np.array([[1.0, 3.0]])
    neighbors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    mean = torch.tensor([[[0.25, 0.75]]])
    rep = torch.zeros(1, 2)
    direct = encoder(rep, mean, torch.ones(1, 1))
    assert torch.allclose(encoder(rep, neighbors, torch.tensor(weights).float()), direct, atol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 1e-12])
def test_values_far_from_zero_are_mixed_as_well_in_reduced_precision(weight):
    encoder, weights = GraphEncoder(5, 3, n_hidden=8), torch.rand(30, 6) + 0.1
    weights[0] = 0.0
    near, neighbors = torch.randn(30, 5), torch.randn(30, 6, 5)
    mixed = []
    for shift in (0.0, 1e3):
        encoder.scaler.fit(near + shift)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed.append(encoder.mix(near + shift, neighbors + shift, weights * weight))
    torch.testing.assert_close(mixed[0], mixed[1], rtol=0, atol=0.03)


def test_unknown_convolution_is_refused():
    with pytest.raises(ValueError, match="'mean' or 'attention'"):
        GraphEncoder(2, 2, convolution="gcn")


def test_standardised_proportions_are_z_scores():
    counts = torch.poisson(torch.rand(300, 6) * 20) + 1.0
    proportions = counts / counts.sum(dim=1, keepdim=True)
    log_normalised = torch.log1p(1e4 * proportions)
    scaler = ExpressionScaler(6)
    scaler.fit(log_normalised.mean(dim=0), log_normalised.std(dim=0, unbiased=False), 1e4)
    scores = scaler.standardise(proportions)
    assert torch.allclose(scores.mean(dim=0), torch.zeros(6), atol=1e-3)
    spread = scores.std(dim=0, unbiased=False)
    assert torch.allclose(spread, spread[0].expand(6), rtol=1e-3)
