import logging

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData, read_h5ad
from scipy import sparse

from scsiameseclu.datasets import marker_sets, pbmc3k, synthetic
from scsiameseclu.tl import annotate


@pytest.fixture
def adata() -> AnnData:
    """Six clusters that equal the types, with names that do not reveal the types."""
    adata = synthetic(n_obs=240, n_vars=120, n_types=6)
    adata.obs["siamese_clu"] = pd.Categorical(adata.obs["cell_type"].cat.codes.astype(str))
    return adata


def _markers(adata: AnnData) -> dict[str, list[str]]:
    types = adata.obs["cell_type"].cat.categories
    return {name: list(adata.var_names[adata.var["marker_of"] == name]) for name in types}


def test_clusters_get_the_types_whose_markers_they_express(adata: AnnData) -> None:
    table = annotate(adata, _markers(adata))
    assert list(table.columns) == [
        *[
            "cluster",
            "type",
            "best",
            "score",
            "runner_up",
            "runner_up_score",
            "margin",
            "mixed",
            "mixed_with",
            "n_markers",
        ]
    ]
    assert table["cluster"].tolist() == list("012345")
    assert table["type"].tolist() == [f"type_{i}" for i in range(6)]
    assert (table["n_markers"] == 5).all() and (table["margin"] > 0.5).all()
    assert (adata.obs["siamese_clu_type"].astype(str) == adata.obs["cell_type"].astype(str)).all()
    record = adata.uns["siamese_clu_type"]
    np.testing.assert_allclose(record["scores"].max(1), table["score"])
    assert record["scores"].shape == (6, 6) and record["types"].tolist() == list(_markers(adata))


def test_score_by_hand() -> None:
    # There are four cells in two clusters of different size, and log-normalised values are passed directly.
    values = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    adata = AnnData(values, obs=pd.DataFrame({"k": ["a", "a", "a", "b"]}, index=list("wxyz")))
    adata.var_names = ["g", "h"]
    table = annotate(adata, {"G": ["g"], "H": ["h"]}, "k", normalize=False)
    # All clusters have the same weight: g has mean 1 and standard deviation 1, so sqrt(K - 1) = 1 is the largest score.
    np.testing.assert_allclose(adata.uns["k_type"]["scores"], [[1, -1], [-1, 1]])
    assert table["type"].tolist() == ["G", "H"] and table["margin"].tolist() == [2.0, 2.0]


def test_normalisation_is_scanpys(adata: AnnData) -> None:
    raw = annotate(adata, _markers(adata))
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    given = annotate(logged, _markers(adata), normalize=False)
    np.testing.assert_allclose(raw["score"], given["score"], rtol=1e-4)


@pytest.mark.parametrize(
    "convert",
    [sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)],
    ids=["csc", "dense", "integer"],
)
def test_matrices_of_any_kind_and_layers_give_the_same(adata: AnnData, convert) -> None:
    expected = annotate(adata, _markers(adata))
    adata.layers["counts"] = convert(adata.X)
    adata.X = np.full(adata.shape, np.nan)
    pd.testing.assert_frame_equal(annotate(adata, _markers(adata), layer="counts"), expected)


def test_nothing_but_obs_and_uns_changes_and_everything_survives_a_file(adata: AnnData, tmp_path) -> None:
    before = adata.copy()
    markers = {name.replace("_", "/"): genes for name, genes in _markers(adata).items()}
    annotate(adata, markers, key_added="named")
    assert (adata.X != before.X).nnz == 0 and adata.var.equals(before.var)
    assert list(adata.obs.columns) == [*before.obs.columns, "named"] and list(adata.uns) == ["named"]
    adata.write_h5ad(tmp_path / "named.h5ad")
    read = read_h5ad(tmp_path / "named.h5ad")
    assert read.obs["named"].cat.categories.tolist() == list(markers)
    np.testing.assert_array_equal(read.uns["named"]["scores"], adata.uns["named"]["scores"])


def test_clusters_of_no_given_type_and_cells_of_no_cluster_are_unassigned(adata: AnnData) -> None:
    markers = _markers(adata)
    del markers["type_2"]
    adata.obs.loc[adata.obs_names[adata.obs["siamese_clu"] == "0"][:3], "siamese_clu"] = np.nan
    table = annotate(adata, markers).set_index("cluster")
    assert table.loc["2", "type"] == "unassigned"
    assert (table.drop("2")["type"] != "unassigned").all()
    named = adata.obs["siamese_clu_type"]
    assert (named[adata.obs["siamese_clu"].isna()] == "unassigned").all()
    assert named.cat.categories.tolist() == [*markers, "unassigned"]


def test_types_that_cannot_be_told_apart_are_unassigned(adata: AnnData) -> None:
    genes = _markers(adata)["type_0"]
    table = annotate(adata, {"one": genes, "two": genes[:4], "other": _markers(adata)["type_1"]})
    assert table["type"][0] == "unassigned" and table["margin"][0] < 0.1 < table["score"][0]
    assert annotate(adata, {"one": genes, "two": genes[:4]}, min_margin=0)["type"][0] in {"one", "two"}


