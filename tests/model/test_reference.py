"""Properties of a trained model do not change: names, numbers, masses, embedding, seed, frozen weights."""

import sys

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
from scvi.train import SaveCheckpoint

from scsiameseclu.datasets import synthetic
from scsiameseclu.metrics import clustering_metrics
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import _counts, _knn

CPU = {"accelerator": "cpu"}
SMALL = {"n_latent": 8, "n_hidden": 32}


def cells(n_obs=400, seed=0, n_batches=2):
    return synthetic(n_obs=n_obs, n_vars=80, n_types=4, n_batches=n_batches, seed=seed)


def bare(adata, rows=slice(None)):
    """The same cells as they would come from a file."""
    return ad.AnnData(adata.X[rows].copy(), obs=adata.obs[["batch", "cell_type"]].iloc[rows].copy(), var=adata.var[[]])


def fit(adata, quick, **train):
    SCSiameseClu.setup_anndata(adata, batch_key="batch")
    model = SCSiameseClu(adata, n_clusters=4, **SMALL)
    model.train(**{"max_epochs": 20, "batch_size": 64, **quick, **train})
    return model


@pytest.fixture(scope="module")
def reference():
    scvi.settings.seed = 0
    return fit(cells(), {"enable_progress_bar": False, **CPU})


def weights(model):
    return {name: value.detach().clone() for name, value in model.module.named_parameters()}


def changed(before, model):
    return {name for name, value in model.module.named_parameters() if not torch.equal(value.detach(), before[name])}


# -- clusters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfrozen", [False, True])
def test_a_query_of_one_type_keeps_its_one_cluster(reference, quick, unfrozen):
    labels = reference.predict()
    for name in labels.cat.categories[[0, -1]]:
        query = bare(reference.adata, np.flatnonzero(labels == name))
        query.obs["batch"] = "new"
        mapped = SCSiameseClu.load_query_data(query, reference, unfrozen=unfrozen, **CPU)
        assert (mapped.predict() == name).mean() > 0.95
        mapped.train(max_epochs=10, batch_size=32, **quick)
        assert (mapped.predict() == name).mean() > 0.95
        summary = mapped.get_cluster_summary()
        assert summary["marginal"].idxmax() == name
        assert summary.loc[name, "marginal"] > 0.9  # the composition of the query, not of the reference
    assert np.allclose(mapped.reference.cluster_masses, reference.reference.cluster_masses)


def test_clusters_of_a_query_are_not_numbered_by_its_sizes(reference, quick):
    labels = reference.predict()
    smallest = labels.cat.categories[-1]
    rows = np.concatenate([np.flatnonzero(labels == smallest), np.flatnonzero(labels != smallest)[:10]])
    mapped = SCSiameseClu.load_query_data(bare(reference.adata, rows), reference, unfrozen=True, **CPU)
    mapped.train(max_epochs=6, batch_size=32, **quick)
    assert (mapped.predict().to_numpy() == labels.to_numpy()[rows]).mean() > 0.9


def test_further_training_keeps_the_names_of_the_clusters(quick):
    adata = cells(seed=3)
    model = fit(adata, quick)
    before = model.predict()
    model.rename({"0": "zero"})
    # Cells of the largest cluster are left out, so that the order by size changes.
    rows = np.flatnonzero((before != "0").to_numpy() | (np.arange(len(before)) % 5 == 0))
    rest = np.setdiff1d(np.arange(adata.n_obs), rows)
    model.train(max_epochs=5, batch_size=64, datasplitter_kwargs={"external_indexing": [rows, rest[:0], rest]}, **quick)
    after = model.predict().cat.rename_categories({"zero": "0"})
    assert clustering_metrics(before, after)["ari"] > 0.8
    assert (before.to_numpy() == after.to_numpy()).mean() > 0.9
    assert list(model.predict(soft=True).columns) == ["zero", "1", "2", "3"]


