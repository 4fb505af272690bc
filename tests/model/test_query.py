import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.metrics import clustering_metrics
from scsiameseclu.model import SCSiameseClu

CPU = {"accelerator": "cpu"}


def make(n_obs, seed=1, **options):
    return synthetic(n_obs=n_obs, n_vars=80, n_types=3, n_batches=2, seed=seed, **options)


def without_setup(adata, rows=slice(None)):
    """The same cells as they would come from a file: counts and annotation only."""
    return ad.AnnData(adata.X[rows].copy(), obs=adata.obs[["batch", "cell_type"]].iloc[rows].copy(), var=adata.var[[]])


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "model"
    trained.save(folder)
    return folder


@pytest.fixture(scope="module")
def latent(trained):
    return trained.get_latent_representation()


@pytest.mark.parametrize(
    "rows", [slice(None), slice(0, 50), [7], np.arange(199, 0, -3)], ids=["all", "some", "one", "mixed"]
)
def test_reference_cells_passed_again_keep_their_embedding(trained, latent, rows):
    mapped = SCSiameseClu.load_query_data(without_setup(trained.adata, rows), trained, **CPU)
    assert np.abs(mapped.get_latent_representation() - latent[rows]).max() < 1e-3


def test_held_out_cells_are_mapped_as_well_as_trained_ones(quick, small):
    adata = synthetic(n_obs=400, n_vars=80, n_types=3, n_batches=2, seed=0, batch_effect=0.3)
    held_out = np.random.default_rng(0).random(400) < 0.2
    reference, query = without_setup(adata, ~held_out), without_setup(adata, held_out)
    SCSiameseClu.setup_anndata(reference, batch_key="batch")
    model = SCSiameseClu(reference, n_clusters=3, **small)
    model.train(max_epochs=40, batch_size=64, **quick)
    mapped = SCSiameseClu.load_query_data(query, model, **CPU)
    ari = [clustering_metrics(a.obs["cell_type"], m.predict())["ari"] for a, m in ((reference, model), (query, mapped))]
    assert ari[0] > 0.9
    assert ari[1] > ari[0] - 0.05


def test_a_cell_is_mapped_the_same_in_any_company(trained):
    query = make(40)
    together = SCSiameseClu.load_query_data(query.copy(), trained, **CPU).get_latent_representation()
    few = SCSiameseClu.load_query_data(query[[30, 2]].copy(), trained, **CPU).get_latent_representation()
    assert np.allclose(few, together[[30, 2]], atol=1e-5)


@pytest.mark.parametrize("source", ["model", "folder", "text"])
def test_new_batches_are_predicted_at_once_from_model_or_folder(trained, saved, source):
    query = without_setup(trained.adata, slice(0, 60))
    query.obs["batch"] = ["batch_0"] * 20 + ["new"] * 20 + ["newer"] * 20
    reference = {"model": trained, "folder": saved, "text": str(saved)}[source]
    mapped = SCSiameseClu.load_query_data(query, reference, **CPU)
    assert mapped.is_trained
    assert (mapped.predict().to_numpy() == trained.predict().to_numpy()[:60]).mean() > 0.95
    assert mapped.summary_stats.n_batch == 4


def test_new_batches_have_no_offsets_and_known_ones_keep_theirs(trained):
    known = trained.module.expression_scaler.offset
    assert known.abs().max() > 0
    query = without_setup(trained.adata, slice(0, 60))
    query.obs["batch"] = ["new"] * 30 + ["newer"] * 30
    offsets = SCSiameseClu.load_query_data(query, trained, **CPU).module.expression_scaler.offset
    assert torch.equal(offsets[:, :2], known)
    assert not offsets[:, 2:].any()


def test_mapping_is_part_of_the_file_of_the_query_model(trained, tmp_path):
    query = make(30)
    query.obs["batch"] = "new"
    mapped = SCSiameseClu.load_query_data(query, trained, **CPU)
    mapped.save(tmp_path / "mapped")
    loaded = SCSiameseClu.load(tmp_path / "mapped", adata=query.copy(), **CPU)
    assert np.allclose(loaded.predict(soft=True), mapped.predict(soft=True), atol=1e-5)
    again = SCSiameseClu.load_query_data(make(20, seed=2), mapped, **CPU)
    direct = SCSiameseClu.load_query_data(make(20, seed=2), trained, **CPU)
    assert np.allclose(again.predict(soft=True), direct.predict(soft=True), atol=1e-5)


