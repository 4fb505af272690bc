import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.pl import confidence, embedding


@pytest.fixture
def clustered() -> AnnData:
    rng = np.random.default_rng(0)
    labels = np.repeat(["0", "1", "2"], [40, 30, 10])
    latent = rng.normal(size=(80, 5)) + 8 * np.eye(5)[labels.astype(int)]
    return AnnData(
        rng.poisson(1.0, size=(80, 4)).astype(np.float32),
        obs=pd.DataFrame(
            {"siamese_clu": pd.Categorical(labels), "siamese_clu_confidence": np.linspace(0.4, 1.0, 80)},
            index=[f"cell{i}" for i in range(80)],
        ),
        obsm={"X_siamese_clu": latent.astype(np.float32), "X_umap": np.zeros((80, 2))},
    )


def test_umap_is_of_the_embedding_and_leaves_the_users_own_alone(clustered: AnnData) -> None:
    figure = embedding(clustered, return_fig=True)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["siamese_clu", "confidence of the cluster"]
    np.testing.assert_array_equal(clustered.obsm["X_umap"], 0)
    assert not clustered.obsp and "neighbors" not in clustered.uns
    coordinates = clustered.obsm["X_siamese_clu_umap"]
    centres = np.stack([coordinates[clustered.obs["siamese_clu"] == name].mean(0) for name in "012"])
    nearest = np.linalg.norm(coordinates[:, None] - centres, axis=2).argmin(1)
    assert np.mean(nearest == clustered.obs["siamese_clu"].astype(int)) > 0.95


def test_same_seed_same_picture(clustered: AnnData) -> None:
    embedding(clustered)
    first = clustered.obsm["X_siamese_clu_umap"].copy()
    embedding(clustered)
    np.testing.assert_array_equal(first, clustered.obsm["X_siamese_clu_umap"])


def test_given_basis_is_used_as_it_is(clustered: AnnData) -> None:
    figure = embedding(clustered, color="siamese_clu", basis="X_umap", return_fig=True)
    np.testing.assert_array_equal(np.asarray(figure.axes[0].collections[0].get_offsets()), 0)
    assert "X_siamese_clu_umap" not in clustered.obsm


def test_very_few_cells(clustered: AnnData) -> None:
    few = clustered[:6].copy()
    embedding(few, color="siamese_clu")
    assert np.isfinite(few.obsm["X_siamese_clu_umap"]).all()


def test_missing_pieces_are_named(clustered: AnnData) -> None:
    with pytest.raises(KeyError, match="found .*'X_siamese_clu', 'X_umap'"):
        embedding(clustered, basis="X_tsne")
    with pytest.raises(KeyError, match=r"obs columns \['other'\].*call write_to_adata"):
        embedding(clustered, key="other", basis="X_umap")
    with pytest.raises(KeyError, match=r"found \['nothing'\]"):
        embedding(clustered, color="nothing", basis="X_umap")
    del clustered.obsm["X_siamese_clu"]
    with pytest.raises(KeyError, match="call write_to_adata"):
        embedding(clustered)


def test_confidence_has_a_box_per_cluster_and_the_share_below(clustered: AnnData) -> None:
    clustered.obs["siamese_clu_confidence"] = np.where(clustered.obs["siamese_clu"] == "2", 0.3, 0.9)
    ax = confidence(clustered, return_fig=True).axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0\n40", "1\n30", "2\n10"]
    assert ax.get_title() == "12.5% of cells below 0.5"
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_color() == "C1"]
    np.testing.assert_allclose(medians, [0.9, 0.9, 0.3])
    assert confidence(clustered, threshold=None, return_fig=True).axes[0].get_title() == ""


def test_confidences_near_one_are_spread_and_none_is_out_of_sight(clustered: AnnData) -> None:
    values = np.array([0.0, 0.9, 0.99, 0.999, 1.0])
    clustered.obs["siamese_clu_confidence"] = np.resize(values, 80)
    ax = confidence(clustered, return_fig=True).axes[0]
    heights = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([np.zeros(5), values])))[:, 1]
    np.testing.assert_allclose(np.diff(heights[:4]), np.diff(heights[:4])[0], rtol=1e-6)
    drawn = np.concatenate([np.atleast_1d(line.get_ydata()) for line in ax.lines])
    places = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([drawn * 0, drawn])))[:, 1]
    assert places.min() >= -1e-9 and places.max() <= 1 + 1e-9
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "0.5", "0.9", "0.99", "0.999", "0.9999"]


def test_confidence_names_what_is_missing(clustered: AnnData) -> None:
    with pytest.raises(KeyError, match=r"Expected obs columns \['k', 'k_confidence'\]"):
        confidence(clustered, key="k")
