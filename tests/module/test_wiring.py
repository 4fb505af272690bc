"""Every loss term reads the right tensors: comparison with :mod:`scsiameseclu.losses`, with inputs that all differ.

The mini-batch has cells of two batches, further covariates, size factors, proteins, more genes than embedding genes,
partners without common neighbours with their cells, and a diffused block that differs from the block of neighbours.
Corruption is replaced by a function without random numbers, so that both views can be computed by hand.
"""

import math

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import nn

from scsiameseclu import losses
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.module import LossWeights, SiameseModule, _siamese

N_CELLS, N_NEIGHBORS, N_REP, N_CLUSTERS, N_LATENT, N_PROTEINS = 10, 3, 4, 3, 5, 4
N_CATS = [3, 2]
EMBEDDING_GENES, OTHER_GENES = torch.tensor([6, 1, 4, 8, 3]), torch.tensor([7, 0, 2, 5])
OFF_DIAGONAL, DROPPED, SHARPENING, TEMPERATURE, TARGET_SUM = 0.3, 0.25, 1.7, 0.2, 2e4
WEIGHTS = {
    "reconstruction": 0.05,
    "cell_correlation": 0.06,
    "latent_correlation": 0.07,
    "cross_correlation": 0.08,
    "propagation": 0.09,
    "protein": 0.11,
    "clustering": 0.12,
}
BLOCKS = {
    "neighbors": (SIAMESE_KEYS.NEIGHBOR_REP, SIAMESE_KEYS.NEIGHBOR_WEIGHT),
    "diffused": (SIAMESE_KEYS.DIFFUSED_REP, SIAMESE_KEYS.DIFFUSED_WEIGHT),
}


class Corrupted(nn.Module):
    """Replacement for the random corruption of expression."""

    def forward(self, x):
        return 1.0 - 2.0 * x, torch.zeros_like(x, dtype=torch.bool)


def make_cells(first_row, diffusion):
    """Tensors of ten cells with row numbers from ``first_row``; cells of other row numbers have other values."""
    draw = torch.Generator().manual_seed(first_row)
    rows = first_row + torch.arange(N_CELLS)
    targets = torch.rand(N_CELLS, N_CLUSTERS, generator=draw).softmax(dim=1)
    targets[first_row % N_CELLS + 2] = 0.0  # a cell without a target
    cells = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((N_CELLS, 9), 3.0), generator=draw),
        REGISTRY_KEYS.BATCH_KEY: torch.randint(0, 2, (N_CELLS, 1), generator=draw),
        REGISTRY_KEYS.CAT_COVS_KEY: torch.stack(
            [torch.randint(0, n, (N_CELLS,), generator=draw) for n in N_CATS], dim=1
        ),
        REGISTRY_KEYS.CONT_COVS_KEY: torch.randn(N_CELLS, 1, generator=draw),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: 20.0 + 30.0 * torch.rand(N_CELLS, 1, generator=draw),
        SIAMESE_KEYS.CELL_INDEX: rows[:, None],
        SIAMESE_KEYS.NEIGHBOR_INDEX: torch.randint(0, 20, (N_CELLS, N_NEIGHBORS), generator=draw),
        SIAMESE_KEYS.GRAPH_REP: torch.randn(N_CELLS, N_REP, generator=draw),
        SIAMESE_KEYS.NEIGHBOR_REP: torch.randn(N_CELLS, N_NEIGHBORS, N_REP, generator=draw),
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: torch.rand(N_CELLS, N_NEIGHBORS, generator=draw) + 0.1,
        SIAMESE_KEYS.PROTEIN: torch.poisson(torch.full((N_CELLS, N_PROTEINS), 4.0), generator=draw),
        SIAMESE_KEYS.PROTEIN_REP: torch.randn(N_CELLS, N_PROTEINS, generator=draw),
        SIAMESE_KEYS.CLUSTER_TARGET: targets,
    }
    if diffusion:
        cells[SIAMESE_KEYS.DIFFUSED_REP] = torch.randn(N_CELLS, N_NEIGHBORS, N_REP, generator=draw)
        cells[SIAMESE_KEYS.DIFFUSED_WEIGHT] = torch.rand(N_CELLS, N_NEIGHBORS, generator=draw) + 0.1
    return cells


