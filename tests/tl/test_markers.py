import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic


@pytest.fixture
def adata() -> AnnData:
    adata = synthetic(n_obs=120, n_vars=40, n_types=3, marker_fold=8.0)
    adata.obs["siamese_clu"] = adata.obs["cell_type"].cat.rename_categories(["0", "1", "2"])
    return adata


def test_ranking_is_scanpys_of_log_normalised_counts(adata):
    before = adata.copy()
    table = tl.markers(adata, method="t-test")
    assert (adata.X != before.X).nnz == 0 and list(adata.obs) == list(before.obs)
    expected = before.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    sc.tl.rank_genes_groups(expected, "siamese_clu", method="t-test", use_raw=False)
    pd.testing.assert_frame_equal(
        table.drop(columns="group"), sc.get.rank_genes_groups_df(expected, None).drop(columns="group")
    )
    assert list(table["group"].unique()) == ["0", "1", "2"]
    stored = sc.get.rank_genes_groups_df(adata, "1", key="siamese_clu_markers")
    np.testing.assert_array_equal(stored["names"], table.loc[table["group"] == "1", "names"])


def test_best_genes_are_the_markers_of_the_type(adata):
    table = tl.markers(adata)
    best = table.groupby("group").head(3)
    marks = adata.var["marker_of"].astype(str)
    assert [marks[name] for name in best["names"]] == [f"type_{group}" for group in best["group"]]


def test_pairs_chosen_groups_and_cells_that_take_no_part(adata):
    adata.obs["siamese_clu"] = adata.obs["siamese_clu"].cat.add_categories(["unassigned", "lonely"])
    adata.obs.iloc[0, adata.obs.columns.get_loc("siamese_clu")] = "lonely"
    adata.obs.iloc[1:9, adata.obs.columns.get_loc("siamese_clu")] = "unassigned"
    table = tl.markers(adata, groups=["0"], reference="2", method="t-test")
    assert set(table["group"]) == {"0"} and len(table) == adata.n_vars
    pair = adata[adata.obs["siamese_clu"].isin(["0", "2"])].copy()
    other = tl.markers(pair, groups=["0"], method="t-test")
    np.testing.assert_array_equal(table["names"], other["names"])
    assert set(tl.markers(adata, method="t-test")["group"]) == {"0", "1", "2"}


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_counts_of_any_kind_in_a_layer_and_numbered_groups(adata, kind):
    expected = tl.markers(adata, method="t-test")
    adata.layers["counts"] = sparse.csc_matrix(adata.X.astype(kind))
    adata.X = sparse.csr_matrix(adata.X.shape)
    adata.obs["number"] = adata.obs["siamese_clu"].astype(int)
    table = tl.markers(adata, "number", layer="counts", method="t-test")
    np.testing.assert_array_equal(table["names"], expected["names"])
    assert "number_markers" in adata.uns


def test_what_is_refused(adata):
    with pytest.raises(KeyError, match=r"Expected clusters in obs\['nothing'\]"):
        tl.markers(adata, "nothing")
    with pytest.raises(ValueError, match="clusters of two cells or more .* found \\['9'\\]"):
        tl.markers(adata, groups=["9"])
    adata.obs["one"] = "a"
    with pytest.raises(ValueError, match="at least two clusters"):
        tl.markers(adata, "one")
