"""Plot of the evidence for each split of the cluster tree."""

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
    """Draw the evidence for each split of the cluster tree, to judge the number of clusters.

    Each dot is a split. The horizontal axis shows the number of clusters after the split: the dot at 5 is the split
    from 4 to 5 clusters. The vertical axis shows the relative separability of the two parts. A separability of 1 is
    expected if a single population is cut in two. Filled dots have a p value of at most 0.05 against one population.

    Splits left of the dotted line have been made and lead to the present clusters. Splits right of the line could be
    made next, and each dot is labelled with the name of the cluster that it would divide. If dots left of the line are
    empty or low, fewer clusters may be better. If dots right of the line are filled and high, more clusters may be
    better.

    Parameters
    ----------
    model
        A trained model.
    n_below
        Number of splits to draw right of the dotted line.
    figsize
        Width and height of the figure, in inches. ``None``: the width is chosen by the number of splits.
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
    """Write the name of the cluster that each split would divide above its dot."""
    members, current = members_of(tree), np.asarray(tree["current"])
    names = cluster_names(model, int(current.max()) + 1)
    for number, split in enumerate(splits, start=first):
        name = names[current[members[split["node"]][0]]]
        panel.annotate(
            name, (number, split["separability"]), (0, 5), textcoords="offset points", ha="center", fontsize="x-small"
        )
