import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.pl import annotation_overlap


@pytest.fixture
def adata() -> AnnData:
    obs = pd.DataFrame(
        {
            "siamese_clu": pd.Categorical(list("0000111122"), categories=list("0123")),
            "type": ["B", "B", "B", "T", "A", "A", "A", "A", None, "T"],
        },
        index=[f"c{i}" for i in range(10)],
    )
    return AnnData(np.ones((10, 1), dtype=np.float32), obs=obs)


def test_shares_of_each_cluster_lie_along_the_diagonal(adata: AnnData) -> None:
    ax = annotation_overlap(adata, "type", return_fig=True).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["B", "A", "T"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0 (4)", "1 (4)", "2 (1)"]
    assert {text.get_text() for text in ax.texts} == {"0.75", "0.25", "0.00", "1.00"}


def test_missing_columns_are_named(adata: AnnData) -> None:
    with pytest.raises(KeyError, match=r"Expected obs columns \['k', 'l'\], found \['siamese_clu', 'type'\]"):
        annotation_overlap(adata, "l", key="k")
    adata.obs["nothing"] = np.nan
    with pytest.raises(ValueError, match="cells with both 'siamese_clu' and 'nothing', found none"):
        annotation_overlap(adata, "nothing")
