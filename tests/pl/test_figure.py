"""Every plot shows, saves and returns its figure like the plots of scanpy."""

import inspect

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scsiameseclu import pl, tl


class Model:
    """Replacement for a model, with the attributes that plots read."""

    n_clusters_search_ = {"values": [2, 3], "scores": [0.1, 0.2], "n_clusters": 3, "criterion": "c"}
    history = {"loss_train": pd.DataFrame({"loss_train": [2.0, 1.0]}), "tail": pd.DataFrame({"tail": [1.0, 1.0]})}
    reference = None
    cluster_tree_ = {
        "current": [0, 1],
        "sizes": [10, 20],
        "children": [[0, 1]],
        "splits": [
            {
                "node": 2,
                "parent": None,
                "left": 0,
                "right": 1,
                "separability": 2.0,
                "p_value": 0.01,
                "genes": {"g": 1.0},
            }
        ],
    }


def cells() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"siamese_clu": pd.Categorical(list("0011") * 10), "siamese_clu_confidence": np.linspace(0.5, 1, 40)},
        index=[f"c{i}" for i in range(40)],
    )
    obs["siamese_clu_out_of_reference"] = np.linspace(0, 1, 40)
    obs["type"] = obs["siamese_clu"].cat.rename_categories(["a", "b"])
    obsm = {"X_siamese_clu": rng.normal(size=(40, 3)).astype(np.float32), "X_umap": rng.normal(size=(40, 2))}
    return AnnData(rng.poisson(1.0, size=(40, 2)).astype(np.float32), obs=obs, obsm=obsm)


def runs() -> tl.StabilityResult:
    adata = cells()
    return tl.stability(adata, labels=adata.obs[["siamese_clu", "type"]].astype(str))


PLOTS = {
    "abundance": lambda **options: pl.abundance(cells(), "type", **options),
    "annotation_overlap": lambda **options: pl.annotation_overlap(cells(), "type", **options),
    "cluster_tree": lambda **options: pl.cluster_tree(Model(), **options),
    "confidence": lambda **options: pl.confidence(cells(), **options),
    "embedding": lambda **options: pl.embedding(cells(), "type", basis="X_umap", **options),
    "latent_correlation": lambda **options: pl.latent_correlation(cells(), **options),
    "marker_dotplot": lambda **options: pl.marker_dotplot(cells(), ["0", "1"], **options),
    "n_clusters_search": lambda **options: pl.n_clusters_search(Model(), **options),
    "out_of_reference": lambda **options: pl.out_of_reference(cells(), **options),
    "query_on_reference": lambda **options: pl.query_on_reference(cells(), cells(), basis="X_umap", **options),
    "reliability": lambda **options: pl.reliability([0.2, 0.9], [False, True], **options),
    "sankey": lambda **options: pl.sankey(cells(), "type", **options),
    "split_evidence": lambda **options: pl.split_evidence(Model(), **options),
    "stability": lambda **options: pl.stability(runs(), **options),
    "training_curves": lambda **options: pl.training_curves(Model(), **options),
}
ONE_PANEL = [name for name in PLOTS if "ax" in inspect.signature(getattr(pl, name)).parameters]


@pytest.fixture
def shown(monkeypatch):
    """Record the numbers of open figures at every call of show."""
    times: list[list[int]] = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: times.append(plt.get_fignums()))
    before = sc.settings.autoshow
    sc.settings.autoshow = True
    yield times
    sc.settings.autoshow = before


def test_every_plot_is_here():
    assert set(PLOTS) == set(pl.__all__)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_shown_once_and_leaves_no_figure(name, shown):
    assert PLOTS[name]() is None
    assert [len(figures) for figures in shown] == [1]
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_that_is_returned_is_not_shown_and_would_be_drawn_once(name, shown, tmp_path):
    figure = PLOTS[name](return_fig=True, save=tmp_path / "plot.png")
    assert isinstance(figure, Figure) and figure.axes[0].has_data()
    assert shown == [] and plt.get_fignums() == []
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PLOTS)
def test_axes_are_returned_without_showing(name, shown):
    axes = PLOTS[name](show=False)
    assert all(isinstance(ax, Axes) and ax.has_data() for ax in ([axes] if isinstance(axes, Axes) else axes))
    assert shown == [] and len(plt.get_fignums()) == 1


@pytest.mark.parametrize("name", ONE_PANEL)
def test_given_axes_are_drawn_into(name, shown):
    figure, (left, right) = plt.subplots(1, 2)
    assert PLOTS[name](ax=right) is right
    assert right.has_data() and not left.has_data()
    assert shown == [] and plt.get_fignums() == [figure.number]


def test_autoshow_of_scanpy_is_followed(shown):
    sc.settings.autoshow = False
    assert isinstance(PLOTS["confidence"](), Axes)
    assert shown == []


def test_genes_are_drawn_on_a_logarithmic_scale_per_ten_thousand():
    adata = cells()
    counts = adata.X[:, 0]
    drawn = pl.embedding(adata, "0", basis="X_umap", sort_order=False, show=False).collections[0].get_array()
    np.testing.assert_allclose(drawn, np.log1p(1e4 * counts / np.maximum(adata.X.sum(axis=1), 1)), rtol=1e-6)
    adata.X = np.log1p(adata.X)
    drawn = pl.embedding(adata, "0", basis="X_umap", sort_order=False, show=False).collections[0].get_array()
    np.testing.assert_allclose(drawn, np.log1p(counts), rtol=1e-6)
    with pytest.raises(ValueError, match="one color with ax, found 2"):
        pl.embedding(adata, ["type", "0"], basis="X_umap", ax=plt.subplots()[1])
