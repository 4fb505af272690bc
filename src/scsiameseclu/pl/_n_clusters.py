"""Plot of the search for the number of clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_model

__all__ = ["n_clusters_search"]


class _HasSearch(Protocol):
    @property
    def n_clusters_search_(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class _Curve:
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_name: str
    y_name: str
    criterion: str
    n_clusters: int | None


@with_shared_descriptions
def n_clusters_search(
    model: "_HasSearch | Mapping[str, Any]",
    *,
    figsize: tuple[float, float] = (3.8, 3.0),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the curve by which ``n_clusters="auto"`` chose the number of clusters.

    Parameters
    ----------
    model
        A trained model, its ``n_clusters_search_``, or ``uns[key]["n_clusters_search"]``.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given; otherwise ``None``. The figure has one
    panel with the criterion of the search and the chosen number of clusters.

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    ValueError
        If the number of clusters was not searched for, or the record holds no curve.
    """
    check_model(model)
    curve = _read_search(model if isinstance(model, Mapping) else getattr(model, "n_clusters_search_", None))
    figure, panel = canvas(ax, figsize)
    panel.plot(curve.x, curve.y, marker="o", markersize=4, linewidth=1.2)
    if curve.x_name == "resolution":
        panel.set_xscale("log")
    if curve.n_clusters is not None:
        line = panel.axhline if curve.y_name == "number of communities" else panel.axvline
        line(curve.n_clusters, color="grey", linestyle=":", linewidth=1)
    chosen = "" if curve.n_clusters is None else f"{curve.n_clusters} clusters: "
    panel.set_title(f"{chosen}{curve.criterion}", fontsize="small", wrap=True)
    panel.set(xlabel=curve.x_name, ylabel=curve.y_name)
    panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _read_search(search: Mapping[str, Any] | None) -> _Curve:
    """Read the curve from the record of a search.

    A record has the number of communities for every resolution, or a score for every number of clusters.
    """
    if search is None:
        raise ValueError('Expected a search, found none: train a model with n_clusters="auto" first.')
    if {"resolutions", "n_communities"} <= set(search):
        x, y, names = search["resolutions"], search["n_communities"], ("resolution", "number of communities")
    elif {"values", "scores"} <= set(search):
        x, y, names = search["values"], search["scores"], ("number of clusters", "score")
    else:
        raise ValueError(f"Expected 'values' and 'scores' in the record of the search, found {sorted(search)}.")
    n_clusters = search.get("n_clusters")
    return _Curve(
        np.asarray(x, dtype=np.float64),
        np.asarray(y, dtype=np.float64),
        *names,
        str(search.get("criterion", "")),
        None if n_clusters is None else int(n_clusters),
    )
