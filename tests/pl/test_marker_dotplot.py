import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.pl import marker_dotplot


@pytest.fixture
def adata() -> AnnData:
    """Gene a in all cells of cluster x and half of cluster y, gene b in cluster y only; one cell has no cluster."""
    counts = np.array([[5, 0, 5], [5, 0, 5], [5, 5, 0], [0, 5, 5], [9, 9, 9]], dtype=np.float32)
    obs = pd.DataFrame({"siamese_clu": pd.Categorical(["x", "x", "y", "y", "unassigned"])}, index=list("12345"))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=["a", "b", "c"]))


def test_area_is_the_share_of_cells_and_colour_the_mean(adata):
    panel = marker_dotplot(adata, ["a", "b"], show=False)
    dots = panel.collections[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["x", "y"]
    np.testing.assert_array_equal(dots.get_offsets(), [[0, 0], [1, 0], [0, 1], [1, 1]])
    areas = dots.get_sizes()
    np.testing.assert_allclose(areas / areas.max(), [1.0, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(dots.get_array(), [1.0, 0.0, 0.5, 1.0], rtol=1e-6)
    assert panel.get_ylabel() == "siamese_clu" and len(panel.figure.axes) == 2
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["25%", "50%", "100%"]


def test_counts_are_normalised_to_the_cell(adata):
    deep = adata.copy()
    deep.X = adata.X * np.array([[1], [7], [3], [2], [1]], dtype=np.float32)
    same = [marker_dotplot(cells, ["a", "c"], show=False).collections[0].get_array() for cells in (adata, deep)]
    np.testing.assert_allclose(*same, rtol=1e-6)
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    of_layer = marker_dotplot(adata, ["a", "c"], layer="counts", show=False).collections[0].get_array()
    np.testing.assert_allclose(of_layer, same[0], rtol=1e-6)
    as_given = marker_dotplot(adata, ["a"], normalize=False, show=False).collections[0].get_array()
    np.testing.assert_allclose(as_given, [1.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("n_genes", [1, 3, 4])
def test_few_values_are_no_colour(adata, n_genes):
    cells = adata[adata.obs["siamese_clu"] == "x"]
    dots = marker_dotplot(cells, ["a", "b", "c", "a"][:n_genes], show=False).collections[0]
    assert len(dots.get_array()) == n_genes == len(dots.get_offsets())


def test_types_are_written_above_their_genes(adata):
    panel = marker_dotplot(adata, {"first": ["a"], "second": ["b", "c"]}, show=False)
    assert [text.get_text() for text in panel.texts] == ["first", "second"]
    assert [text.get_position()[0] for text in panel.texts] == [0.0, 1.5]
    assert len(panel.lines) == 2


def test_genes_of_the_ranking():
    cells = synthetic(n_obs=150, n_vars=40, n_types=3)
    cells.obs["siamese_clu"] = cells.obs["cell_type"]
    table = tl.markers(cells)
    before = cells.copy()
    panel = marker_dotplot(cells, n_genes=2, show=False)
    genes = [label.get_text() for label in panel.get_xticklabels()]
    best = table.groupby("group", observed=True)["names"].first()
    assert len(genes) == len(set(genes)) == 6 and set(best) <= set(genes)
    assert set(cells.uns) == set(before.uns) and (cells.X != before.X).nnz == 0


def test_what_cannot_be_drawn(adata):
    with pytest.raises(KeyError, match="call tl.markers"):
        marker_dotplot(adata)
    with pytest.raises(KeyError, match=r"found \['z'\]"):
        marker_dotplot(adata, ["a", "z"])
    with pytest.raises(KeyError, match="Expected obs columns"):
        marker_dotplot(adata, ["a"], key="none")
    with pytest.raises(ValueError, match="found 0 and 2"):
        marker_dotplot(adata, [])
    with pytest.raises(ValueError, match="found the string 'a'"):
        marker_dotplot(adata, "a")
    with pytest.raises(ValueError, match="n_genes of at least 1"):
        marker_dotplot(adata, n_genes=0)
    adata.var_names = ["a", "b", "a"]
    with pytest.raises(ValueError, match=r"found several genes \['a'\]"):
        marker_dotplot(adata, ["a"])


def test_sizes_of_clusters_do_not_matter(adata):
    more = adata[[0, 0, 0, 1, 1, 1, 2, 3]].copy()
    more.obs_names_make_unique()
    once, thrice = (marker_dotplot(cells, ["a", "b", "c"], show=False).collections[0] for cells in (adata, more))
    np.testing.assert_allclose(thrice.get_array(), once.get_array(), rtol=1e-6)
    np.testing.assert_allclose(thrice.get_sizes(), once.get_sizes())
