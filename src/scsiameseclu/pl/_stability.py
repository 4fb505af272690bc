"""Agreement of several runs."""

import numpy as np
from matplotlib import pyplot as plt

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.pl._figure import Drawn, PathOf, finish
from scsiameseclu.pl._heatmap import draw_heatmap
from scsiameseclu.tl import StabilityResult

__all__ = ["stability"]


@with_shared_descriptions
def stability(
    result: StabilityResult,
    *,
    figsize: tuple[float, float] = (8.0, 3.4),
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the agreement of every pair of runs, and the stability of every cluster and its cells.

    Bars are the stability of the clusters, points the mean stability of their cells, lines the values 0.6 and 0.5 below
    which Hennig calls a cluster doubtful and dissolved.

    Parameters
    ----------
    result
        What :func:`~scsiameseclu.tl.stability` returned.
    %(param_figsize)s
    %(param_finish)s

    Returns
    -------
    Nothing; the figure if ``return_fig``; the axes if ``show=False``. Two panels and a colour bar.

    Raises
    ------
    TypeError
        If ``result`` is something else.
    """
    if not isinstance(result, StabilityResult):
        raise TypeError(f"Expected what tl.stability returns, found {type(result).__name__}.")
    figure, (left, right) = plt.subplots(1, 2, figsize=figsize, layout="constrained")
    ari = result.ari.to_numpy()
    names = result.ari.index.astype(str).tolist()
    draw_heatmap(left, ari, names, names, limits=(min(0.0, float(ari.min())), 1.0), label="adjusted Rand index")
    pairs = ari[np.triu_indices(len(ari), 1)]
    left.set_title(f"mean agreement of two runs {pairs.mean():.2f}", fontsize="small")

    clusters = result.cluster_stability.index.astype(str).tolist()
    ticks = np.arange(len(clusters))
    right.bar(ticks, result.cluster_stability.to_numpy(), color="lightsteelblue", label="cluster (Jaccard)")
    right.plot(ticks, result.cell_means.to_numpy(), "o", color="black", markersize=3, label="cells (mean)")
    for value in (0.6, 0.5):
        right.axhline(value, color="grey", linestyle=":", linewidth=1)
    right.set_xticks(ticks, clusters, fontsize="x-small", rotation=90 if max(map(len, clusters)) > 3 else 0)
    right.set(ylim=(0, 1.02), xlabel="cluster", ylabel="stability")
    right.legend(fontsize="x-small", loc="lower right")
    right.spines[["top", "right"]].set_visible(False)
    return finish(figure, [left, right], show=show, save=save, return_fig=return_fig)
