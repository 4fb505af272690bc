import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from scsiameseclu.pl import latent_correlation


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], [60, 30])[rng.permutation(90)]
    latent = 5 * np.eye(6)[codes] + 0.1 * rng.normal(size=(90, 6))
    latent[:, 5] = 2.0
    obs = pd.DataFrame({"siamese_clu": pd.Categorical(codes.astype(str))}, index=[f"c{i}" for i in range(90)])
    return AnnData(np.ones((90, 1), dtype=np.float32), obs=obs, obsm={"X_siamese_clu": latent})


def test_dimensions_are_numpys_correlations(adata: AnnData) -> None:
    shown = np.asarray(latent_correlation(adata, return_fig=True).axes[0].images[0].get_array())
    expected = np.corrcoef(adata.obsm["X_siamese_clu"][:, :5].T)
    np.testing.assert_allclose(shown[:5, :5], expected)
    np.testing.assert_array_equal(shown[5], [0, 0, 0, 0, 0, 1])  # constant


def test_cells_of_a_cluster_form_a_block(adata: AnnData) -> None:
    ax = latent_correlation(adata, between="cells", max_cells=30, return_fig=True).axes[0]
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (30, 30)
    assert shown[:20, :20].min() > 0.9 and shown[20:, 20:].min() > 0.9 and shown[:20, 20:].max() < 0.5
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "1"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), 19.5)
    again = latent_correlation(adata, between="cells", max_cells=30, return_fig=True).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, again)


def test_all_cells_when_there_are_few_and_none_without_a_cluster(adata: AnnData) -> None:
    adata.obs.loc[adata.obs_names[:4], "siamese_clu"] = np.nan
    assert latent_correlation(adata, between="cells", return_fig=True).axes[0].images[0].get_array().shape == (86, 86)


def test_bad_arguments_are_refused(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="'dimensions' or 'cells', found 'genes'"):
        latent_correlation(adata, between="genes")
    with pytest.raises(ValueError, match="max_cells of at least 2, found 1"):
        latent_correlation(adata, max_cells=1)
    with pytest.raises(KeyError, match=r"obsm\['X_other'\], found \['X_siamese_clu'\]"):
        latent_correlation(adata, use_rep="X_other")
    with pytest.raises(KeyError, match=r"obs columns \['k'\], found \['siamese_clu'\]"):
        latent_correlation(adata, between="cells", key="k")
    assert not plt.get_fignums()
