import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.module import LossWeights, SiameseModule

TERMS = ["reconstruction", "cell_correlation", "latent_correlation", "cross_correlation", "propagation", "clustering"]


def make_batch(n_cells=12, n_genes=10, n_rep=4, k=3):
    torch.manual_seed(1)
    index = (torch.arange(n_cells)[:, None] + torch.arange(1, k + 1)) % n_cells
    rep = torch.randn(n_cells, n_rep)
    return {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((n_cells, n_genes), 3.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(n_cells, 1, dtype=torch.long),
        SIAMESE_KEYS.GRAPH_REP: rep,
        SIAMESE_KEYS.NEIGHBOR_INDEX: index,
        SIAMESE_KEYS.NEIGHBOR_REP: rep[index],
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: torch.rand(n_cells, k) + 0.1,
        SIAMESE_KEYS.CELL_INDEX: torch.arange(n_cells)[:, None],
    }


def make_module(**options):
    torch.manual_seed(0)
    module = SiameseModule(10, 4, 3, **{"n_latent": 5, "n_hidden": 16, **options})
    z = torch.randn(3, 5)
    module.head.initialise(z, torch.full((3,), 1 / 3), z.mean(dim=0))
    module.clustering_active = True
    return module


def test_training_compares_two_different_views():
    module = make_module().train()
    outputs = module.inference(**module._get_inference_input(make_batch()))
    for key in ("z_expression", "z_graph", "z"):
        assert outputs[key].shape == (12, 5)
        assert not torch.allclose(outputs[key], outputs["second"][key])


def test_the_second_view_is_the_partner():
    module, batch = make_module(swap_rate=0.0, noise_sd=0.0, edge_drop_rate=0.0).train(), make_batch()
    order = torch.arange(12).roll(1)
    batch[SIAMESE_KEYS.PARTNER] = {key: value[order] for key, value in batch.items()}
    second = module.inference(**module._get_inference_input(batch))["second"]
    del batch[SIAMESE_KEYS.PARTNER]
    itself = module.inference(**module._get_inference_input(batch))["second"]
    for key in ("z_expression", "z_graph", "z"):
        assert torch.allclose(second[key], itself[key][order], atol=1e-6)


@pytest.mark.parametrize("only", [None, "reconstruction", "latent_correlation", "propagation"])
def test_all_that_embeds_gets_a_gradient_whatever_the_terms(only):
    """Every weight needs a gradient, because processes of a distributed run wait for the gradients of all weights."""
    module = make_module(loss_weights={name: float(name == only) for name in TERMS}).train()
    module(make_batch())[2].loss.backward()
    for network in ("expression_encoder", "graph_encoder", "fusion"):
        assert all(weight.grad is not None for weight in getattr(module, network).parameters()), network


@pytest.mark.parametrize("diffusion", [False, True])
@pytest.mark.parametrize("partner", [False, True])
def test_the_second_view_reads_the_diffused_block_where_there_is_one(diffusion, partner):
    module, batch = make_module().train(), make_batch()
    if diffusion:
        batch[SIAMESE_KEYS.DIFFUSED_REP] = batch[SIAMESE_KEYS.NEIGHBOR_REP] + 100
        batch[SIAMESE_KEYS.DIFFUSED_WEIGHT] = batch[SIAMESE_KEYS.NEIGHBOR_WEIGHT] + 10
    source = batch
    if partner:
        source = {key: value.roll(1, dims=0) for key, value in batch.items()}
        batch[SIAMESE_KEYS.PARTNER] = source
    inputs = module._get_inference_input(batch)
    assert torch.equal(inputs["neighbor_rep"], batch[SIAMESE_KEYS.NEIGHBOR_REP])
    assert torch.equal(inputs["weight"], batch[SIAMESE_KEYS.NEIGHBOR_WEIGHT])
    shift = (100, 10) if diffusion else (0, 0)
    assert torch.equal(inputs["second"]["neighbor_rep"], source[SIAMESE_KEYS.NEIGHBOR_REP] + shift[0])
    assert torch.equal(inputs["second"]["weight"], source[SIAMESE_KEYS.NEIGHBOR_WEIGHT] + shift[1])


def test_embedding_reads_the_chosen_genes_only():
    module, batch = make_module(n_embedding_genes=4).eval(), make_batch()
    genes, others = np.array([3, 1, 8, 4]), np.array([0, 2, 9, 7, 6, 5])
    rep = np.random.default_rng(0).normal(size=(9, 4))
    module.fit_input(genes, others, np.ones(10), np.ones(10), np.full(10, 0.1), 1e4, rep)
    batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] = torch.full((12, 1), 30.0)  # so that totals do not change
    before = module.inference(**module._get_inference_input(batch))["z"]
    assert module.other_genes.tolist() == others.tolist()
    batch[REGISTRY_KEYS.X_KEY][:, others] += 5.0
    assert torch.equal(module.inference(**module._get_inference_input(batch))["z"], before)
    batch[REGISTRY_KEYS.X_KEY][:, genes] += 5.0
    assert not torch.allclose(module.inference(**module._get_inference_input(batch))["z"], before)
    _, generative = module(batch, compute_loss=False)
    assert generative["px"].get_normalized("scale").shape == (12, 10)
    with pytest.raises(ValueError, match="n_embedding_genes of at least 2"):
        make_module(n_embedding_genes=1)


def test_evaluation_is_one_deterministic_view():
    module = make_module().eval()
    inputs = module._get_inference_input(make_batch())
    first, second = module.inference(**inputs), module.inference(**inputs)
    assert "second" not in first
    assert torch.equal(first["z"], second["z"])


