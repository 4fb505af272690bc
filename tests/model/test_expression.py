import numpy as np
import pytest

from scsiameseclu.model import SCSiameseClu


def test_proportions_scaled_to_the_library(trained):
    proportions = trained.get_normalized_expression()
    assert proportions.shape == (200, 80)
    assert list(proportions.columns) == list(trained.adata.var_names)
    assert np.allclose(proportions.sum(axis=1), 1.0, atol=1e-4)
    scaled = trained.get_normalized_expression(library_size=1e4)
    assert np.allclose(scaled, proportions * 1e4, rtol=1e-4)
    own = trained.get_normalized_expression(library_size="latent", return_numpy=True)
    assert np.allclose(own.sum(axis=1), np.asarray(trained.adata.X.sum(axis=1)).ravel(), rtol=1e-3)


def test_rows_and_genes(trained):
    whole = trained.get_normalized_expression(return_numpy=True)
    genes = list(trained.adata.var_names[[5, 2]])
    part = trained.get_normalized_expression(indices=[9, 1], gene_list=genes)
    assert list(part.columns) == genes
    assert np.allclose(part, whole[np.ix_([9, 1], [5, 2])], atol=1e-6)


def test_batches_are_averaged(trained):
    batches = list(trained.adata.obs["batch"].unique())
    each = [trained.get_normalized_expression(transform_batch=batch, return_numpy=True) for batch in batches]
    assert not np.allclose(each[0], each[1])
    both = trained.get_normalized_expression(transform_batch=batches, return_numpy=True)
    assert np.allclose(both, np.mean(each, axis=0), atol=1e-6)


def test_expression_follows_the_data(trained):
    expression = trained.get_normalized_expression(library_size="latent", return_numpy=True)
    observed = trained.adata.X.toarray()
    assert np.corrcoef(expression.ravel(), observed.ravel())[0, 1] > 0.5


def test_bad_requests(trained, setup_adata, small):
    with pytest.raises(KeyError, match="gene_list"):
        trained.get_normalized_expression(gene_list=["no such gene"])
    with pytest.raises(ValueError, match="transform_batch"):
        trained.get_normalized_expression(transform_batch="no such batch")
    with pytest.raises(ValueError, match="positive library_size"):
        trained.get_normalized_expression(library_size=0)


DECODING = (
    "get_normalized_expression",
    "get_likelihood_parameters",
    "get_reconstruction_error",
    "posterior_predictive_sample",
    "differential_expression",
)


@pytest.mark.parametrize("method", DECODING)
def test_a_decoder_that_no_loss_has_trained_is_refused(method, setup_adata, small):
    model = SCSiameseClu(setup_adata, n_clusters=3, loss_weights={"reconstruction": 0.0}, **small)
    with pytest.raises(ValueError, match="trained with a reconstruction loss"):
        getattr(model, method)()


@pytest.mark.parametrize("method", DECODING[1:4])
def test_methods_without_a_result_for_no_cell_ask_for_one(method, trained):
    with pytest.raises(ValueError, match="at least one cell"):
        getattr(trained, method)(indices=[])


def test_expression_of_no_cell_is_an_empty_table(trained):
    assert trained.get_normalized_expression(indices=[]).shape == (0, 80)