def test_a_query_is_diffused_as_its_reference_was(quick, small, tmp_path):
    cells = make(90)
    reference, query = without_setup(cells, slice(0, 60)), without_setup(cells, slice(60, 90))
    SCSiameseClu.setup_anndata(reference, batch_key="batch", diffusion=True)
    model = SCSiameseClu(reference, n_clusters=2, **small)
    model.train(max_epochs=1, **quick)
    model.write_to_adata()
    assert reference.uns["siamese_clu"]["params"]["diffusion"]
    model.save(tmp_path / "model")
    mapped = SCSiameseClu.load_query_data(query, tmp_path / "model", **CPU)
    assert SIAMESE_KEYS.DIFFUSED_INDEX in mapped.adata_manager.data_registry
    mapped.train(max_epochs=1, **quick)
    assert len(mapped.predict()) == 30


# -- genes ---------------------------------------------------------------------------------------------------------


def test_genes_are_matched_by_name(trained, latent):
    query = without_setup(trained.adata, slice(0, 60))
    more = query[:, np.random.default_rng(0).permutation(80)].copy()
    more = ad.AnnData(
        sparse.hstack([more.X, sparse.csr_matrix(np.ones((60, 2), dtype=np.float32))]).tocsr(),
        obs=more.obs,
        var=pd.DataFrame(index=[*more.var_names, "unknown_1", "unknown_2"]),
    )
    mapped = SCSiameseClu.load_query_data(more, trained, **CPU)
    assert np.abs(mapped.get_latent_representation() - latent[:60]).max() < 1e-3
    assert more.n_vars == 82  # the caller's object is not changed
    assert list(mapped.adata.var_names) == list(trained.adata.var_names)


def test_missing_genes_are_unobserved(trained):
    counts = np.asarray(trained.adata.X.sum(axis=0)).ravel()
    query = without_setup(trained.adata, slice(0, 60))[:, np.sort(np.argsort(counts)[8:])].copy()
    mapped = SCSiameseClu.load_query_data(query, trained, inplace_subset_query_vars=True, **CPU)
    assert mapped.adata is query
    assert query.n_vars == 80
    assert (mapped.predict().to_numpy() == trained.predict().to_numpy()[:60]).mean() > 0.8


def test_counts_of_a_query_can_stay_on_disk(trained, latent, tmp_path):
    query = without_setup(trained.adata, slice(0, 60))
    query.write_h5ad(tmp_path / "query.h5ad")
    query[:, ::-1].write_h5ad(tmp_path / "other.h5ad")
    mapped = SCSiameseClu.load_query_data(ad.read_h5ad(tmp_path / "query.h5ad", backed="r"), trained, **CPU)
    assert np.abs(mapped.get_latent_representation() - latent[:60]).max() < 1e-3
    with pytest.raises(NotImplementedError, match="to_memory"):
        SCSiameseClu.load_query_data(ad.read_h5ad(tmp_path / "other.h5ad", backed="r"), trained, **CPU)


def test_queries_that_cannot_be_mapped(trained):
    def refused(query, error, message):
        with pytest.raises(error, match=message):
            SCSiameseClu.load_query_data(query, trained, **CPU)

    query = make(20)
    query.var_names = [f"other_{i}" for i in range(80)]
    refused(query, ValueError, "found none of them")
    query = make(20)
    query.var_names = ["gene", *query.var_names[1:-1], "gene"]
    refused(query, ValueError, "unique gene names")
    query = make(20)
    query.obs["batch"] = query.obs["batch"].astype(object)
    query.obs.iloc[3, query.obs.columns.get_loc("batch")] = np.nan
    refused(query, ValueError, "batch for every cell, found 1 missing")
    query = make(20)
    del query.obs["batch"]
    refused(query, KeyError, "found 'batch'")
    query = make(20)
    query.obs["batch"] = 7
    refused(query, TypeError, r"found \[7\] where the model's data have")
    refused(make(20)[:0].copy(), ValueError, "at least one cell")
    refused(query.X, TypeError, "found csr_matrix")
    with pytest.raises(TypeError, match="found int"):
        SCSiameseClu.load_query_data(make(20), 5, **CPU)