def test_evaluation_does_not_depend_on_the_other_cells_of_the_batch():
    module, batch = make_module().eval(), make_batch()
    whole = module.inference(**module._get_inference_input(batch))["z"]
    for row in (0, 7):
        one = {key: value[[row]] for key, value in batch.items()}
        assert torch.allclose(module.inference(**module._get_inference_input(one))["z"][0], whole[row], atol=1e-5)


def test_loss_is_the_weighted_sum_of_its_terms():
    weights = {name: 0.5 + i for i, name in enumerate(TERMS)}
    module = make_module(loss_weights=weights).train()
    _, _, output = module(make_batch())
    assert set(output.extra_metrics) == {*TERMS, "gate"}
    total = sum(weights[name] * output.extra_metrics[name] for name in TERMS)
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert all(metric.shape == () and torch.isfinite(metric) for metric in output.extra_metrics.values())


@pytest.mark.parametrize("term", TERMS)
def test_weight_zero_switches_a_term_off(term):
    module = make_module(loss_weights={name: float(name != term) for name in TERMS}).train()
    _, _, output = module(make_batch())
    assert set(output.extra_metrics) == {*TERMS, "gate"} - {term}
    assert torch.isfinite(output.loss)


def test_default_terms_use_counts_graph_and_clusters():
    _, _, output = make_module().train()(make_batch())
    terms = {"reconstruction", "latent_correlation", "cross_correlation", "clustering"}
    assert set(output.extra_metrics) == {*terms, "gate"}


@pytest.mark.parametrize(
    ("term", "untouched"),
    [("reconstruction", "head"), ("latent_correlation", "decoder"), ("clustering", "decoder")],
)
def test_a_single_term_trains_only_its_parts(term, untouched):
    weights = {name: float(name == term) for name in TERMS}
    module = make_module(loss_weights=weights).train()
    module(make_batch())[2].loss.backward()
    assert all(p.grad is None for p in getattr(module, untouched).parameters())
    assert module.expression_encoder.project.weight.grad.abs().sum() > 0


def test_clustering_waits_for_its_phase():
    module = make_module().train()
    module.clustering_active = False
    _, _, output = module(make_batch())
    assert "clustering" not in output.extra_metrics


def test_reconstruction_is_per_gene():
    module = make_module().eval()
    _, _, output = module(make_batch())
    per_cell = output.reconstruction_loss["reconstruction_loss"]
    assert per_cell.shape == (12,)
    assert output.extra_metrics["reconstruction"].item() == pytest.approx(per_cell.mean().item() / 10, rel=1e-5)


def test_a_batch_of_one_cell_has_a_finite_loss():
    module = make_module().train()
    _, _, output = module(make_batch(n_cells=1))
    output.loss.backward()
    assert torch.isfinite(output.loss)


def test_size_factors_replace_the_library():
    module, batch = make_module().eval(), make_batch()
    batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] = torch.full((12, 1), 7.0)
    # The median size factor is 0.01 of the library size, so that a size factor of 7 means 700 counts.
    module.expression_scaler.target_sum.fill_(1e4 * 0.01)
    _, generative = module(batch, compute_loss=False)
    assert torch.allclose(generative["px"].get_normalized("mu").sum(dim=1), torch.full((12,), 700.0), rtol=1e-4)


def test_the_unit_of_size_factors_does_not_matter():
    batch, results = make_batch(), []
    for unit in (1.0, 1e-3):
        module = make_module().eval()
        module.expression_scaler.target_sum.fill_(1e4 * unit)
        batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] = 30.0 * unit * torch.ones(12, 1)
        inference, generative = module(batch, compute_loss=False)
        covariates = module._covariates(batch)
        decoded = module.decoded_expression(inference["z"], covariates["categories"])
        results.append((inference["z"], generative["px"].get_normalized("mu"), decoded))
    assert all(torch.allclose(*pair, rtol=1e-3, atol=1e-4) for pair in zip(*results, strict=True))


def test_validation_has_every_term_and_inference_does_not_pay_for_it():
    module = make_module(loss_weights=dict.fromkeys(TERMS, 1.0)).eval()
    with torch.inference_mode():
        inference, _, output = module(make_batch())
    assert set(output.extra_metrics) == {*TERMS, "gate"}
    assert set(inference) == {"z", "z_expression", "z_graph", "gate"}


def test_targets_carried_by_the_batch_are_used():
    module, batch = make_module().eval(), make_batch()
    free = module(batch)[2].extra_metrics["clustering"]
    batch[SIAMESE_KEYS.CLUSTER_TARGET] = torch.zeros(12, 3)
    assert torch.equal(module(batch)[2].extra_metrics["clustering"], free)
    z = module.inference(**module._get_inference_input(batch))["z"]
    batch[SIAMESE_KEYS.CLUSTER_TARGET] = module.head(z).softmax(dim=1).detach()
    assert module(batch)[2].extra_metrics["clustering"].item() == pytest.approx(0.0, abs=1e-5)


def test_no_tensor_has_the_size_of_the_data():
    shapes = {name: tuple(value.shape) for name, value in make_module().state_dict().items()}
    small = SiameseModule(10, 4, 3, n_latent=5, n_hidden=16).state_dict()
    assert shapes == {name: tuple(value.shape) for name, value in small.items()}


def test_sample_draws_counts():
    module = make_module().eval()
    for options in ({}, {"n_samples": 1}):
        assert module.sample(make_batch(), **options).shape == (12, 10)
    counts = module.sample(make_batch(), n_samples=2)
    assert counts.shape == (2, 12, 10)
    assert torch.equal(counts, counts.round())
    assert (counts >= 0).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"contrastive": 1.0}, "contrastive"),
        ({"clustering": -1.0}, "clustering"),
        ({"clustering": float("nan")}, "finite"),
    ],
)
def test_bad_loss_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        LossWeights.from_mapping(weights)
