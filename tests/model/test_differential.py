"""Differential expression and the count model of every cell."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
from torch import tensor

from scsiameseclu.model._differential import raw_statistics

CHANGE = {"mode": "change", "silent": True}


def test_markers_of_a_type_come_first_and_agree_with_scanpy(trained):
    table = trained.differential_expression(groupby="cell_type", **CHANGE)
    assert set(table["group1"]) == set(trained.adata.obs["cell_type"]) and set(table["group2"]) == {"Rest"}
    assert len(table) == 3 * trained.adata.n_vars
    marks = trained.adata.var["marker_of"].astype(str)
    cells = trained.adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "cell_type", method="wilcoxon")
    for name, part in table.groupby("group1"):
        best = part.nlargest(5, "lfc_mean").index
        assert (marks[best] == name).mean() >= 0.8
        scanpys = sc.get.rank_genes_groups_df(cells, str(name))["names"].head(6)
        assert len(set(best) & set(scanpys)) >= 4


def test_columns_are_those_of_scvi(trained):
    adata = trained.adata.copy()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    reference = scvi.model.SCVI(adata, n_latent=2, n_hidden=4)
    reference.is_trained_ = True
    for mode in ("change", "vanilla"):
        options = {"groupby": "cell_type", "group1": ["type_0"], "group2": "type_1", "mode": mode, "silent": True}
        ours, theirs = trained.differential_expression(**options), reference.differential_expression(**options)
        assert list(ours) == list(theirs)
        for name in ("raw_mean1", "raw_mean2", "non_zeros_proportion1", "raw_normalized_mean2"):
            np.testing.assert_allclose(ours[name], theirs.loc[ours.index, name], rtol=1e-4, atol=1e-6)


def test_groups_default_to_the_clusters_and_nothing_is_written(trained):
    obs, names = trained.adata.obs, list(trained.adata.obs)
    table = trained.differential_expression(**CHANGE)
    assert set(table["group1"]) == {"0", "1", "2"}
    assert trained.adata.obs is obs and list(obs) == names
    labels = trained.predict().to_numpy()
    scvi.settings.seed = 0
    rows = trained.differential_expression(idx1=labels == "0", **CHANGE)
    scvi.settings.seed = 0
    again = trained.differential_expression(idx1=np.flatnonzero(labels == "0"), **CHANGE)
    pd.testing.assert_frame_equal(rows, again)
    with pytest.raises(ZeroDivisionError):
        with trained._grouped(trained.adata, trained.adata.obs, None, None) as column:
            assert column in trained.adata.obs
            raise ZeroDivisionError
    assert list(trained.adata.obs) == names


def test_batch_correction_decodes_every_cell_as_of_all_batches(trained, monkeypatch):
    asked = []
    decode = trained.get_normalized_expression
    monkeypatch.setattr(
        trained,
        "get_normalized_expression",
        lambda cells, rows, batch, **options: asked.append(batch) or decode(cells, rows, batch, **options),
    )
    trained.differential_expression(groupby="cell_type", group1="type_0", **CHANGE)
    assert asked == [None, None]
    asked.clear()
    trained.differential_expression(groupby="cell_type", group1="type_0", batch_correction=True, **CHANGE)
    assert sorted(asked) == ["batch_0", "batch_0", "batch_1", "batch_1"]


def test_raw_statistics_are_those_of_the_counts(trained):
    counts = trained.adata.X.toarray().astype(np.float64)
    first, second = np.arange(5), np.arange(7, 20)
    found = raw_statistics(trained.adata_manager, first, second)
    per_10000 = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["raw_mean1"], counts[first].mean(axis=0))
    np.testing.assert_allclose(found["non_zeros_proportion2"], (counts[second] > 0).mean(axis=0))
    np.testing.assert_allclose(found["raw_normalized_mean1"], per_10000[first].mean(axis=0))


def test_groups_that_do_not_exist(trained):
    with pytest.raises(KeyError, match="`groupby`: expected a column"):
        trained.differential_expression(groupby="nothing")
    for options in ({"group1": ["type_9"]}, {"group1": ["type_0"], "group2": "type_9"}):
        with pytest.raises(ValueError, match=r"expected groups among .* found \['type_9'\]"):
            trained.differential_expression(groupby="cell_type", **options)


def test_count_model_of_every_cell(trained):
    parameters = trained.get_likelihood_parameters()
    assert set(parameters) == {"mean", "dispersions"}
    assert all(values.shape == trained.adata.shape for values in parameters.values())
    np.testing.assert_allclose(
        parameters["mean"], trained.get_normalized_expression(library_size="latent"), rtol=1e-4, atol=1e-6
    )
    part = trained.get_likelihood_parameters(indices=[9, 1], batch_size=1)
    np.testing.assert_allclose(part["mean"], parameters["mean"][[9, 1]], rtol=1e-4, atol=1e-6)


def test_reconstruction_error_is_the_negative_log_likelihood(trained):
    parameters = trained.get_likelihood_parameters()
    model = scvi.distributions.NegativeBinomial(mu=tensor(parameters["mean"]), theta=tensor(parameters["dispersions"]))
    expected = -model.log_prob(tensor(trained.adata.X.toarray())).sum(dim=1).numpy()
    found = trained.get_reconstruction_error(return_mean=False)["reconstruction_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(trained.get_reconstruction_error()["reconstruction_loss"], expected.mean(), rtol=1e-3)


def test_draws_are_counts_around_the_mean(trained):
    genes = list(trained.adata.var_names[[4, 2]])
    scvi.settings.seed = 0
    draws = trained.posterior_predictive_sample(indices=[3, 8, 5], n_samples=400, gene_list=genes, batch_size=2)
    assert draws.shape == (3, 2, 400)
    drawn = draws.todense()
    assert np.array_equal(drawn, np.rint(drawn)) and drawn.min() >= 0
    parameters = trained.get_likelihood_parameters(indices=[3, 8, 5])
    mean, dispersion = parameters["mean"][:, [4, 2]], parameters["dispersions"][:, [4, 2]]
    spread = np.sqrt((mean + mean**2 / dispersion) / 400)
    assert (np.abs(drawn.mean(axis=2) - mean) < 5 * spread).all()
    assert trained.posterior_predictive_sample(indices=[3]).shape == (1, trained.adata.n_vars)
    with pytest.raises(ValueError, match="`n_samples`: expected at least 1"):
        trained.posterior_predictive_sample(n_samples=0)
