"""Weights of categories: their place in the network of a query, and the starting weights of a new category."""

import pytest
import torch

from scsiameseclu.model._surgery import adapt_only_new_categories, place_covariates
from scsiameseclu.module import SiameseModule

N_CONT = 2


def make(n_batch, n_donors, seed=0, **options):
    """A module with batches, donors (a further covariate) and two continuous covariates; no weight is at its start."""
    torch.manual_seed(seed)
    settings = {
        "n_batch": n_batch,
        "n_cats_per_cov": [n_donors],
        "n_continuous_cov": N_CONT,
        "n_latent": 4,
        "n_hidden": 8,
    }
    module = SiameseModule(12, 3, 3, **{**settings, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape)
    return module


def weights(module, part):
    """First weight matrix of a part, in pieces: inputs of the part, continuous covariates, batches, donors."""
    layers = getattr(module, part)
    layers = layers if part == "decoder" else layers.hidden
    stack = layers.px_decoder if part == "decoder" else layers
    matrix = stack.fc_layers[0][0].weight.detach()
    n_batch, n_donors = (n if n > 1 else 0 for n in stack.n_cat_list)
    n_read = matrix.shape[1] - N_CONT - n_batch - n_donors
    return dict(
        zip(("read", "cont", "batch", "donor"), matrix.split([n_read, N_CONT, n_batch, n_donors], dim=1), strict=True)
    )


PARTS = ("expression_encoder", "graph_encoder", "decoder")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("n_batch", "n_donors"), [(2, 3), (4, 3), (2, 5), (5, 6)])
def test_known_categories_keep_their_weights_and_new_ones_get_the_mean(part, n_batch, n_donors):
    reference, query = make(2, 3), make(n_batch, n_donors, seed=1)
    place_covariates(query, reference)
    old, new = weights(reference, part), weights(query, part)
    for piece in ("read", "cont"):
        assert torch.equal(new[piece], old[piece])
    for piece in ("batch", "donor"):
        n_known = old[piece].shape[1]
        assert torch.equal(new[piece][:, :n_known], old[piece])
        for column in new[piece][:, n_known:].T:
            torch.testing.assert_close(column, old[piece].mean(dim=1))


def test_a_covariate_of_one_category_gets_weights_of_zero():
    """One category has no weights in the reference, because the network learned no differences between categories."""
    reference, query = make(1, 3), make(3, 3, seed=1)
    place_covariates(query, reference)
    for part in PARTS:
        assert not weights(query, part)["batch"].any()
        assert torch.equal(weights(query, part)["donor"], weights(reference, part)["donor"])


def test_dispersions_and_offsets_of_new_batches():
    reference, query = (make(n, 3, seed=n, dispersion="gene-batch") for n in (2, 4))
    for module in (reference, query):
        module.expression_scaler.offset.normal_()
    before = query.expression_scaler.offset.clone()
    place_covariates(query, reference)
    known = reference.decoder.log_dispersion
    assert torch.equal(query.decoder.log_dispersion[:, :2], known)
    for column in query.decoder.log_dispersion[:, 2:].T:
        torch.testing.assert_close(column, known.mean(dim=1))
    # The offset of a new batch is not known. Offsets of known batches are copied with the buffers.
    assert torch.equal(query.expression_scaler.offset[:, :2], before[:, :2])
    assert not query.expression_scaler.offset[:, 2:].any()


def test_only_columns_of_new_categories_learn():
    reference, query = make(2, 3), make(4, 4, seed=1)
    adapt_only_new_categories(query, place_covariates(query, reference))
    before = {part: weights(query, part) for part in PARTS}
    before = {part: {piece: value.clone() for piece, value in pieces.items()} for part, pieces in before.items()}
    optimizer = torch.optim.SGD(query.parameters(), lr=1.0)
    sum(query.get_parameter(name).sum() for name, _ in query.named_parameters()).backward()
    optimizer.step()
    for part in PARTS:
        after = weights(query, part)
        for piece, n_known in (("read", 10**6), ("cont", 10**6), ("batch", 2), ("donor", 3)):
            moved = (after[piece] != before[part][piece]).all(dim=0)
            unmoved = (after[piece] == before[part][piece]).all(dim=0)
            assert unmoved[:n_known].all() and moved[n_known:].all()