def test_clusters_of_random_cells_are_unassigned() -> None:
    adata = synthetic(n_obs=240, n_vars=120, n_types=6, marker_fold=1.0)
    assert (annotate(adata, _markers(adata), "cell_type")["type"] == "unassigned").all()


def test_sizes_of_clusters_do_not_matter(adata: AnnData) -> None:
    keep = (adata.obs["siamese_clu"] == "0") | (np.arange(240) % 4 == 0)
    scores = annotate(adata, _markers(adata))["score"]
    np.testing.assert_allclose(annotate(adata[keep].copy(), _markers(adata))["score"], scores, atol=0.35)


def test_two_clusters_may_be_of_one_type_and_one_type_is_enough(adata: AnnData) -> None:
    halves = np.where(np.arange(240) % 2, "x", "y")
    adata.obs["fine"] = np.where(adata.obs["siamese_clu"] == "0", halves, adata.obs["siamese_clu"].astype(str))
    table = annotate(adata, {"zero": _markers(adata)["type_0"]}, "fine").set_index("cluster")
    assert set(table.index[table["type"] == "zero"]) == {"x", "y"}
    np.testing.assert_allclose(table["margin"], table["score"])


def test_runner_up_is_the_type_with_the_second_score(adata: AnnData) -> None:
    table = annotate(adata, _markers(adata))
    record = adata.uns["siamese_clu_type"]
    scores = pd.DataFrame(record["scores"], record["clusters"], record["types"])
    for _, row in table.iterrows():
        first, second = scores.loc[row["cluster"]].nlargest(2).items()
        assert (row["best"], row["score"]) == first and (row["runner_up"], row["runner_up_score"]) == second
        assert row["margin"] == pytest.approx(first[1] - second[1])
    assert record["runner_up"].tolist() == table["runner_up"].tolist()
    strict = annotate(adata, _markers(adata), min_score=100)
    assert (strict["type"] == "unassigned").all() and strict["best"].equals(table["best"])


def _mixture(share: float, n_obs: int = 600) -> AnnData:
    """Six types; cluster "mix" holds type 0, and a share of its cells are of type 1."""
    second = round(share * n_obs / 6 / (1 - share))
    adata = synthetic(n_obs=n_obs, n_vars=120, n_types=6, seed=1)
    first = np.flatnonzero(adata.obs["cell_type"] == "type_0")
    other = np.flatnonzero(adata.obs["cell_type"] == "type_1")
    groups = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    groups[first] = groups[other[:second]] = "mix"
    adata.obs["groups"] = groups
    return adata


def test_a_cluster_of_two_types_is_mixed_and_others_are_not() -> None:
    adata = _mixture(0.3)
    table = annotate(adata, _markers(adata), "groups").set_index("cluster")
    assert table.loc["mix", "best"] == "type_0"
    assert table.loc["mix", "mixed"] and table.loc["mix", "mixed_with"] == "type_1"
    pure = table.drop("mix")
    assert not pure["mixed"].any() and (pure["mixed_with"] == "").all()
    assert adata.uns["groups_type"]["mixed_with"].tolist() == table["mixed_with"].tolist()


def test_a_few_cells_of_another_type_do_not_make_a_cluster_mixed() -> None:
    adata = _mixture(0.03)
    assert not annotate(adata, _markers(adata), "groups")["mixed"].any()


def test_markers_that_all_cells_express_do_not_make_a_cluster_mixed() -> None:
    adata = _mixture(0.08)
    high = adata.var["marker_of"] == "type_1"
    adata.X = sparse.csr_matrix(adata.X + 30.0 * high.to_numpy(np.float32))
    assert not annotate(adata, _markers(adata), "groups")["mixed"].any()


def test_markers_that_two_types_share_do_not_hide_a_mixture() -> None:
    adata = _mixture(0.3)
    markers = _markers(adata)
    shared = markers["type_2"] + markers["type_3"]
    table = annotate(adata, {"one": markers["type_0"] + shared, "two": markers["type_1"] + shared}, "groups")
    assert table.set_index("cluster").loc["mix", "mixed_with"] == "two"


def test_cells_that_express_the_markers_of_two_types_at_once_are_not_mixed() -> None:
    adata = synthetic(n_obs=600, n_vars=120, n_types=6, seed=1)
    markers = _markers(adata)
    # The same cells express the genes of type 0 and of type 1, so both are one type.
    both = {"one": markers["type_0"][:3], "two": markers["type_0"][3:], "rest": markers["type_2"]}
    table = annotate(adata, both, "cell_type").set_index("cluster")
    assert table.loc["type_0", "runner_up"] in both and not table.loc["type_0", "mixed"]


def test_markers_that_two_types_share_cannot_tell_a_mixture() -> None:
    adata = _mixture(0.3)
    genes = _markers(adata)["type_0"]
    assert not annotate(adata, {"one": genes, "two": genes}, "groups")["mixed"].any()


