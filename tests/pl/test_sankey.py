import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.patches import PathPatch, Rectangle

from scsiameseclu.pl import sankey


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


def parts(panel):
    """Bars on the left and on the right as (start, height), and bands as (left, right, height)."""
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    left, right = (
        [(bar.get_y(), bar.get_height()) for bar in bars if (bar.get_x() < 0.5) is side] for side in (True, False)
    )
    paths = [patch.get_path().vertices for patch in panel.patches if isinstance(patch, PathPatch)]
    return left, right, [(path[0, 1], path[3, 1], path[4, 1] - path[3, 1], path[7, 1] - path[0, 1]) for path in paths]


def test_bars_and_bands_have_the_height_of_their_cells(adata):
    panel = sankey(adata, "type", show=False)
    left, right, bands = parts(panel)
    assert [height for _, height in left] == [4, 4, 1]
    assert [text.get_text() for text in panel.texts] == ["0 (4)", "1 (4)", "2 (1)", "B (3)", "A (4)", "T (2)"]
    assert [height for _, height in right] == [3, 4, 2]
    np.testing.assert_allclose([band[2] for band in bands], [3, 1, 4, 1])
    np.testing.assert_allclose([band[3] for band in bands], [3, 1, 4, 1])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["siamese_clu", "type"]
    # Bands fill the bars without gap or overlap.
    for bars, side in ((left, 0), (right, 1)):
        for start, height in bars:
            inside = sorted(
                (band[side], band[side] + band[2]) for band in bands if start <= band[side] < start + height
            )
            assert inside[0][0] == pytest.approx(start) and inside[-1][1] == pytest.approx(start + height)
            assert all(first[1] == pytest.approx(second[0]) for first, second in zip(inside, inside[1:], strict=False))


def test_thin_bands_can_be_left_out(adata):
    left, _, bands = parts(sankey(adata, "type", min_cells=2, show=False))
    np.testing.assert_allclose([band[2] for band in bands], [3, 4])
    assert [height for _, height in left] == [4, 4, 1]


def test_columns_may_change_sides_and_have_to_be_there(adata):
    panel = sankey(adata, "siamese_clu", "type", show=False)
    assert panel.texts[0].get_text() == "A (4)"
    with pytest.raises(KeyError, match=r"Expected obs columns \['none'\]"):
        sankey(adata, "none")
    adata.obs["empty"] = pd.Categorical([None] * 10)
    with pytest.raises(ValueError, match="found none"):
        sankey(adata, "empty")
