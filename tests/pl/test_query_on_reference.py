import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

from scsiameseclu.pl import embedding, query_on_reference


def cells(latent, labels, **obsm) -> AnnData:
    latent = np.asarray(latent, dtype=np.float32)
    obs = pd.DataFrame({"siamese_clu": pd.Categorical(list(labels))}, index=[f"c{i}" for i in range(len(latent))])
    obsm = {"X_siamese_clu": latent, **{name: np.asarray(values) for name, values in obsm.items()}}
    return AnnData(np.ones((len(latent), 1), dtype=np.float32), obs=obs, obsm=obsm)


@pytest.fixture
def reference() -> AnnData:
    return cells([[0], [1], [10], [11]], "aabb", X_umap=[[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 7.0]])


def test_cells_stand_at_the_mean_of_their_nearest_reference_cells(reference):
    query = cells([[10.4], [0.6], [5.4]], ["b", "a", "unassigned"])
    panel = query_on_reference(query, reference, basis="X_umap", n_neighbors=2, show=False)
    grey, drawn = panel.collections[:2]
    np.testing.assert_allclose(grey.get_offsets(), reference.obsm["X_umap"])
    expected = [[5.0, 6.0], [1.0, 0.0], [3.5, 2.5]]
    np.testing.assert_allclose(query.obsm["X_siamese_clu_umap"], expected)
    assert sorted(map(tuple, drawn.get_offsets())) == sorted(map(tuple, expected))
    assert panel.get_title() == "siamese_clu"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "b", "unassigned"]
    assert not query.uns and not reference.uns


def test_clusters_have_the_colours_of_the_reference(reference):
    embedding(reference, "siamese_clu", basis="X_umap", palette=["#112233", "#445566"], show=False)
    query = cells([[10.4], [0.6], [0.1]], ["b", "a", "unassigned"])
    panel = query_on_reference(query, reference, basis="X_umap", n_neighbors=1, show=False)
    colors = dict(
        zip(
            [tuple(place) for place in panel.collections[1].get_offsets()],
            [to_hex(color) for color in panel.collections[1].get_facecolors()],
            strict=True,
        )
    )
    places = query.obsm["X_siamese_clu_umap"]
    assert [colors[tuple(place)] for place in places] == ["#445566", "#112233", "#000000"]


def test_the_picture_of_the_reference_is_made_once_and_kept():
    rng = np.random.default_rng(0)
    reference = cells(rng.normal(size=(40, 3)), "ab" * 20)
    query = cells(rng.normal(size=(5, 3)), "ababa")
    query.obs["score"] = np.arange(5.0)
    query_on_reference(query, reference, "score", show=False)
    first = reference.obsm["X_siamese_clu_umap"].copy()
    reference.obsm["X_siamese_clu_umap"] += 100
    query_on_reference(query, reference, show=False)
    np.testing.assert_allclose(reference.obsm["X_siamese_clu_umap"], first + 100)
    assert (query.obsm["X_siamese_clu_umap"] > 50).all()


def test_what_cannot_be_drawn(reference):
    query = cells([[1.0]], "a")
    with pytest.raises(KeyError, match=r"obs columns \['none'\]"):
        query_on_reference(query, reference, "none", basis="X_umap")
    with pytest.raises(KeyError, match="call tl.map"):
        query_on_reference(query, reference, "siamese_clu", key="other", basis="X_umap")
    with pytest.raises(KeyError, match=r"Expected an embedding in obsm\['X_tsne'\]"):
        query_on_reference(query, reference, basis="X_tsne")
    with pytest.raises(ValueError, match="found 2 dimensions in the query and 1"):
        query_on_reference(cells([[1.0, 2.0]], "a"), reference, basis="X_umap")
    with pytest.raises(ValueError, match="n_neighbors of at least 1"):
        query_on_reference(query, reference, basis="X_umap", n_neighbors=0)