def test_a_bundled_set_names_known_cells() -> None:
    adata = pbmc3k()
    adata.obs["groups"] = adata.obs["cell_type"].cat.codes.astype(str).astype("category")
    annotate(adata, "blood", "groups")
    expected = {
        "B": "B cell",
        "CD14+ Mono": "CD14 monocyte",
        "CD8 T": "CD8 T cell",
        "DC": "Dendritic cell",
        "FCGR3A+ Mono": "CD16 monocyte",
        "Memory CD4 T": "CD4 T cell",
        "NK": "NK cell",
        "Naive CD4 T": "CD4 T cell",
        "Platelet": "Platelet",
    }
    assert (adata.obs["groups_type"].astype(str) == adata.obs["cell_type"].map(expected).astype(str)).all()


def test_a_bundled_set_without_a_type_or_of_another_organism(adata: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    blood = marker_sets("blood")
    names = [gene for name, genes in blood.items() if name != "Platelet" for gene in genes]
    adata.var_names = [*dict.fromkeys(names), *adata.var_names][:120]
    with caplog.at_level(logging.WARNING):
        annotate(adata, "blood")
    assert "No marker of ['Platelet'] is among the genes" in caplog.text
    assert "Platelet" not in adata.uns["siamese_clu_type"]["types"]
    with pytest.raises(ValueError, match="Expected gene symbols of mouse, found none of the markers of 'pancreas'"):
        annotate(synthetic(n_obs=240, n_vars=120, n_types=6), "pancreas", "cell_type", organism="mouse")
    with pytest.raises(ValueError, match=r"one of \['blood', .*\], found 'liver'"):
        annotate(adata, "liver")


def test_unknown_genes_are_listed_and_left_out(adata: AnnData) -> None:
    expected = annotate(adata, _markers(adata))
    markers = {name: [*genes, f"no_{name}"] for name, genes in _markers(adata).items()}
    with pytest.warns(UserWarning, match=r"6 markers .*: \['no_type_0', .*'no_type_5'\]. These markers are left out"):
        pd.testing.assert_frame_equal(annotate(adata, markers), expected)
    with pytest.raises(ValueError, match=r"found none for \['Z'\]. .*gene names such as \['gene_0'"):
        annotate(adata, {**_markers(adata), "Z": ["cd3"]})


def test_gene_symbols_and_repeated_names(adata: AnnData) -> None:
    expected = annotate(adata, _markers(adata))
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{i}" for i in range(120)]
    markers = {
        name: list(adata.var["symbol"][adata.var["marker_of"] == name])
        for name in adata.obs["cell_type"].cat.categories
    }
    pd.testing.assert_frame_equal(annotate(adata, markers, gene_symbols="symbol"), expected)
    others = np.flatnonzero(adata.var["marker_of"] == "none")[:2]
    adata.var.iloc[others, adata.var.columns.get_loc("symbol")] = "twice"
    pd.testing.assert_frame_equal(annotate(adata, markers, gene_symbols="symbol"), expected)
    with pytest.raises(ValueError, match=r"occur once in the data, found several genes \['twice'\]"):
        annotate(adata, {"A": ["twice"]}, gene_symbols="symbol")


def test_markers_without_variation_do_not_count(adata: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    expected = annotate(adata, _markers(adata))
    silent = adata.var_names[adata.var["marker_of"] == "none"][0]
    adata.X = adata.X.multiply((adata.var_names != silent).astype(np.float32)).tocsr()
    markers = {name: [*genes, silent] for name, genes in _markers(adata).items()}
    table = annotate(adata, markers)
    assert (table["n_markers"] == 5).all() and table["type"].equals(expected["type"])
    with caplog.at_level(logging.WARNING):
        assert "silent" not in annotate(adata, {**_markers(adata), "silent": [silent]})["type"].tolist()
    assert "No marker of 'silent' varies" in caplog.text


def test_bad_arguments_are_refused(adata: AnnData) -> None:
    with pytest.raises(KeyError, match="`groupby`: expected a column of adata.obs, found 'leiden'. Available: "):
        annotate(adata, _markers(adata), "leiden")
    with pytest.raises(KeyError, match="`layer`: expected"):
        annotate(adata, _markers(adata), layer="nothing")
    with pytest.raises(KeyError, match="`gene_symbols`: expected"):
        annotate(adata, _markers(adata), gene_symbols="nothing")
    with pytest.raises(TypeError, match=r"list of genes for 'A', found the string 'gene_1'; write \['gene_1'\]"):
        annotate(adata, {"A": "gene_1"})
    with pytest.raises(ValueError, match="at least one type"):
        annotate(adata, {})
    with pytest.raises(ValueError, match="found 'unassigned', which is reserved"):
        annotate(adata, {"unassigned": ["gene_1"]})
    adata.obs["one"] = "x"
    with pytest.raises(ValueError, match=r"at least two clusters in obs\['one'\], found 1"):
        annotate(adata, _markers(adata), "one")
    adata.X.data[0] = -1
    with pytest.raises(ValueError, match="found -1.0 in cell"):
        annotate(adata, _markers(adata))
    assert "siamese_clu_type" not in adata.obs
