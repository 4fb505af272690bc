"""Another number of clusters after training."""

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.partition._hierarchy import from_state

CPU = {"accelerator": "cpu"}


@pytest.fixture(scope="module")
def folder(small, quick, tmp_path_factory):
    """Folder in which a model of four types is saved with its data."""
    scvi.settings.seed = 0
    adata = synthetic(n_obs=300, n_vars=100, n_types=4, proportions=[4, 3, 2, 1], seed=0)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=4, **small)
    model.train(max_epochs=60, batch_size=64, **quick)
    path = tmp_path_factory.mktemp("granularity") / "model"
    model.save(path, save_anndata=True)
    return path


@pytest.fixture
def model(folder):
    return SCSiameseClu.load(folder, **CPU)


def groups_of(model):
    hierarchy = from_state(model.cluster_tree_)
    z = model.reference.latent
    import torch

    return hierarchy, hierarchy.assign(z, model._trained_probabilities(torch.as_tensor(z)).argmax(axis=1))


def builtins_only(value):
    if isinstance(value, dict):
        return all(type(key) is str and builtins_only(part) for key, part in value.items())
    if isinstance(value, list):
        return all(builtins_only(part) for part in value)
    return value is None or type(value) in (int, float, str)


@pytest.mark.parametrize("n_clusters", [1, 3, 4, 5])
def test_a_cut_keeps_the_names_of_the_clusters_it_leaves_as_they_are(model, caplog, n_clusters):
    model.rename({"0": "first", "1": "second", "3": "fourth"})  # not the third
    before, old = model.predict(), np.asarray(model.cluster_tree_["current"])
    model.cut(n_clusters)
    after, new = model.predict(), np.asarray(model.cluster_tree_["current"])
    names, kept = list(after.cat.categories), set()
    for number, name in enumerate(names):
        same = [former for former in range(4) if ((old == former) == (new == number)).all()]
        expected = before.cat.categories[same[0]] if same else ""
        if expected in ("first", "second", "fourth"):
            assert name == expected
            kept.add(name)
        else:
            assert name == str(number)
    assert bool(kept) == (n_clusters > 1) and (len(kept) == 3) >= (n_clusters == 4)
    dropped = [name for name in ("first", "second", "fourth") if name not in kept]
    assert ("names are dropped" in caplog.text) == bool(dropped)
    assert not dropped or f"Clusters {dropped} are" in caplog.text


def test_training_leaves_a_tree(model):
    tree = model.cluster_tree_
    assert builtins_only(tree)
    frame = pd.DataFrame(tree["splits"])
    assert {"left", "right", "n_left", "n_right", "separability", "p_value", "genes"} <= set(frame)
    assert (frame["p_value"][:3] <= 0.05).all()
    assert frame["n_left"][0] + frame["n_right"][0] == 300
    hierarchy, groups = groups_of(model)
    assert adjusted_rand_score(model.predict(), hierarchy.cut(4)[groups]) == 1.0


def test_genes_of_a_split_are_markers_in_the_right_direction(model):
    marker_of = model.adata.var["marker_of"].astype(str)
    hierarchy, groups = groups_of(model)
    types = model.adata.obs["cell_type"].astype(str).to_numpy()
    for split in model.cluster_tree_["splits"][:3]:
        sides = [types[np.isin(groups, hierarchy.members(split[side]))] for side in ("left", "right")]
        share = {name: [(side == name).mean() for side in sides] for name in np.unique(types)}
        assert len(split["genes"]) == 10
        for gene, difference in list(split["genes"].items())[:5]:
            left, right = share[marker_of[gene]]
            assert (left > right) == (difference > 0)


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 4, 5, 6])
def test_the_head_follows_a_cut(model, n_clusters):
    hierarchy, groups = groups_of(model)
    model.cut(n_clusters=n_clusters)
    assert model.n_clusters == n_clusters
    hard, soft = model.predict(), model.predict(soft=True)
    assert adjusted_rand_score(hierarchy.cut(n_clusters)[groups], hard) > 0.9
    names = [str(number) for number in range(n_clusters)]
    assert list(soft.columns) == names and list(hard.cat.categories) == names
    assert np.allclose(soft.sum(axis=1), 1.0, atol=1e-5)
    summary = model.get_cluster_summary()
    assert (summary["size"] == hard.value_counts(sort=False)).all()
    assert np.abs(summary["marginal"] - summary["proportion"]).max() < 0.05
    model.write_to_adata()
    assert (model.adata.obs["siamese_clu"].astype(str) == hard.astype(str)).all()
    assert model.adata.obsm["siamese_clu_probs"].shape == (300, n_clusters)


def test_a_cut_at_what_was_trained_brings_it_back(model):
    before = model.predict(soft=True)
    latent = model.get_latent_representation()
    model.cut(n_clusters=2)
    model.cut(n_clusters=6)
    model.cut(n_clusters=4)
    after = model.predict(soft=True)
    assert np.allclose(np.sort(after), np.sort(before), atol=1e-5)
    assert np.array_equal(model.get_latent_representation(), latent)
    sizes = model.predict().value_counts(sort=False)
    assert (sizes.diff().dropna() <= 0).all()


def test_significant_splits_are_kept(model):
    model.cut(n_clusters=8)
    model.cut(significance=0.05)
    assert model.n_clusters == 4
    assert adjusted_rand_score(model.adata.obs["cell_type"], model.predict()) > 0.9
    model.cut(significance=0.0)
    assert model.n_clusters == 1


def test_one_population_becomes_one_cluster(small, quick):
    adata = synthetic(n_obs=300, n_vars=100, n_types=1, seed=1)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=3, **small)
    model.train(max_epochs=30, batch_size=64, **quick)
    model.cut(significance=0.05)
    assert model.n_clusters == 1
    assert (model.predict() == "0").all() and (model.predict(soft=True) == 1.0).all(axis=None)


