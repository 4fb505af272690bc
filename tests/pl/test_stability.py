import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.pl import stability
from scsiameseclu.tl import stability as judge


def test_panels_show_agreement_and_stability() -> None:
    names = [f"c{i}" for i in range(10)]
    adata = AnnData(np.ones((10, 1), dtype=np.float32), obs=pd.DataFrame({"k": list("aaaabbbbbb")}, index=names))
    result = judge(
        adata, key="k", labels=pd.DataFrame({"r0": list("xxxxyyyyyy"), "r1": list("xxxyyyyyyy")}, index=names)
    )
    left, right, *_ = stability(result, return_fig=True).axes
    np.testing.assert_array_equal(left.images[0].get_array(), result.ari)
    assert left.get_title() == f"mean agreement of two runs {result.ari.iloc[0, 1]:.2f}"
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], result.cluster_stability)
    np.testing.assert_allclose(right.lines[0].get_ydata(), [7 / 8, 1])
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["a", "b"]


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="the result of tl.stability, found dict"):
        stability({})