def make_module(monkeypatch, **options):
    """A module whose weights, buffers and settings all differ from their starting values."""
    torch.manual_seed(0)
    settings = {
        "n_latent": N_LATENT,
        "n_hidden": 16,
        "n_embedding_genes": len(EMBEDDING_GENES),
        "n_batch": 2,
        "n_cats_per_cov": N_CATS,
        "n_continuous_cov": 1,
        "edge_drop_rate": DROPPED,
        "off_diagonal_weight": OFF_DIAGONAL,
        "sharpening": SHARPENING,
        "temperature": TEMPERATURE,
        "loss_weights": WEIGHTS,
        "n_proteins": N_PROTEINS,
    }
    module = SiameseModule(9, N_REP, N_CLUSTERS, **{**settings, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        module.expression_scaler.fit(torch.rand(5), torch.rand(5) + 0.5, TARGET_SUM)
        module.expression_scaler.offset.copy_(torch.randn(5, 2))
        module.covariate_scaler.fit(torch.randn(30, 1) * 2.0 + 1.0)
        module.graph_encoder.scaler.fit(torch.randn(30, N_REP) * 2.0)
        module.embedding_genes.copy_(EMBEDDING_GENES)
        module.other_genes.copy_(OTHER_GENES)
        module.decoder.order.copy_(torch.cat([EMBEDDING_GENES, OTHER_GENES]).argsort())
    module.head.initialise(torch.randn(N_CLUSTERS, N_LATENT), torch.tensor([0.2, 0.3, 0.5]), torch.randn(N_LATENT))
    module.head.update_targets(torch.tensor([0.4, -0.8, 0.1]), torch.tensor([0.2, 0.3, 0.5]))
    module.clustering_active = True
    module.augmentation = Corrupted()
    monkeypatch.setattr(_siamese, "perturb_edges", lambda weight, rate: weight * torch.linspace(rate, 1, N_NEIGHBORS))
    return module


def covariates_of(module, cells):
    cont = (cells[REGISTRY_KEYS.CONT_COVS_KEY] - module.covariate_scaler.mean) / module.covariate_scaler.sd
    others = cells[REGISTRY_KEYS.CAT_COVS_KEY]
    return [cells[REGISTRY_KEYS.BATCH_KEY], others[:, :1], others[:, 1:]], cont


def embedded(module, cells, block, corrupted):
    """One view of cells, computed by hand: embeddings of both branches, their mixture, and the gate."""
    categories, cont = covariates_of(module, cells)
    counts = cells[REGISTRY_KEYS.X_KEY][:, EMBEDDING_GENES]
    expression = module.expression_scaler(counts, cells[REGISTRY_KEYS.SIZE_FACTOR_KEY], categories[0])
    scores = cells[SIAMESE_KEYS.PROTEIN_REP]
    neighbor_rep, weight = (cells[key] for key in BLOCKS[block])
    if corrupted:
        expression, scores = 1.0 - 2.0 * expression, 1.0 - 2.0 * scores
        weight = weight * torch.linspace(DROPPED, 1, N_NEIGHBORS)
    z_expression = module.expression_encoder(expression, categories, cont)
    z_expression = module.protein.fusion(z_expression, module.protein.encoder(scores, categories, cont))[0]
    z_graph = module.graph_encoder(cells[SIAMESE_KEYS.GRAPH_REP], neighbor_rep, weight, categories, cont)
    z, gate = module.fusion(z_expression, z_graph)
    return {"expression": z_expression, "graph": z_graph, "z": z, "gate": gate}


def likelihoods(module, cells, z, n_rows):
    """Negative log-likelihood of the embedding genes, and of the other genes in the first rows, by hand."""
    categories, cont = covariates_of(module, cells)
    hidden = module.decoder.px_decoder(z, *categories, cont=cont)
    logits, others = module.decoder.scale_logits(hidden), module.decoder.other_logits(hidden)
    counts = cells[REGISTRY_KEYS.X_KEY]
    x, x_others = counts[:, EMBEDDING_GENES], counts[:n_rows, OTHER_GENES]
    log_theta = module.decoder.log_dispersion[:, 0]
    log_rate = logits.log_softmax(dim=1) + x.sum(dim=1, keepdim=True).log()
    library = cells[REGISTRY_KEYS.SIZE_FACTOR_KEY] * (1e4 / TARGET_SUM)  # size factors in the unit of counts
    log_rate_others = torch.cat([logits, others], dim=1).log_softmax(dim=1)[:n_rows, 5:] + library[:n_rows].log()
    return (
        losses.negative_binomial_nll(x, log_rate, log_theta[:5]),
        losses.negative_binomial_nll(x_others, log_rate_others, log_theta[5:]),
    )


def likelihood_of_proteins(module, cells, z):
    categories, cont = covariates_of(module, cells)
    counts = cells[SIAMESE_KEYS.PROTEIN]
    shares = module.protein.output(module.protein.px_decoder(z, *categories, cont=cont)).log_softmax(dim=1)
    log_rate = shares + counts.sum(dim=1, keepdim=True).log()
    return losses.negative_binomial_nll(counts, log_rate, module.protein.log_spread).mean()


def positive_pairs(cells, partners):
    """Pairs that may agree, by definition: a cell with itself, with its neighbours, and with cells whose neighbour it
    is."""
    rows, columns = (each[SIAMESE_KEYS.CELL_INDEX].flatten().tolist() for each in (cells, partners))
    neighbors = [set(listed) for listed in cells[SIAMESE_KEYS.NEIGHBOR_INDEX].tolist()]
    pairs = torch.zeros(N_CELLS, N_CELLS, dtype=torch.bool)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            pairs[i, j] = i != j and (one == other or other in neighbors[i] or one in neighbors[j])
            if partners is not cells:
                pairs[i, j] |= columns[j] == one or columns[j] in neighbors[i]
    return pairs


def divergence(module, cells, z):
    """KL divergence from each cell's own target; a cell without a stored target gets a target from the duals."""
    head = module.head
    units = [nn.functional.normalize(each - head.origin, dim=1) for each in (z, head.centers)]
    logits = units[0] @ units[1].T / TEMPERATURE
    targets = cells[SIAMESE_KEYS.CLUSTER_TARGET].clone()
    without = targets.sum(dim=1) == 0
    assert without.sum() == 1
    targets[without] = (SHARPENING * logits + head.log_duals).softmax(dim=1)[without]
    return losses.clustering_kl(targets, logits.log_softmax(dim=1))


def latent(u, v):
    return losses.latent_correlation_loss(u, v, OFF_DIAGONAL)


def expected_terms(module, cells, partners, first, second, n_rows):
    """Every loss term, computed by hand, and the likelihoods of single genes."""
    categories, cont = covariates_of(module, cells)
    nll, others_nll = likelihoods(module, cells, first["z"], n_rows)
    no_edges = torch.zeros(N_CELLS, N_NEIGHBORS)
    alone = module.graph_encoder(
        cells[SIAMESE_KEYS.GRAPH_REP], cells[SIAMESE_KEYS.NEIGHBOR_REP], no_edges, categories, cont
    )
    positives = positive_pairs(cells, partners)
    branches = ("expression", "graph")
    terms = {
        "reconstruction": nll.mean(),
        "protein": likelihood_of_proteins(module, cells, first["z"]),
        "cell_correlation": sum(losses.cell_correlation_loss(first[k], second[k], positives) for k in branches) / 2,
        "latent_correlation": sum(latent(first[k], second[k]) for k in branches) / 2,
        "cross_correlation": (
            latent(first["expression"], second["graph"]) + latent(second["expression"], first["graph"])
        )
        / 2,
        "propagation": losses.propagation_loss(alone, first["graph"]),
        "clustering": (divergence(module, cells, first["z"]) + divergence(module, partners, second["z"])) / 2,
    }
    return terms, nll, others_nll


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@pytest.mark.parametrize("partner", [True, False], ids=["partner", "same cell"])
@pytest.mark.parametrize("diffusion", [True, False], ids=["diffusion", "neighbours"])
def test_every_term_reads_what_it_should(monkeypatch, training, partner, diffusion):
    module = make_module(monkeypatch).train(training)
    cells = make_cells(0, diffusion)
    partners = make_cells(5, diffusion) if partner else cells
    batch = {**cells, SIAMESE_KEYS.PARTNER: partners} if partner and training else dict(cells)
    inference, _, output = module(batch)

    first = embedded(module, cells, "neighbors", corrupted=training)
    second, n_rows = first, N_CELLS
    if training:
        second = embedded(module, partners, "diffused" if diffusion else "neighbors", corrupted=True)
        n_rows = math.ceil(N_CELLS / 4)
        for key, mine in (("z_expression", "expression"), ("z_graph", "graph"), ("z", "z"), ("gate", "gate")):
            torch.testing.assert_close(inference["second"][key], second[mine])
    else:
        partners = cells
        assert "second" not in inference
    for key, mine in (("z_expression", "expression"), ("z_graph", "graph"), ("z", "z"), ("gate", "gate")):
        torch.testing.assert_close(inference[key], first[mine])

    terms, nll, others_nll = expected_terms(module, cells, partners, first, second, n_rows)
    assert set(output.extra_metrics) == {*terms, "gate"}
    assert output.loss.requires_grad and not any(term.requires_grad for term in output.extra_metrics.values())
    for name, term in terms.items():
        torch.testing.assert_close(output.extra_metrics[name], term.detach(), rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(output.extra_metrics["gate"], first["gate"].mean().detach())
    # The genes outside the embedding train their part of the decoder. The validation loss leaves these genes out.
    total = sum(WEIGHTS[name] * term for name, term in terms.items()) + (others_nll.mean() if training else 0.0)
    torch.testing.assert_close(output.loss, total, rtol=1e-4, atol=1e-5)
    per_cell = nll.sum(dim=1) + (others_nll.sum(dim=1).mean() if training else others_nll.sum(dim=1))
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], per_cell, rtol=1e-4, atol=1e-4)
    assert output.n_obs_minibatch == N_CELLS


def test_inputs_can_be_told_apart(monkeypatch):
    """The test above can fail: each term changes if a view, block or target is replaced by another one."""
    module = make_module(monkeypatch)
    cells, partners = make_cells(0, True), make_cells(5, True)
    views = [
        embedded(module, each, block, corrupted)
        for each in (cells, partners)
        for block in BLOCKS
        for corrupted in (False, True)
    ]
    # The expression branch reads no block of neighbours.
    for branch, n_different in (("graph", 8), ("expression", 4), ("gate", 8)):
        found = {tuple(view[branch].flatten().tolist()) for view in views}
        assert len(found) == n_different
    first, second = views[1], views[-1]
    divergences = [divergence(module, each, view["z"]).item() for each in (cells, partners) for view in (first, second)]
    assert len({round(value, 3) for value in divergences}) == 4
    off_diagonal = ~torch.eye(N_CELLS, dtype=torch.bool)
    own, with_partners = positive_pairs(cells, cells), positive_pairs(cells, partners)
    assert 0 < own[off_diagonal].sum() < with_partners[off_diagonal].sum() < off_diagonal.sum()


@pytest.mark.parametrize("term", ["neighbor_positives", *WEIGHTS])
def test_an_option_switches_off_only_what_it_names(monkeypatch, term):
    """Every other term stays the same, and so does the likelihood of the genes outside the embedding, if there is
    one."""
    cells = {**make_cells(0, True), SIAMESE_KEYS.PARTNER: make_cells(5, True)}
    usual = make_module(monkeypatch).train()(dict(cells))[2]
    option = {"neighbor_positives": False} if term == "neighbor_positives" else {"loss_weights": {**WEIGHTS, term: 0.0}}
    module = make_module(monkeypatch, **option).train()
    inference, _, output = module(dict(cells))
    changed = {term} if term in WEIGHTS else {"cell_correlation"}
    assert set(output.extra_metrics) == {*WEIGHTS, "gate"} - ({term} if term in WEIGHTS else set())
    for name in set(output.extra_metrics) - changed:
        torch.testing.assert_close(output.extra_metrics[name], usual.extra_metrics[name], msg=name)
    if term == "neighbor_positives":
        pairs = [(inference[key], inference["second"][key]) for key in ("z_expression", "z_graph")]
        expected = sum(losses.cell_correlation_loss(u, v) for u, v in pairs) / 2
        torch.testing.assert_close(output.extra_metrics["cell_correlation"], expected.detach())
    elif term == "reconstruction":
        assert (output.reconstruction_loss["reconstruction_loss"] == 0).all()
    else:
        missing = WEIGHTS[term] * usual.extra_metrics[term]
        torch.testing.assert_close(output.loss, usual.loss - missing, rtol=1e-4, atol=1e-5)


def test_weights_left_out_are_the_defaults():
    assert LossWeights.from_mapping({"protein": 0.0}) == LossWeights(protein=0.0)
    assert SiameseModule(9, N_REP, loss_weights=WEIGHTS).loss_weights == LossWeights(**WEIGHTS)


def test_expression_is_decoded_as_of_the_first_batch(monkeypatch):
    """The batch of a cell makes no difference, but its other covariates do; the first batch is decoded."""
    module, cells = make_module(monkeypatch).eval(), make_cells(0, False)
    z = torch.randn(N_CELLS, N_LATENT)
    (batch, *others), cont = covariates_of(module, cells)
    first = torch.zeros_like(batch)
    decoded = module.decoded_expression(z, [batch, *others], cont)
    scale = module.decoder.embedding_scale(z, [first, *others], cont) * module.embedding_share
    torch.testing.assert_close(decoded, module.expression_scaler.standardise(scale))
    assert torch.equal(decoded, module.decoded_expression(z, [1 - batch, *others], cont))
    changed = [(others[0] + 1) % 3, 1 - others[1]]
    for other in ([changed[0], others[1]], [others[0], changed[1]]):
        assert not torch.allclose(decoded, module.decoded_expression(z, [batch, *other], cont))
    assert not torch.allclose(scale, module.decoder.embedding_scale(z, [first + 1, *others], cont))


def test_counts_are_decoded_in_the_cells_own_batch_unless_another_is_named(monkeypatch):
    module, cells = make_module(monkeypatch).eval(), make_cells(0, False)
    inference, generative = module(cells, compute_loss=False)
    categories, cont = covariates_of(module, cells)
    library = cells[REGISTRY_KEYS.SIZE_FACTOR_KEY] * (1e4 / TARGET_SUM)
    for batch in (None, 0, 1):
        codes = categories[0] if batch is None else torch.full_like(categories[0], batch)
        expected = module.decoder(inference["z"], library, [codes, *categories[1:]], cont).mean
        inputs = module._get_generative_input(cells, inference)
        found = module.generative(**inputs, transform_batch=batch)["px"].mean
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(generative["px"].mean, module.generative(**inputs)["px"].mean)


def test_statistics_of_the_training_cells_go_where_they_belong():
    module = SiameseModule(9, N_REP, n_embedding_genes=5, n_batch=2, n_latent=N_LATENT, n_hidden=16)
    rng = np.random.default_rng(0)
    mean, sd, proportions = rng.random(9), rng.random(9) + 0.5, rng.dirichlet(np.ones(9))
    rep, offsets = rng.normal(size=(40, N_REP)) * [1, 5, 2, 3] + 4, rng.normal(size=(5, 2)).astype(np.float32)
    module.fit_input(
        EMBEDDING_GENES.numpy(), OTHER_GENES.numpy(), mean, sd, proportions, TARGET_SUM, rep, batch_offsets=offsets
    )
    assert module.embedding_genes.tolist() == EMBEDDING_GENES.tolist()
    assert module.other_genes.tolist() == OTHER_GENES.tolist()
    assert module.embedding_share.item() == pytest.approx(proportions[EMBEDDING_GENES].sum(), rel=1e-5)
    scaler = type(module.expression_scaler)(5, 2)
    scaler.fit(*(torch.as_tensor(each[EMBEDDING_GENES]).float() for each in (mean, sd)), TARGET_SUM)
    for name in ("mean", "weight", "target_sum"):
        torch.testing.assert_close(getattr(module.expression_scaler, name), getattr(scaler, name))
    np.testing.assert_array_equal(module.expression_scaler.offset, offsets)
    np.testing.assert_allclose(module.graph_encoder.scaler.mean, rep.mean(axis=0), rtol=1e-5)
    assert module.graph_encoder.scaler.scale.item() == pytest.approx(np.sqrt(rep.var(axis=0).mean()), rel=1e-5)
    ranked = np.log(proportions[torch.cat([EMBEDDING_GENES, OTHER_GENES])])
    biases = torch.cat([module.decoder.scale_logits.bias, module.decoder.other_logits.bias]).detach()
    np.testing.assert_allclose(biases, ranked - ranked.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("wanted", "found"), [(2, 2), (9, 9), (1000, 9)])
def test_the_embedding_is_made_of_at_most_all_genes(wanted, found):
    module = SiameseModule(9, N_REP, n_embedding_genes=wanted, n_hidden=16)
    assert (len(module.embedding_genes), len(module.other_genes)) == (found, 9 - found)


def test_the_total_count_is_the_library_without_size_factors(monkeypatch):
    module, cells = make_module(monkeypatch).eval(), make_cells(0, False)
    del cells[REGISTRY_KEYS.SIZE_FACTOR_KEY]
    without = module(cells)
    cells[REGISTRY_KEYS.SIZE_FACTOR_KEY] = cells[REGISTRY_KEYS.X_KEY].sum(dim=1, keepdim=True)
    given = module(cells)
    torch.testing.assert_close(without[0]["z"], given[0]["z"])
    torch.testing.assert_close(without[2].loss, given[2].loss)


def test_edges_and_genes_are_really_dropped_and_swapped(monkeypatch):
    """With the real corruption, both views lose a share of the edges and get a share of the genes of other cells."""
    torch.manual_seed(0)
    expressions, edges = [], []
    module = SiameseModule(50, N_REP, N_CLUSTERS, edge_drop_rate=0.3, swap_rate=0.2, noise_sd=0.0, n_hidden=16).train()
    module.expression_encoder.register_forward_pre_hook(lambda _, inputs: expressions.extend(inputs[0].chunk(2)))
    mix = module.graph_encoder.mix
    monkeypatch.setattr(module.graph_encoder, "mix", lambda *inputs: edges.append(inputs[2]) or mix(*inputs))
    n_cells, n_neighbors = 200, 15
    cells = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((n_cells, 50), 30.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(n_cells, 1, dtype=torch.long),
        SIAMESE_KEYS.GRAPH_REP: torch.randn(n_cells, N_REP),
        SIAMESE_KEYS.NEIGHBOR_REP: torch.randn(n_cells, n_neighbors, N_REP),
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: torch.ones(n_cells, n_neighbors),
    }
    module.inference(**module._get_inference_input(cells))
    for each in edges:
        assert (each == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(*edges)
    library = cells[REGISTRY_KEYS.X_KEY].sum(dim=1, keepdim=True)
    clean = module.expression_scaler(cells[REGISTRY_KEYS.X_KEY], library)
    assert not torch.equal(*expressions)
    for expression in expressions:
        # Some swapped values are equal by chance.
        assert (expression != clean).float().mean().item() == pytest.approx(0.2, abs=0.04)
