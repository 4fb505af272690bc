import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.pl import abundance


@pytest.fixture
def adata() -> AnnData:
    obs = pd.DataFrame(
        {"siamese_clu": pd.Categorical(list("00011222")), "donor": ["x", "x", "y", "x", "y", "y", "y", None]},
        index=list("abcdefgh"),
    )
    return AnnData(np.ones((8, 1), dtype=np.float32), obs=obs)


def test_shares_are_stacked_to_one(adata):
    panel = abundance(adata, "donor", show=False)
    heights = np.array([[bar.get_height() for bar in bars] for bars in panel.containers])
    bottoms = np.array([[bar.get_y() for bar in bars] for bars in panel.containers])
    np.testing.assert_allclose(heights, [[2 / 3, 1 / 4], [1 / 3, 1 / 4], [0, 1 / 2]])
    np.testing.assert_allclose(bottoms, np.cumsum(heights, axis=0) - heights)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["x\n3", "y\n4"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["2", "1", "0"]  # as they are stacked
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("donor (cells)", "share of the cells")


def test_what_cannot_be_drawn(adata):
    with pytest.raises(KeyError, match=r"\['none'\]"):
        abundance(adata, "none")
    adata.obs["empty"] = pd.Categorical([None] * 8)
    with pytest.raises(ValueError, match="found none"):
        abundance(adata, "empty")
