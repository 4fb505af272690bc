"""What speaks for every further cluster."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.pl._cluster_tree import cluster_names, made_and_below, members_of, tree_of
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish

__all__ = ["split_evidence"]

_ALPHA = 0.05


@with_shared_descriptions
def split_evidence(
    model: Any,
    *,
    n_below: int = 10,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw what speaks for every further cluster: how separate are the two parts that the next split makes?

    Read it from left to right. A dot at 5 is the split that makes 5 clusters of 4. Its height is the relative
    separability of the two parts: 1 is what one population cut in two has. A filled dot has a p value of at most 0.05
    against one population. The dotted line stands behind the clusters there are; the names at the dots to its right are
    those of the clusters that these splits would divide. Fewer clusters are called for if the dots before the line are
    empty or low, and more if those behind it are filled and high.

    Parameters
    ----------
    model
        A trained model.
    n_below
        Splits shown behind the clusters there are.
    figsize
        Width and height of the figure, in inches; by default it follows from the number of splits.
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    ValueError
        If the model has no tree, or ``n_below`` is negative.
    """
    tree = tree_of(model)
    if n_below < 0:
        raise ValueError(f"Expected n_below of at least 0, found {n_below}.")
    made, below = made_and_below(tree)
    splits = [*made, *below[:n_below]]
    numbers = np.arange(2, len(splits) + 2)
    heights = np.array([split["separability"] for split in splits])
    significant = np.array([split["p_value"] <= _ALPHA for split in splits], dtype=bool)

    figure, panel = canvas(ax, figsize or (max(4.4, 0.3 * len(splits) + 1.6), 3.2))
    panel.plot(numbers, heights, color="silver", linewidth=1, zorder=1)
    for chosen, color, label in ((significant, "tab:blue", "p at most 0.05"), (~significant, "white", "p above 0.05")):
        panel.scatter(numbers[chosen], heights[chosen], color=color, edgecolor="tab:blue", s=28, label=label, zorder=2)
    _name(panel, model, tree, below[:n_below], len(made) + 2)
    panel.axvline(len(made) + 1.5, color="grey", linestyle=":", linewidth=1)
    panel.axhline(1.0, color="grey", linestyle="--", linewidth=1, label="one population cut in two")
    n_clusters = int(np.max(tree["current"])) + 1
    panel.set_title(f"{n_clusters} clusters, left of the dotted line", fontsize="small")
    panel.set(xlabel="number of clusters that the split makes", ylabel="relative separability")
    panel.set(xlim=(1.2, len(splits) + 1.8), ylim=(0, max(1.2, float(heights.max(initial=0.0)) * 1.15)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(fontsize="x-small", frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _name(panel: Axes, model: Any, tree: Mapping[str, Any], splits: Sequence[Mapping[str, Any]], first: int) -> None:
    """Write the cluster that each split would divide above its dot."""
    members, current = members_of(tree), np.asarray(tree["current"])
    names = cluster_names(model, int(current.max()) + 1)
    for number, split in enumerate(splits, start=first):
        name = names[current[members[split["node"]][0]]]
        panel.annotate(
            name, (number, split["separability"]), (0, 5), textcoords="offset points", ha="center", fontsize="x-small"
        )