# -- training ------------------------------------------------------------------------------------------------------


def changed_columns(before, module):
    """Changed parameters, with the columns of the changed weight matrices."""
    changed = {}
    for name, value in module.named_parameters():
        differs = value.detach() != before[name]
        if differs.any():
            changed[name] = set(differs.any(dim=0).nonzero().ravel().tolist()) if value.dim() == 2 else None
    return changed


def test_training_moves_the_weights_of_new_batches_only(quick, small):
    adata = make(120, seed=0)
    adata.obs["donor"] = np.where(np.arange(120) % 3, "x", "y")
    adata.obs["age"] = np.linspace(-1, 1, 120)
    covariates = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    SCSiameseClu.setup_anndata(adata, batch_key="batch", **covariates)
    model = SCSiameseClu(adata, n_clusters=3, dispersion="gene-batch", **small)
    model.train(max_epochs=4, **quick)
    expected = model.predict(soft=True)

    query = adata[:60].copy()
    query.obs["batch"] = [*adata.obs["batch"][:30], *["new"] * 30]
    mapped = SCSiameseClu.load_query_data(query, model, **CPU)
    # The weights of the second covariate follow those of the batches and have moved with them.
    assert np.allclose(mapped.predict(soft=True)[:30], expected[:30], atol=1e-4)
    before = {name: value.detach().clone() for name, value in mapped.module.named_parameters()}
    mapped.train(max_epochs=2, **quick)
    # Columns: the input, one continuous covariate, three batches, two donors.
    inputs = {"expression_encoder.hidden": 80, "graph_encoder.hidden": mapped.module.graph_encoder.scaler.mean.numel()}
    changed = changed_columns(before, mapped.module)
    for name, n_in in inputs.items():
        assert changed.pop(f"{name}.fc_layers.Layer 0.0.weight") == {n_in + 1 + 2}
    assert changed == {"decoder.px_decoder.fc_layers.Layer 0.0.weight": {8 + 1 + 2}}
    assert np.allclose(mapped.predict(soft=True)[:30], expected[:30], atol=1e-4)
    assert mapped.is_trained


def test_everything_moves_when_unfrozen(trained, quick):
    query = make(60)
    query.obs["batch"] = "new"
    mapped = SCSiameseClu.load_query_data(query, trained, unfrozen=True, **CPU)
    before = {name: value.detach().clone() for name, value in mapped.module.named_parameters()}
    mapped.train(max_epochs=1, **quick)
    assert "head.centers" in changed_columns(before, mapped.module)


def test_a_first_batch_label_changes_nothing_for_the_reference(small, quick):
    adata = synthetic(n_obs=100, n_vars=40, n_types=3, seed=0)
    adata.obs["batch"] = "only"
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=3, **quick)
    query = adata[:40].copy()
    query.obs["batch"] = ["only"] * 20 + ["new"] * 20
    mapped = SCSiameseClu.load_query_data(query, model, **CPU)
    assert np.allclose(mapped.predict(soft=True), model.predict(soft=True)[:40], atol=1e-4)


def test_untrained_references_stay_untrained(setup_adata, small):
    mapped = SCSiameseClu.load_query_data(make(20), SCSiameseClu(setup_adata, n_clusters=3, **small), **CPU)
    assert not mapped.is_trained
    with pytest.raises(RuntimeError, match="call model.train"):
        mapped.predict()


