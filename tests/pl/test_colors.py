import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.colors import to_hex

from scsiameseclu import pl
from scsiameseclu.pl._colors import default_colors, group_colors


def cells(n_groups: int) -> AnnData:
    names = [f"g{number:03d}" for number in range(n_groups)] * 2
    obs = pd.DataFrame(
        {"siamese_clu": pd.Categorical(names), "half": ["a", "b"] * n_groups}, index=[*map(str, range(2 * n_groups))]
    )
    return AnnData(np.ones((len(obs), 1)), obs=obs, obsm={"X_umap": np.zeros((len(obs), 2))})


@pytest.mark.parametrize("n_groups", [1, 10, 11, 20, 21, 40, 102])
def test_colours_are_those_that_scanpy_gives(n_groups):
    adata = cells(n_groups)
    expected = list(group_colors(adata, "siamese_clu").values())
    sc.pl.embedding(adata, "umap", color="siamese_clu", show=False)
    assert [to_hex(color) for color in adata.uns["siamese_clu_colors"]] == [to_hex(color) for color in expected]
    assert len(default_colors(130)) == 130


def test_stored_colours_are_used_by_every_plot():
    adata = cells(2)
    adata.uns["siamese_clu_colors"] = ["#112233", "#445566"]
    assert group_colors(adata, "siamese_clu") == {"g000": "#112233", "g001": "#445566"}
    bars = pl.abundance(adata, "half", show=False).containers
    assert [to_hex(each[0].get_facecolor()) for each in bars] == ["#112233", "#445566"]
    drawn = {to_hex(patch.get_facecolor()) for patch in pl.sankey(adata, "half", show=False).patches}
    assert {"#112233", "#445566"} <= drawn
