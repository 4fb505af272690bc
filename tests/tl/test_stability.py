import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData, read_h5ad

from scsiameseclu.datasets import synthetic
from scsiameseclu.tl import cluster, stability

SHORT = {
    "train_kwargs": {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False},
    "model_kwargs": {"n_hidden": 32},
    "n_neighbors": 8,
}


def _cells(*runs: str, key: str | None = None) -> tuple[AnnData, pd.DataFrame]:
    """Ten cells, and a table with one run per word (a letter per cell)."""
    names = [f"c{i}" for i in range(len(runs[0]))]
    adata = AnnData(np.ones((len(names), 1), dtype=np.float32), obs=pd.DataFrame(index=names))
    if key is not None:
        adata.obs["siamese_clu"] = pd.Categorical(list(key))
    return adata, pd.DataFrame({f"r{i}": list(run) for i, run in enumerate(runs)}, index=names)


def test_renamed_clusters_are_the_same_clusters() -> None:
    adata, labels = _cells("aaaabbbccc", "xxxxzzzyyy", "2222000111")
    result = stability(adata, labels=labels)
    np.testing.assert_array_equal(result.ari, 1.0)
    assert (result.cell_stability == 1).all() and (result.cluster_stability == 1).all()
    assert all((result.labels[name] == result.consensus).all() for name in result.labels)


def test_stability_by_hand() -> None:
    # Judged cluster "a" is complete in r0, and lacks one cell in r1, where the cell at 3 is in "b".
    adata, labels = _cells("xxxxyyyyyy", "xxxyyyyyyy", key="aaaabbbbbb")
    result = stability(adata, labels=labels)
    np.testing.assert_allclose(result.cell_stability, [1, 1, 1, 0.5, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(result.cluster_stability[["a", "b"]], [(1 + 3 / 4) / 2, (1 + 6 / 7) / 2])
    np.testing.assert_allclose(result.cell_means[["a", "b"]], [7 / 8, 1])
    assert result.labels["r1"].tolist() == list("aaabbbbbbb")
    np.testing.assert_array_equal(adata.obs["siamese_clu_stability"], result.cell_stability)
    assert adata.obs["siamese_clu"].tolist() == list("aaaabbbbbb") and "siamese_clu_consensus" not in adata.obs


def test_a_split_cluster_is_less_stable_than_one_that_stays() -> None:
    adata, labels = _cells("aaaabbbccc", "aaaabbcccc", "aaaabcbcbc", key="aaaabbbccc")
    stable = stability(adata, labels=labels).cluster_stability
    assert stable["a"] == 1.0 > stable["b"]
    # The run has more clusters than the judged run, so the smaller half of a cluster is not matched.
    adata, labels = _cells("aaaabbbbbb", "aaaabbbbcc", key="aaaabbbbbb")
    result = stability(adata, labels=labels)
    assert result.labels["r1"].isna().tolist() == [False] * 8 + [True] * 2
    assert result.cell_stability.tolist()[-3:] == [1.0, 0.5, 0.5]
    assert result.consensus.tolist() == list("aaaabbbbbb")


def test_without_clusters_the_central_run_is_judged_and_not_compared_with_itself() -> None:
    adata, labels = _cells("aaaaabbbbb", "aaaaabbbbb", "aaabbbbbbb")
    result = stability(adata, labels=labels, key="mine", write_consensus=True)
    assert result.central_run == "r0"
    assert adata.obs["mine"].tolist() == list("0000011111")
    np.testing.assert_allclose(adata.obs["mine_stability"], [1, 1, 1, 0.5, 0.5, 1, 1, 1, 1, 1])
    assert adata.obs["mine_consensus"].tolist() == list("0000011111")
    assert result.ari.loc["r0", "r1"] == 1 > result.ari.loc["r0", "r2"] == result.ari.loc["r2", "r1"]


def test_the_majority_of_runs_makes_the_consensus() -> None:
    adata, labels = _cells("aaaabbbbbb", "aaaabbbbbb", "aaaaabbbbb", key="aaaaabbbbb")
    assert stability(adata, labels=labels).consensus.tolist() == list("aaaabbbbbb")


def test_everything_survives_a_file(tmp_path) -> None:
    adata, labels = _cells("aaaabbbbbb", "aaaabbbbbb")
    stability(adata, labels=labels, write_consensus=True)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = read_h5ad(tmp_path / "cells.h5ad")
    assert read.uns["siamese_clu_stability"]["clusters"].tolist() == ["0", "1"]
    assert {"siamese_clu_stability", "siamese_clu_consensus"} <= set(read.obs)


def test_runs_are_those_of_cluster_and_nothing_else_changes() -> None:
    adata = synthetic(n_obs=150, n_vars=80, n_types=3)
    alone = adata.copy()
    scvi.settings.seed = 1
    cluster(alone, 3, **SHORT)
    scvi.settings.seed = 7
    result = stability(adata, 3, seeds=[1, 2], **SHORT)
    assert scvi.settings.seed == 7
    assert list(result.ari) == ["seed 1", "seed 2"]
    assert list(adata.obs) == ["cell_type", "batch", "siamese_clu", "siamese_clu_stability"]
    assert list(adata.uns) == ["siamese_clu_stability"] and not adata.obsm and not adata.obsp
    first = pd.crosstab(result.labels["seed 1"], alone.obs["siamese_clu"].to_numpy())
    assert ((first > 0).sum(axis=0) == 1).all()


def test_seed_is_put_back_when_a_run_fails() -> None:
    adata = synthetic(n_obs=30, n_vars=20, n_types=2)
    scvi.settings.seed = 7
    with pytest.raises(KeyError, match="nothing"):
        stability(adata, 2, layer="nothing")
    assert scvi.settings.seed == 7 and "siamese_clu" not in adata.obs


def test_bad_arguments_are_refused() -> None:
    adata, labels = _cells("aaaabbbbbb", "aaaabbbbbb")
    with pytest.raises(ValueError, match=r"at least two different seeds, found \[0\]"):
        stability(adata, seeds=[0])
    with pytest.raises(ValueError, match=r"at least two different seeds, found \[0, 1, 0\]"):
        stability(adata, seeds=[0, 1, 0])
    with pytest.raises(TypeError, match="with `key`"):
        stability(adata, key_added="x")
    with pytest.raises(ValueError, match=r"at least two runs, found DataFrame of shape \(10, 1\)"):
        stability(adata, labels=labels[["r0"]])
    with pytest.raises(ValueError, match=r"found other cells or another order \(10 rows, 10 cells\)"):
        stability(adata, labels=labels.iloc[::-1])
    labels.iloc[0, 0] = None
    with pytest.raises(ValueError, match=r"every cell in labels\['r0'\], found 1 cells without"):
        stability(adata, labels=labels)


def test_asking_twice_gives_the_same_answer() -> None:
    adata, labels = _cells("aaaaabbbbb", "aaaaabbbbb", "aaabbbbbbb")
    first = stability(adata, labels=labels, key="mine")
    second = stability(adata, labels=labels, key="mine")
    np.testing.assert_array_equal(first.cell_stability, second.cell_stability)
    np.testing.assert_array_equal(first.cluster_stability, second.cluster_stability)


def test_the_seed_that_made_the_clusters_is_not_compared_with_itself() -> None:
    adata, labels = _cells("aaaaabbbbb", "aaabbbbbbb", key="aaaaabbbbb")
    labels.columns = ["seed 0", "seed 1"]
    adata.uns["siamese_clu"] = {"params": {"seed": 0}}
    assert stability(adata, labels=labels).cell_stability.tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
