"""Plot of the confidence of the cells of each cluster."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, confidence_key
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns

__all__ = ["confidence"]

_LEAST = 1e-4
"""Confidences above ``1 - _LEAST`` are drawn at ``1 - _LEAST``, near the top of the axis."""
_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)


@with_shared_descriptions
def confidence(
    adata: AnnData,
    *,
    key: str = DEFAULT_KEY,
    threshold: float | None = 0.5,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the confidence of the cells of every cluster as box plots.

    The confidence of a cell is the probability of its own cluster, between 1/K and 1 for K clusters. A high confidence
    means that the model is sure of the cluster. A high confidence does not mean that the cluster is one cell type. The
    axis is logarithmic in ``1 - confidence``, because the confidence of most cells is near 1: the steps from 0.9 to
    0.99 and from 0.99 to 0.999 have the same length.

    Parameters
    ----------
    %(param_results)s
    %(param_key)s
    threshold
        Confidence to mark with a line. The title then shows the share of cells below the line. ``None``: no line.
    figsize
        Width and height of the figure, in inches. ``None``: the width is chosen by the number of clusters.
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If clusters or confidences are missing. The message lists the existing columns.
    """
    column = confidence_key(key)
    check_columns(adata, key, column, cure=": call write_to_adata() first")
    labels = adata.obs[key].astype("category")
    values = adata.obs[column].to_numpy(dtype=float)
    groups = [np.minimum(values, 1.0 - _LEAST)[(labels == name).to_numpy()] for name in labels.cat.categories]

    figure, panel = canvas(ax, figsize or (max(4.0, 0.45 * len(groups) + 1.5), 3.2))
    ticks = np.arange(len(groups))
    panel.boxplot(groups, positions=ticks, widths=0.6, flierprops={"marker": ".", "markersize": 2}, manage_ticks=False)
    names = [f"{name}\n{len(group)}" for name, group in zip(labels.cat.categories, groups, strict=True)]
    panel.set_xticks(ticks, names, fontsize="x-small")
    panel.set_xlabel(f"{key} (cells)")
    panel.set_ylabel("confidence of the cluster")
    panel.set_yscale("function", functions=(_spread, _gathered))
    panel.set_ylim(0, 1.0 - _LEAST / 2)
    panel.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS], fontsize="x-small")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.spines[["top", "right"]].set_visible(False)
    if threshold is not None:
        panel.axhline(threshold, color="grey", linestyle=":", linewidth=1)
        panel.set_title(f"{np.mean(values < threshold):.1%} of cells below {threshold:g}", fontsize="small")
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _spread(confidence: ArrayLike) -> NDArray[np.float64]:
    """Position of a confidence on the axis: the negative decimal logarithm of ``1 - confidence``."""
    return -np.log10(np.maximum(1.0 - np.asarray(confidence, dtype=np.float64), _LEAST / 10))


def _gathered(place: ArrayLike) -> NDArray[np.float64]:
    """Inverse of :func:`_spread`."""
    return 1.0 - 10.0 ** -np.asarray(place, dtype=np.float64)