# -- unlike the reference ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_new_type(quick, small):
    """Model of three types, and a query with a fourth."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=800, n_vars=400, n_types=4, seed=1)
    is_new = (adata.obs["cell_type"] == adata.obs["cell_type"].cat.categories[3]).to_numpy()
    reference, query = adata[:600][~is_new[:600]].copy(), adata[600:].copy()
    SCSiameseClu.setup_anndata(reference)
    model = SCSiameseClu(reference, n_clusters=3, **small)
    model.train(max_epochs=20, batch_size=64, **quick)
    return SCSiameseClu.load_query_data(query, model, **CPU), is_new[600:], model


def test_cells_of_a_new_type_score_high(with_new_type):
    mapped, is_new, model = with_new_type
    score = mapped.get_out_of_reference_score()
    assert score.dtype == np.float32
    assert list(score.index) == list(mapped.adata.obs_names)
    assert score.between(0, 1).all()
    assert roc_auc_score(is_new, score) > 0.9
    assert score[~is_new].median() < 0.75
    assert np.allclose(mapped.get_out_of_reference_score(indices=[9, 4]), score.iloc[[9, 4]])
    own = np.sort(model.get_out_of_reference_score())
    assert np.allclose(own, np.arange(len(own)) / len(own), atol=0.02)


def test_cells_can_be_left_unassigned(with_new_type):
    mapped, is_new, _ = with_new_type
    labels, score, probs = mapped.predict(), mapped.get_out_of_reference_score(), mapped.predict(soft=True)
    strict = mapped.predict(max_out_of_reference=0.95, unassigned_label="new")
    assert list(strict.cat.categories) == ["0", "1", "2", "new"]
    assert np.array_equal(strict == "new", score > 0.95)
    assert (strict[score <= 0.95].astype(str) == labels[score <= 0.95].astype(str)).all()
    assert (strict == "new")[is_new].mean() > (strict == "new")[~is_new].mean() + 0.3
    sure = mapped.predict(min_confidence=0.9)
    assert np.array_equal(sure == "unassigned", probs.max(axis=1) < 0.9)
    assert "unassigned" not in labels.cat.categories
    with pytest.raises(ValueError, match="between 0 and 1"):
        mapped.predict(min_confidence=2)
    with pytest.raises(ValueError, match="soft=False"):
        mapped.predict(soft=True, min_confidence=0.5)
    with pytest.raises(ValueError, match="a name that no cluster has"):
        mapped.predict(min_confidence=0.5, unassigned_label="1")


def test_scores_of_new_batches_and_after_adapting(trained, quick):
    new = make(30)
    score = trained.get_out_of_reference_score(new.copy())
    new.obs["batch"] = ["batch_0"] * 15 + ["new"] * 15
    new.obs["batch"] = new.obs["batch"].astype("category")
    mapped = SCSiameseClu.load_query_data(new.copy(), trained, **CPU)
    before = mapped.get_out_of_reference_score()
    assert before.between(0, 1).all()
    mapped.train(max_epochs=1, **quick)
    assert np.allclose(mapped.get_out_of_reference_score()[:15], before[:15], atol=0.011)
    assert score.between(0, 1).all()
    moved = SCSiameseClu.load_query_data(new, trained, unfrozen=True, **CPU)
    moved.train(max_epochs=1, **quick)
    with pytest.raises(RuntimeError, match="unfrozen=True"):
        moved.get_out_of_reference_score()


def test_scores_need_a_trained_model(setup_adata, small):
    with pytest.raises(RuntimeError, match="Expected a trained model"):
        SCSiameseClu(setup_adata, n_clusters=3, **small).predict(max_out_of_reference=0.5)


@pytest.mark.parametrize(
    "genes", [slice(None), slice(None, None, -1), slice(1, None)], ids=["same", "reversed", "one less"]
)
def test_counts_in_a_layer_and_no_x(quick, small, genes):
    def in_layer(adata):
        adata.layers["counts"] = adata.X.copy()
        adata.X = None
        return adata

    reference = in_layer(make(120))
    SCSiameseClu.setup_anndata(reference, layer="counts")
    model = SCSiameseClu(reference, n_clusters=3, **small)
    model.train(max_epochs=2, **quick)
    query = make(40, seed=2)[:, genes].copy()
    filled = query.copy()
    filled.layers["counts"] = filled.X
    expected = SCSiameseClu.load_query_data(filled, model, accelerator="cpu").predict(soft=True)
    mapped = SCSiameseClu.load_query_data(in_layer(query.copy()), model, accelerator="cpu")
    assert np.allclose(mapped.predict(soft=True), expected, atol=1e-5)
    assert mapped.adata.X is None and mapped.adata.var_names.equals(reference.var_names)
    if genes == slice(1, None):
        assert mapped.adata[:, reference.var_names[0]].layers["counts"].sum() == 0
    changed = in_layer(query.copy())
    SCSiameseClu.prepare_query_anndata(changed, model)
    assert changed.X is None and changed.var_names.equals(reference.var_names)