def test_numbers_follow_the_cells_when_centres_change_places(quick):
    model = fit(cells(seed=4), quick)
    before = model.predict().to_numpy()
    head, order = model.module.head, torch.tensor([2, 0, 3, 1])

    class Swap(pytest.importorskip("lightning.pytorch").Callback):
        def on_train_end(self, trainer, pl_module):
            head.reorder(order)

    model.train(max_epochs=1, batch_size=64, callbacks=[Swap()], **quick)
    assert (model.predict().to_numpy() == before).mean() > 0.9


# -- freeze --------------------------------------------------------------------------------------------------------


def test_a_saved_query_model_stays_frozen(reference, quick, tmp_path):
    query = bare(reference.adata, slice(0, 120))
    query.obs["batch"] = ["new"] * 60 + ["batch_0"] * 60
    mapped = SCSiameseClu.load_query_data(query, reference, freeze_expression=False, **CPU)
    mapped.save(tmp_path / "mapped")
    loaded = SCSiameseClu.load(tmp_path / "mapped", adata=query.copy(), **CPU)
    start = weights(mapped)
    expected = mapped.predict(soft=True)
    for model in (mapped, loaded):
        scvi.settings.seed = 0
        model.train(max_epochs=2, batch_size=32, **quick)
    assert changed(start, loaded) == changed(start, mapped)
    assert "head.centers" not in changed(start, loaded)
    assert list(loaded.predict(soft=True).columns) == list(expected.columns)
    frozen = SCSiameseClu.load_query_data(query.copy(), reference, **CPU)
    frozen.save(tmp_path / "frozen")
    again = SCSiameseClu.load(tmp_path / "frozen", adata=query.copy(), **CPU)
    again.train(max_epochs=2, batch_size=32, **quick)
    assert len(changed(start, again)) == 3  # one column each of the two encoders and the decoder
    assert np.allclose(again.predict(soft=True)[60:], expected[60:], atol=1e-4)


def test_training_a_query_leaves_the_reference_as_it_was(reference, quick):
    before = weights(reference), reference.reference.to_state(), {k: len(v) for k, v in reference.history.items()}
    mapped = SCSiameseClu.load_query_data(bare(reference.adata, slice(0, 80)), reference, unfrozen=True, **CPU)
    mapped.train(max_epochs=2, **quick)
    mapped.rename({"0": "zero"})
    assert not changed(before[0], reference)
    assert {k: len(v) for k, v in reference.history.items()} == before[2]
    after = reference.reference.to_state()
    assert all(np.array_equal(after[name], value) for name, value in before[1].items())


def test_an_unfrozen_query_model_stays_unfrozen(reference, quick, tmp_path):
    query = bare(reference.adata, slice(0, 80))
    mapped = SCSiameseClu.load_query_data(query, reference, unfrozen=True, **CPU)
    mapped.save(tmp_path / "mapped")
    loaded = SCSiameseClu.load(tmp_path / "mapped", adata=query.copy(), **CPU)
    start = weights(loaded)
    loaded.train(max_epochs=1, **quick)
    assert "head.centers" in changed(start, loaded)


# -- embedding of the reference ------------------------------------------------------------------------------------


