import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.tl._map import _warn_of_unlike_cells

SHORT = {"max_epochs": 6, "accelerator": "cpu", "enable_progress_bar": False}
WRITTEN = {"siamese_clu", "siamese_clu_confidence", "siamese_clu_out_of_reference"}


@pytest.fixture(scope="module")
def model() -> SCSiameseClu:
    scvi.settings.seed = 0
    adata = synthetic(n_obs=200, n_vars=60, n_types=3, n_batches=2)
    return tl.cluster(adata, 3, batch_key="batch", n_neighbors=8, train_kwargs=SHORT, model_kwargs={"n_hidden": 32})


def new_cells(**options) -> AnnData:
    return synthetic(n_obs=50, n_vars=60, n_types=3, n_batches=2, seed=1, **options)


@pytest.mark.parametrize("genes", [slice(None), slice(None, None, -1)], ids=["genes of the model", "another order"])
def test_results_are_the_models_and_nothing_else_is_written(model, genes):
    query = new_cells()[:, genes].copy()
    before = query.copy()
    mapped = tl.map(query, model)
    assert set(query.obs) - set(before.obs) == WRITTEN
    assert set(query.obsm) == {"X_siamese_clu", "siamese_clu_probs"} and set(query.uns) == {"siamese_clu"}
    assert not query.obsp and query.var_names.equals(before.var_names) and (query.X != before.X).nnz == 0
    assert mapped.adata is not query
    score = mapped.get_out_of_reference_score()
    np.testing.assert_allclose(query.obs["siamese_clu_out_of_reference"], score, atol=1e-6)
    expected = mapped.predict(max_out_of_reference=0.95)
    assert (query.obs["siamese_clu"].astype(str) == expected.astype(str)).all()
    np.testing.assert_allclose(query.obs["siamese_clu_confidence"], mapped.predict(soft=True).max(axis=1), atol=1e-6)


@pytest.mark.parametrize("genes", [slice(None), slice(None, None, -1), slice(5, None)], ids=["same", "order", "fewer"])
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_that_share_a_name_are_not_mixed_up(model, genes):
    named = new_cells()[:, genes].copy()
    query = named.copy()
    query.obs_names = ["same", "same", *named.obs_names[:1], *named.obs_names[3:]]
    mapped = tl.map(query, model)
    tl.map(named, model)
    assert list(query.obs_names[:3]) == ["same", "same", named.obs_names[0]]
    np.testing.assert_array_equal(query.obsm["X_siamese_clu"], named.obsm["X_siamese_clu"])
    for column in WRITTEN:
        np.testing.assert_array_equal(query.obs[column], named.obs[column])
    assert list(mapped.adata.obs_names) == list(mapped.predict().index) == list(query.obs_names)


def test_cells_beyond_a_limit_are_unassigned(model):
    query = new_cells()
    tl.map(query, model, max_out_of_reference=0.5, key_added="near")
    beyond = query.obs["near_out_of_reference"] > 0.5
    assert 0 < beyond.sum() < query.n_obs
    assert ((query.obs["near"] == "unassigned") == beyond).all()
    assert query.obs["near"].cat.categories[-1] == "unassigned"
    assert query.uns["near"]["n_unassigned"] == beyond.sum()
    tl.map(query, model, max_out_of_reference=None, key_added="all")
    assert (
        "unassigned" not in set(query.obs["all"])
        and (~beyond).sum() == (query.obs["all"].astype(str) == query.obs["near"].astype(str)).sum()
    )
    limit = float(query.obs["all_confidence"].median())
    tl.map(query, model, max_out_of_reference=None, min_confidence=limit, key_added="sure")
    assert ((query.obs["sure"] == "unassigned") == (query.obs["all_confidence"] < limit)).all()


def test_counts_in_a_layer_and_a_saved_model(tmp_path):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=80, n_vars=40, n_types=2)
    adata.layers["counts"] = adata.X
    adata.X = None
    model = tl.cluster(adata, 2, layer="counts", n_neighbors=5, train_kwargs={**SHORT, "max_epochs": 2})
    model.save(tmp_path / "model")
    query = adata[:30].copy()
    for column in list(query.obs):
        del query.obs[column]
    for slot in (query.obsm, query.obsp, query.uns):
        slot.clear()
    tl.map(query, tmp_path / "model", max_out_of_reference=None)
    assert set(query.obs) == WRITTEN and list(query.layers) == ["counts"]


def test_cells_with_hardly_a_gene_of_the_model_are_refused_unless_wanted(model):
    query = new_cells()
    query.var_names = [name if i < 6 else f"other_{i}" for i, name in enumerate(query.var_names)]
    with pytest.raises(ValueError, match=r"at least 50% of the model's 60 genes .* found 6 \(10.0%\)"):
        tl.map(query, model)
    with pytest.raises(ValueError, match="lower min_gene_share"):
        SCSiameseClu.load_query_data(query, model)
    assert WRITTEN.isdisjoint(query.obs)
    tl.map(query, model, min_gene_share=0.1)
    assert set(query.obs) >= WRITTEN


def test_arguments_that_cannot_be_meant(model):
    for limits in ({"max_out_of_reference": 1.5}, {"min_confidence": -1}, {"min_gene_share": 2}):
        with pytest.raises(ValueError, match=f"`{next(iter(limits))}`: expected a number between 0 and 1"):
            tl.map(new_cells()[:, ::-1].copy(), model, **limits)
    query = new_cells()
    query.obs["mine"] = "x"
    with pytest.raises(ValueError, match="would replace"):
        tl.map(query, model, key_added="mine")


@pytest.mark.parametrize(("share", "is_said"), [(0.15, False), (0.17, True)])
def test_many_cells_unlike_the_reference_are_spoken_of(caplog, share, is_said):
    score = pd.Series(np.linspace(0, 0.9, 200))
    score[: int(200 * share)] = 0.96
    _warn_of_unlike_cells(score)
    assert ("17 % of the cells" in caplog.text) == is_said
    caplog.clear()
    _warn_of_unlike_cells(score[:50])
    _warn_of_unlike_cells(None)
    assert not caplog.text


def test_a_query_of_other_cells_is_spoken_of(model, caplog):
    others = synthetic(n_obs=120, n_vars=60, n_types=4, n_batches=2, seed=77)
    tl.map(others, model)
    share = (others.obs["siamese_clu_out_of_reference"] > 0.95).mean()
    assert ("instead of about 5 %" in caplog.text) == (share > 0.15)


def test_embeddings_of_two_models_are_told_apart(model):
    reference, query = model.adata.copy(), new_cells()
    reference.obs["known"] = reference.obs["cell_type"].astype(str)
    tl.map(query, model, max_out_of_reference=None)
    probabilities = tl.classify(query, "known", reference=reference)
    assert len(probabilities) == query.n_obs
    scvi.settings.seed = 1
    tl.cluster(reference, 3, batch_key="batch", n_neighbors=8, train_kwargs=SHORT, model_kwargs={"n_hidden": 32})
    with pytest.raises(ValueError, match="another model embedded the reference"):
        tl.classify(query, "known", reference=reference)
    del reference.uns["siamese_clu"]["params"]["embedding"]  # results of earlier versions have no such entry
    tl.classify(query, "known", reference=reference)
