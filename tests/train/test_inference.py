"""Embedding and decoding of many cells."""

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from sklearn.decomposition import PCA

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.module import SiameseModule
from scsiameseclu.train._inference import beside, decode, embed, principal_components

N_GENES, N_EMBEDDING_GENES, N_REP, N_PROTEINS, N_LATENT = 12, 8, 4, 5, 3


def batches(n_cells=10, size=4):
    """Cells of two batches with proteins, a few at a time."""
    torch.manual_seed(0)
    cells = {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((n_cells, N_GENES), 4.0)),
        REGISTRY_KEYS.BATCH_KEY: torch.arange(n_cells)[:, None] % 2,
        SIAMESE_KEYS.GRAPH_REP: torch.randn(n_cells, N_REP),
        SIAMESE_KEYS.NEIGHBOR_REP: torch.randn(n_cells, 3, N_REP),
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: torch.rand(n_cells, 3),
        SIAMESE_KEYS.PROTEIN_REP: torch.randn(n_cells, N_PROTEINS),
    }
    starts = range(0, n_cells, size)
    return [{key: value[start : start + size] for key, value in cells.items()} for start in starts]


def make(**options):
    torch.manual_seed(1)
    settings = {"n_embedding_genes": N_EMBEDDING_GENES, "n_batch": 2, "n_latent": N_LATENT, "n_hidden": 16}
    module = SiameseModule(N_GENES, N_REP, 2, **{**settings, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        module.expression_scaler.offset.normal_()
        if module.protein is not None:
            module.protein.total.fill_(20.0)
    return module


def evaluated(module, cells):
    return module.eval().inference(**module._get_inference_input(cells))["z"].detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [embed, lambda module, loader: decode(module, loader)[0]], ids=["embed", "decode"])
def test_cells_are_embedded_in_evaluation_mode_and_the_mode_comes_back(function, training):
    module = make().train(training)
    z = function(module, batches())
    assert module.training == training
    assert z.shape == (10, N_LATENT) and not z.requires_grad
    torch.testing.assert_close(z, torch.cat([evaluated(module, cells) for cells in batches()]))


@pytest.mark.parametrize("n_proteins", [0, N_PROTEINS])
def test_expression_and_proteins_are_decoded_as_of_the_first_batch(n_proteins):
    module = make(n_proteins=n_proteins, protein_share=0.3)
    _, decoded = decode(module, batches())
    expected, proteins = [], []
    for cells in batches():
        z, first = evaluated(module, cells), [torch.zeros_like(cells[REGISTRY_KEYS.BATCH_KEY])]
        expected.append(module.decoded_expression(z, first).detach())
        if n_proteins:
            proteins.append(module.protein.standardised(z, first).detach())
            second = module.protein.standardised(z, [first[0] + 1]).detach()
            assert not torch.allclose(proteins[-1], second)
    expected = torch.cat(expected)
    assert decoded.shape == (10, N_EMBEDDING_GENES + n_proteins) and decoded.dtype == np.float32
    np.testing.assert_allclose(decoded[:, :N_EMBEDDING_GENES], expected, rtol=1e-4, atol=1e-5)
    if n_proteins:
        np.testing.assert_allclose(decoded, beside(expected, torch.cat(proteins), 0.3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("without", ["reconstruction", "protein"])
def test_what_was_not_trained_is_not_decoded(without):
    module = make(n_proteins=N_PROTEINS, loss_weights={without: 0.0})
    z, decoded = decode(module, batches())
    if without == "reconstruction":
        assert np.array_equal(decoded, z.numpy())
    else:
        assert decoded.shape == (10, N_EMBEDDING_GENES)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_tables_side_by_side_have_their_shares_of_the_variance(share):
    torch.manual_seed(0)
    first, second = torch.randn(50, 4) * 3 + 1, torch.randn(50, 7) * 0.2 - 5
    both = beside(first, second, share)
    variances = [part.var(dim=0, unbiased=False).sum() for part in (both[:, :4], both[:, 4:])]
    assert torch.equal(both[:, :4], first)
    assert (variances[1] / sum(variances)).item() == pytest.approx(share, abs=1e-5)
    assert torch.isfinite(beside(torch.ones(5, 2), second[:5], 0.5)).all()
    assert torch.isfinite(beside(first, torch.ones(50, 2), 0.5)).all()


@pytest.mark.parametrize(("n_obs", "n_columns", "expected"), [(60, 40, 30), (60, 8, 8), (20, 40, 20)])
def test_principal_components_are_the_first_thirty(n_obs, n_columns, expected):
    points = np.random.default_rng(0).normal(size=(n_obs, n_columns)).astype(np.float32) * np.linspace(5, 1, n_columns)
    found = principal_components(points, 3)
    assert found.shape == (n_obs, expected)
    assert np.array_equal(found, principal_components(points, 3))
    exact = PCA(expected, svd_solver="full").fit_transform(points)
    np.testing.assert_allclose(np.abs(found[:, 0]), np.abs(exact[:, 0]), rtol=1e-2, atol=1e-2)