def test_checkpoints_of_further_training_know_their_own_embedding(quick, tmp_path):
    model = fit(cells(seed=5), quick)
    first = model.reference.latent
    checkpoint = SaveCheckpoint(tmp_path, monitor="validation_loss", save_top_k=-1)
    model.train(
        max_epochs=4,
        train_size=0.8,
        check_val_every_n_epoch=1,
        callbacks=[checkpoint],
        plan_kwargs={"lr": 0.01},
        **quick,
    )
    folders = sorted(folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert len(folders) == 4
    for folder in folders:
        loaded = SCSiameseClu.load(folder, adata=model.adata, **CPU)
        latent = loaded.get_latent_representation()
        assert np.allclose(loaded.reference.latent, latent, atol=1e-5)
        assert not np.allclose(loaded.reference.latent, first, atol=1e-3)
        score = loaded.get_out_of_reference_score()
        assert np.allclose(np.sort(score), np.arange(len(score)) / len(score), atol=0.02)


def test_saving_in_between_does_not_change_the_training(quick, tmp_path):
    states = []
    for callbacks in ([], [SaveCheckpoint(tmp_path, monitor="validation_loss", save_top_k=-1)]):
        scvi.settings.seed = 0
        model = fit(cells(120), quick, max_epochs=4)
        scvi.settings.seed = 1
        model.train(max_epochs=3, train_size=0.8, check_val_every_n_epoch=1, callbacks=callbacks, **quick)
        states.append(model.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- data ----------------------------------------------------------------------------------------------------------


def written(data):
    return {slot: set(getattr(data, slot).keys()) for slot in ("obs", "var", "obsm", "obsp", "uns", "layers")}


@pytest.mark.parametrize("kind", ["own", "copy", "query"])
def test_getters_write_nothing(reference, kind):
    data = {"own": reference.adata, "copy": reference.adata.copy(), "query": bare(reference.adata, slice(0, 30))}[kind]
    reference.predict(data[:1].copy())
    before = written(data)
    for getter in (
        reference.predict,
        reference.get_latent_representation,
        reference.get_normalized_expression,
        reference.get_out_of_reference_score,
        reference.get_cluster_summary,
    ):
        getter(data)
    after = written(data)
    of_scvi = {name for slot in ("obs", "uns") for name in after[slot] if name.startswith("_scvi")}
    assert {slot: names - of_scvi for slot, names in after.items()} == {
        slot: names - of_scvi for slot, names in before.items()
    }


def test_setting_up_and_training_write_nothing_and_writing_does(quick):
    adata = cells(120)
    before = written(adata)
    model = fit(adata, quick, max_epochs=1)
    assert not {name for slot, names in written(adata).items() for name in names - before[slot] if "_scvi" not in name}
    model.write_to_adata()
    assert {"siamese_clu_neighbors", "siamese_clu"} < set(adata.uns)
    assert {"siamese_clu_connectivities", "siamese_clu_distances"} <= set(adata.obsp)


@pytest.fixture
def read_rows(monkeypatch):
    """Record the number of rows of counts that are read anywhere."""
    found = []
    original = _counts.row_chunks

    def counting(counts, *args, **options):
        for places, block in original(counts, *args, **options):
            found.append(block.shape[0])
            yield places, block

    for name, module in list(sys.modules.items()):
        if name.startswith("scsiameseclu") and getattr(module, "row_chunks", None) is original:
            monkeypatch.setattr(module, "row_chunks", counting)
    return found


def test_counts_are_read_once_on_loading_and_where_asked_for_afterwards(reference, read_rows, tmp_path):
    reference.save(tmp_path / "model")
    assert not read_rows
    own, query = bare(reference.adata), bare(reference.adata, slice(0, 50))
    loaded = SCSiameseClu.load(tmp_path / "model", adata=own, **CPU)
    assert sum(read_rows) == own.n_obs
    for model in (loaded, reference):
        del read_rows[:]
        model.predict(indices=[0])
        assert sum(read_rows) == 1
    del read_rows[:]
    loaded.predict(query)
    assert sum(read_rows) == query.n_obs
    mapped = SCSiameseClu.load_query_data(query.copy(), reference, **CPU)
    del read_rows[:]
    mapped.predict(indices=[3, 4])
    assert sum(read_rows) == 2


def test_two_models_on_one_object_keep_what_they_read(quick, monkeypatch):
    adata = cells(120)
    first = fit(adata, quick, max_epochs=1)
    SCSiameseClu.setup_anndata(adata, n_neighbors=7)
    second = SCSiameseClu(adata, n_clusters=3, **SMALL)
    second.train(max_epochs=1, **quick)
    expected = [model.predict(soft=True) for model in (first, second)]

    def refuse(*_, **__):
        raise AssertionError("neighbours were searched again")

    monkeypatch.setattr(_knn, "search_exact", refuse)
    for _ in range(2):
        for model, soft in zip((first, second), expected, strict=True):
            assert np.array_equal(model.predict(soft=True), soft)


def test_the_data_of_a_model_are_its_reference_or_a_query(reference, tmp_path):
    reference.save(tmp_path / "model")
    assert not reference.is_query_
    assert not SCSiameseClu.load(tmp_path / "model", adata=bare(reference.adata), **CPU).is_query_
    for rows in (slice(0, 100), slice(None, None, -1)):
        other = SCSiameseClu.load(tmp_path / "model", adata=bare(reference.adata, rows), **CPU)
        assert other.is_query_
        other.save(tmp_path / "other", overwrite=True)
        assert SCSiameseClu.load(tmp_path / "other", adata=False, **CPU).is_query_
    assert SCSiameseClu.load_query_data(bare(reference.adata, slice(0, 9)), reference, **CPU).is_query_


@pytest.mark.parametrize("n_kept", [0, 50, 10_000])
def test_landmarks_can_be_left_out_of_the_file(reference, tmp_path, n_kept):
    expected = reference.predict(soft=True)
    reference.save(tmp_path / "model", landmarks=n_kept)
    assert len(reference.reference.landmarks) == len(reference.reference.latent) == 400
    loaded = SCSiameseClu.load(tmp_path / "model", adata=False, **CPU)
    assert len(loaded.reference.landmarks) == len(loaded.reference.latent) == min(n_kept, 400)
    own = SCSiameseClu.load(tmp_path / "model", adata=bare(reference.adata), **CPU)
    assert np.allclose(own.predict(soft=True), expected, atol=1e-5)
    query = bare(reference.adata, slice(0, 60))
    agreement = (loaded.predict(query).to_numpy() == reference.predict().to_numpy()[:60]).mean()
    assert agreement > (0.9 if n_kept else 0.5)
    if n_kept:
        assert loaded.get_out_of_reference_score(query).between(0, 1).all()
    else:
        with pytest.raises(RuntimeError, match="found a model without it"):
            loaded.get_out_of_reference_score(query)
        with pytest.raises(RuntimeError, match="saved without"):
            own.cut(n_clusters=2)
    own.save(tmp_path / "again")  # landmarks that were left out do not come back
    again = SCSiameseClu.load(tmp_path / "again", adata=False, **CPU)
    assert len(again.reference.landmarks) == len(again.reference.latent) == min(n_kept, 400)
    k = reference.summary_stats.n_neighbors
    for too_few in (-1, 1, k):
        with pytest.raises(ValueError, match=f"expected 0 or a number above {k}, .*found {too_few}"):
            reference.save(tmp_path / "other", landmarks=too_few)


# -- records -------------------------------------------------------------------------------------------------------


def test_the_seed_is_that_of_training(quick, tmp_path):
    scvi.settings.seed = 7
    model = fit(cells(100), quick, max_epochs=1)
    scvi.settings.seed = 8
    model.write_to_adata()
    assert model.adata.uns["siamese_clu"]["params"]["seed"] == 7
    model.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=model.adata.copy(), **CPU)
    assert loaded.reference.seed == 7


def test_a_reference_is_plain_and_survives_the_file(reference, tmp_path):
    reference.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=False, **CPU).reference
    own = reference.reference
    assert loaded.cluster_names == own.cluster_names == ("0", "1", "2", "3")
    assert loaded.categories == {"batch": ("batch_0", "batch_1")}
    assert (loaded.data_digest, loaded.weights_digest) == (own.data_digest, own.weights_digest)
    assert np.array_equal(loaded.latent, own.latent)
    assert loaded.landmarks.digest == own.landmarks.digest
    assert loaded.cluster_masses.sum() == pytest.approx(1.0)
    plain = (int, str, list, dict, np.ndarray, type(None))
    assert all(isinstance(value, plain) for value in own.to_state().values())
    with pytest.raises(AttributeError):
        own.seed = 3
