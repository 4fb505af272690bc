import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from scsiameseclu.datasets import synthetic
from scsiameseclu.tl import marker_overlap


@pytest.fixture
def adata() -> AnnData:
    adata = synthetic(n_obs=400, n_vars=200, n_types=4, seed=2)
    adata.obs["siamese_clu"] = pd.Categorical(adata.obs["cell_type"].cat.codes.astype(str))
    return adata


def test_clusters_that_are_the_types_overlap_wholly(adata: AnnData) -> None:
    before = adata.copy()
    overlap = marker_overlap(adata, "cell_type", n_genes=12)
    assert overlap.index.tolist() == list("0123")
    assert overlap.columns.tolist() == [f"type_{i}" for i in range(4)]
    np.testing.assert_array_equal(np.diag(overlap), 1.0)
    assert overlap.to_numpy()[~np.eye(4, dtype=bool)].max() < 0.5
    assert adata.obs.equals(before.obs) and not adata.uns and (adata.X != before.X).nnz == 0


def test_overlap_is_that_of_scanpys_best_genes(adata: AnnData) -> None:
    rng = np.random.default_rng(0)
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    adata.obs["siamese_clu"] = np.where(rng.random(400) < 0.4, rng.permutation(codes), codes).astype(str)
    overlap = marker_overlap(adata, "cell_type", n_genes=20)
    logs = adata.copy()
    sc.pp.normalize_total(logs, target_sum=1e4)
    sc.pp.log1p(logs)
    best = {}
    for key in ("siamese_clu", "cell_type"):
        sc.tl.rank_genes_groups(logs, key)
        names = logs.uns["rank_genes_groups"]["names"][:20]
        best[key] = {group: set(names[group]) for group in names.dtype.names}
    for cluster, genes in best["siamese_clu"].items():
        for name, others in best["cell_type"].items():
            assert overlap.loc[cluster, name] == len(genes & others) / 20


def test_a_merged_and_a_split_cluster_are_mapped_to_their_types(adata: AnnData) -> None:
    types = adata.obs["cell_type"].astype(str)
    halves = np.where(np.arange(400) % 2, "a", "b")
    adata.obs["siamese_clu"] = np.where(types == "type_0", halves, types.replace({"type_3": "type_2"}))
    overlap = marker_overlap(adata, "cell_type", n_genes=12)
    mapped = overlap.idxmax(axis=1)
    assert mapped["a"] == mapped["b"] == "type_0" and mapped["type_1"] == "type_1"
    assert overlap.loc["type_2", "type_0"] < overlap.loc["type_2", ["type_2", "type_3"]].min()


def test_cells_without_a_label_take_no_part(adata: AnnData) -> None:
    adata.obs["some"] = adata.obs["cell_type"].astype(object).where(adata.obs["cell_type"] != "type_3")
    assert marker_overlap(adata, "some", n_genes=12).columns.tolist() == ["type_0", "type_1", "type_2"]


def test_bad_arguments_are_refused(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"n_genes in \[1, 200\], the number of genes, found 201"):
        marker_overlap(adata, "cell_type", n_genes=201)
    with pytest.raises(KeyError, match=r"obs\['truth'\]"):
        marker_overlap(adata, "truth")
    with pytest.raises(TypeError, match="Expected an AnnData"):
        marker_overlap(None, "cell_type")
