"""The estimator follows the conventions of scikit-learn, and gives the results of the model."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.sklearn import SiameseCluster

FAST = {"n_neighbors": 5, "n_latent": 4, "n_hidden": 8, "max_epochs": 2, "accelerator": "cpu"}


class OnCounts(SiameseCluster):
    """The estimator on data that are converted to whole numbers of at least 0, because the checks use any numbers."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        return tags


# The documentation page on scikit-learn lists the same exceptions.
EXCEPTIONS = {
    "check_clustering": "standardises its data, so that they are negative and no whole numbers",
    "check_estimator_sparse_array": "takes an estimator with predict_proba for a classifier",
    "check_estimator_sparse_matrix": "takes an estimator with predict_proba for a classifier",
}


@parametrize_with_checks([OnCounts(2, **FAST)], expected_failed_checks=lambda estimator: EXCEPTIONS)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def adata():
    return synthetic(n_obs=90, n_vars=40, n_types=3, seed=0)


@pytest.fixture(scope="module")
def fitted(adata):
    return SiameseCluster(3, n_top_genes=30, **FAST).fit(adata.X)


def test_results_are_those_of_the_model(fitted, adata):
    scvi.settings.seed = 0
    cells = adata.copy()
    cells.var_names = cells.var_names.astype(str)
    model = tl.cluster(
        cells,
        3,
        n_top_genes=30,
        n_neighbors=5,
        model_kwargs={"n_latent": 4, "n_hidden": 8},
        train_kwargs={"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    )
    # The gene names differ, and starting weights depend on the names. Only values that do not depend on them are
    # compared.
    assert sorted(fitted.genes_) == sorted(adata.var_names.get_indexer(model.adata.var_names))
    assert np.array_equal(fitted.labels_, fitted.model_.predict().astype(int))
    assert np.allclose(fitted.transform(adata.X), fitted.model_.get_latent_representation(), atol=1e-5)
    assert np.array_equal(fitted.predict(adata.X), fitted.labels_)
    probs = fitted.predict_proba(adata.X)
    assert probs.shape == (90, 3) and np.allclose(probs.sum(axis=1), 1.0, atol=1e-5)
    assert np.array_equal(probs.argmax(axis=1), fitted.labels_)


def test_dense_sparse_and_data_frames_are_the_same(fitted, adata):
    dense = adata.X.toarray()
    for counts in (dense, dense.astype(np.int64), sparse.csc_matrix(dense), sparse.csr_array(dense)):
        assert np.array_equal(SiameseCluster(3, n_top_genes=30, **FAST).fit_predict(counts), fitted.labels_)
        assert np.allclose(fitted.transform(counts), fitted.transform(adata.X), atol=1e-6)
    frame = pd.DataFrame(dense, columns=adata.var_names)
    named = SiameseCluster(3, n_top_genes=30, **FAST).fit(frame)
    assert np.array_equal(named.labels_, fitted.labels_)
    assert list(named.feature_names_in_) == list(adata.var_names)
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame[frame.columns[::-1]])


def test_copies_hold_the_model(fitted, adata):
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert np.array_equal(twin.transform(adata.X), fitted.transform(adata.X))
        assert np.array_equal(twin.labels_, fitted.labels_)
        assert twin.get_params() == fitted.get_params()
    assert len(pickle.dumps(fitted)) > 1000 > len(pickle.dumps(clone(fitted)))


def test_in_a_pipeline(adata):
    counts = sparse.hstack([adata.X, sparse.csr_matrix((adata.n_obs, 5), dtype=adata.X.dtype)]).tocsr()
    pipeline = make_pipeline(VarianceThreshold(), SiameseCluster(3, **FAST))
    labels = pipeline.fit_predict(counts)
    assert pipeline[-1].n_features_in_ == 40
    assert np.array_equal(labels, pipeline.predict(counts))
    assert pipeline.transform(counts).shape == (90, 4)
    assert list(pipeline.get_feature_names_out()) == [f"siamesecluster{i}" for i in range(4)]
    assert pipeline.set_params(siamesecluster__n_clusters=2).fit_predict(counts).max() == 1


def test_labels_are_not_used(fitted, adata):
    other = SiameseCluster(3, n_top_genes=30, **FAST).fit(adata.X, adata.obs["cell_type"])
    assert np.array_equal(other.labels_, fitted.labels_)


def test_seeds(adata):
    first, again, other = (SiameseCluster(3, random_state=seed, **FAST).fit(adata.X) for seed in (1, 1, 2))
    assert np.array_equal(first.transform(adata.X), again.transform(adata.X))
    assert not np.array_equal(first.transform(adata.X), other.transform(adata.X))
    scvi.settings.seed = 5
    SiameseCluster(3, **FAST).fit(adata.X)
    assert scvi.settings.seed == 5


def test_what_are_no_counts_is_refused(fitted, adata):
    dense = adata.X.toarray()
    for act in (SiameseCluster(2, **FAST).fit, fitted.predict, fitted.predict_proba, fitted.transform):
        with pytest.raises(ValueError, match="Negative values in data passed to SiameseCluster"):
            act(-dense)
        with pytest.raises(ValueError, match="integer"):
            act(dense / 3)
        with pytest.raises(ValueError, match="NaN"):
            act(np.where(dense == dense.max(), np.nan, dense))
    with pytest.raises(NotFittedError):
        SiameseCluster().predict(dense)
    with pytest.raises(ValueError, match="X has 39 features, but SiameseCluster is expecting 40"):
        fitted.predict(dense[:, 1:])


def test_types_are_found():
    adata = synthetic(n_obs=400, n_vars=200, n_types=4, seed=1)
    labels = SiameseCluster(accelerator="cpu", max_epochs=12).fit_predict(adata.X)
    assert adjusted_rand_score(adata.obs["cell_type"], labels) > 0.9


def test_an_anndata_is_refused():
    with pytest.raises(TypeError, match="found an AnnData; pass its counts, such as adata.X"):
        SiameseCluster().fit(synthetic(n_obs=30, n_vars=10))