def test_split_and_merge_change_nothing_else(model):
    before = model.predict().astype(str)
    model.split("1")
    split = model.predict().astype(str)
    assert list(model.predict().cat.categories) == ["0", "1", "2", "3", "4"]
    assert (split[before == "1"].isin(["1", "4"])).mean() > 0.95
    assert (split[before != "1"] == before[before != "1"]).mean() > 0.95
    sizes = split.value_counts()
    assert sizes["1"] >= sizes["4"] > 0
    model.merge(["4", "1"])
    assert (model.predict().astype(str) == before).mean() > 0.95
    model.merge(["3", "2"])
    merged = model.predict().astype(str)
    assert list(model.predict(soft=True).columns) == ["0", "1", "2"]
    assert (merged[before.isin(["2", "3"])] == "2").mean() > 0.95
    assert (merged[before.isin(["0", "1"])] == before[before.isin(["0", "1"])]).mean() > 0.95


def test_names_last(model, tmp_path):
    model.rename({"0": "T", "2": "B"})
    hard = model.predict()
    assert list(hard.cat.categories) == list(model.predict(soft=True).columns) == ["T", "1", "B", "3"]
    assert list(model.get_cluster_summary().index) == ["T", "1", "B", "3"]
    model.split("B")
    names = ["T", "1", "B", "3", "0"]
    assert list(model.predict().cat.categories) == names
    model.save(tmp_path / "model")
    loaded = SCSiameseClu.load(tmp_path / "model", adata=model.adata, **CPU)
    assert (loaded.predict() == model.predict()).all() and loaded.n_clusters == 5
    assert loaded.cluster_tree_ == model.cluster_tree_
    bare = AnnData(model.adata.X[:50].copy(), obs=model.adata.obs[[]].iloc[:50], var=model.adata.var[[]])
    for source in (model, tmp_path / "model"):
        mapped = SCSiameseClu.load_query_data(bare.copy(), source, **CPU)
        assert list(mapped.predict().cat.categories) == names
        assert (mapped.predict() == model.predict(indices=np.arange(50)).to_numpy()).mean() > 0.95
    loaded.merge(["B", "T", "3"])
    assert loaded.predict().cat.categories.tolist() == ["3", "1", "0"]


def test_no_data_are_needed(folder, model):
    bare = SCSiameseClu.load(folder, adata=False, **CPU)
    bare.cut(n_clusters=6)
    model.cut(n_clusters=6)
    assert (bare.predict(model.adata.copy()) == model.predict()).all()


def test_names_follow_further_training(model, quick):
    model.split("0")
    model.rename({"1": "one"})
    before = model.predict().astype(str)
    model.train(max_epochs=2, batch_size=64, **quick)
    assert (model.predict().astype(str) == before).mean() > 0.9
    hierarchy, groups = groups_of(model)
    assert model.n_clusters == 5
    assert adjusted_rand_score(model.predict(), hierarchy.cut(5)[groups]) == 1.0


def test_models_saved_before_there_were_trees(model):
    model.cluster_tree_ = None
    model.cut(n_clusters=2)
    assert model.n_clusters == 2 and len(model.cluster_tree_["splits"]) > 3


def test_queries_keep_their_clusters(model):
    bare = AnnData(model.adata.X.copy(), obs=model.adata.obs[[]], var=model.adata.var[[]])
    mapped = SCSiameseClu.load_query_data(bare, model, **CPU)
    for change in (lambda: mapped.cut(2), lambda: mapped.split("0"), lambda: mapped.merge(["0", "1"])):
        with pytest.raises(RuntimeError, match="found the model of a query"):
            change()


def test_wrong_calls(model, folder):
    n_groups = len(model.cluster_tree_["current"])
    for call, error, message in (
        (lambda: model.cut(), TypeError, "found neither"),
        (lambda: model.cut(2, 0.05), TypeError, "found both"),
        (lambda: model.cut(2.0), TypeError, "an integer, found 2.0"),
        (lambda: model.cut(0), ValueError, f"from 1 to {n_groups}"),
        (lambda: model.cut(n_groups + 1), ValueError, f"found {n_groups + 1}"),
        (lambda: model.cut(significance=5), ValueError, "between 0 and 1, found 5"),
        (lambda: model.split("x"), KeyError, r"names among the clusters .*, found \['x'\]"),
        (lambda: model.merge(["0"]), ValueError, "at least two different clusters"),
        (lambda: model.merge("01"), TypeError, "a list of cluster names"),
        (lambda: model.rename({"9": "a"}), KeyError, r"found \['9'\]"),
        (lambda: model.rename({"0": "1"}), ValueError, r"found \['1'\] more than once"),
        (lambda: model.rename({"0": ""}), ValueError, "found an empty one"),
    ):
        with pytest.raises(error, match=message):
            call()
    model.cut(n_groups)
    with pytest.raises(ValueError, match="a single small group"):
        model.split("0")
    bare = SCSiameseClu.load(folder, adata=False, **CPU)
    bare.cluster_tree_ = None
    with pytest.raises(RuntimeError, match="load the model with the adata it was trained on"):
        bare.cut(2)


def test_untrained(setup_adata, small):
    model = SCSiameseClu(setup_adata, n_clusters=3, **small)
    for change in (lambda: model.cut(2), lambda: model.split("0"), lambda: model.rename({"0": "a"})):
        with pytest.raises(RuntimeError, match="call model.train"):
            change()


def test_a_cluster_is_not_called_unassigned(model):
    with pytest.raises(ValueError, match="other than 'unassigned'"):
        model.rename({"0": "unassigned"})
    assert model._cluster_names()[0] == "0"
