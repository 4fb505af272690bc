"""Plot of the agreement of several runs."""

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

    The left panel shows the adjusted Rand index of every pair of runs. In the right panel, bars show the stability of
    the clusters, and points show the mean stability of their cells. The dotted lines are at 0.6 and 0.5: Hennig (2007)
    calls a cluster of lower stability doubtful or dissolved, respectively.

    Parameters
    ----------
    result
        Result of :func:`~scsiameseclu.tl.stability`.
    %(param_figsize)s
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False``; otherwise ``None``. The figure has two panels and a colour
    bar.

    Raises
    ------
    TypeError
        If ``result`` is not a :class:`~scsiameseclu.tl.StabilityResult`.
    """
    if not isinstance(result, StabilityResult):
        raise TypeError(f"Expected the result of tl.stability, found {type(result).__name__}.")
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
