import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.pl import out_of_reference


@pytest.fixture
def adata() -> AnnData:
    obs = pd.DataFrame({"mine_out_of_reference": [0.05, 0.15, 0.995, 0.999]}, index=list("abcd"))
    return AnnData(np.zeros((4, 1)), obs=obs)


def test_cells_by_score(adata):
    panel = out_of_reference(adata, key="mine", n_bins=10, show=False)
    assert [bar.get_height() for bar in panel.patches] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    even, limit = panel.lines
    np.testing.assert_allclose(even.get_ydata(), 0.4)
    np.testing.assert_allclose(limit.get_xdata(), 0.95)
    assert panel.get_title() == "50.0% of cells above 0.95"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("out-of-reference score", "cells")
    assert len(out_of_reference(adata, key="mine", threshold=None, show=False).lines) == 1


def test_share_above_the_limit(adata):
    adata.obs["mine_out_of_reference"] = [0.05, 0.995, 0.999, 0.999]
    assert out_of_reference(adata, key="mine", show=False).get_title() == "75.0% of cells above 0.95"


def test_what_cannot_be_drawn(adata):
    with pytest.raises(KeyError, match="call tl.map"):
        out_of_reference(adata)
    with pytest.raises(ValueError, match="n_bins of at least 1"):
        out_of_reference(adata, key="mine", n_bins=0)
