"""Plot of the cluster tree."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_model

__all__ = ["cluster_tree"]

_ALPHA = 0.05
_LEGEND = (
    "Numbers: relative separability and p value. Genes: + higher on the left, - higher on the right. Height: order."
)


class _HasTree(Protocol):
    @property
    def cluster_tree_(self) -> Mapping[str, Any] | None: ...


@with_shared_descriptions
def cluster_tree(
    model: _HasTree,
    *,
    n_below: int = 4,
    genes: int = 0,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw the cluster tree, with the splits between the clusters and the first splits within clusters.

    The root is on top, and the height of a split shows its order in the tree. Splits between the present clusters are
    above the dotted line. Splits within clusters, which :meth:`~scsiameseclu.SCSiameseClu.split` or
    :meth:`~scsiameseclu.SCSiameseClu.cut` could make next, are below the line. Each split is labelled with its
    relative separability and its p value against one population. The label is bold if the p value is at most 0.05. Each
    end of the tree is labelled with its number of cells and the name of its cluster. The name is in parentheses if the
    end is only a part of the cluster.

    Parameters
    ----------
    model
        A trained model.
    n_below
        Number of splits within clusters to draw.
    genes
        Number of genes to name at each split, at most 10. ``+`` marks genes with higher expression on the left, ``-``
        genes with higher expression on the right.
    figsize
        Width and height of the figure, in inches. ``None``: the size is chosen by the number of ends.
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
        If the model has no tree.
    """
    tree = tree_of(model)
    n_groups, current, members = len(tree["current"]), np.asarray(tree["current"]), members_of(tree)
    made, below = made_and_below(tree)
    first_below = below[:n_below]
    shown = {split["node"]: split for split in tree["splits"] if split in made or split in first_below}
    _close(shown, tree["splits"], made)
    names = cluster_names(model, int(current.max()) + 1)
    ends = _ends(shown, 2 * n_groups - 2)
    figure, panel = canvas(ax, figsize or (max(4.0, 0.75 * len(ends) + 1.0), max(3.0, 0.35 * len(shown) + 1.5)))
    order = [split["node"] for split in tree["splits"] if split["node"] in shown]
    order.sort(key=lambda node: node not in {split["node"] for split in made})
    heights = {node: float(len(order) - at) for at, node in enumerate(order)}
    x = {end: float(at) for at, end in enumerate(ends)}
    for node in sorted(shown):  # children are drawn before their parents, because they have lower numbers
        _draw_split(panel, shown[node], x, heights, made_now=node in {split["node"] for split in made}, n_genes=genes)
    for end in ends:
        groups = members[end]
        cluster = np.unique(current[groups])
        whole = len(cluster) == 1 and (current == cluster[0]).sum() == len(groups)
        size = int(np.asarray(tree["sizes"])[groups].sum())
        label = f"{names[cluster[0]]}\n" if whole else (f"({names[cluster[0]]})\n" if len(cluster) == 1 else "")
        panel.text(x[end], -0.1, f"{label}{size}", ha="center", va="top", fontsize="x-small")
    panel.axhline(len(order) - len(made) + 0.5, color="grey", linestyle=":", linewidth=1)
    panel.set_title(f"{current.max() + 1} clusters, above the dotted line", fontsize="small")
    panel.set(xlim=(-0.6, len(ends) - 0.4), ylim=(-1.0, len(order) + 0.6 + 0.35 * genes), xticks=[], yticks=[])
    panel.set_xlabel(_LEGEND, fontsize="xx-small")
    panel.spines[:].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def tree_of(model: _HasTree) -> Mapping[str, Any]:
    """Cluster tree of a model.

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    ValueError
        If the model has no tree.
    """
    check_model(model)
    tree = getattr(model, "cluster_tree_", None)
    if tree is None:
        raise ValueError("Expected a model with a cluster tree, found none: call model.train(), or model.cut(), first.")
    return tree


def made_and_below(tree: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Splits between the present clusters, and splits within clusters. The topmost splits come first in both lists."""
    current, members = np.asarray(tree["current"]), members_of(tree)
    divides = [len(np.unique(current[members[split["node"]]])) > 1 for split in tree["splits"]]
    made = [split for split, is_made in zip(tree["splits"], divides, strict=True) if is_made]
    return made, [split for split, is_made in zip(tree["splits"], divides, strict=True) if not is_made]


def members_of(tree: Mapping[str, Any]) -> list[list[int]]:
    """Numbers of the smallest groups (leaves of the tree) below every node."""
    members = [[group] for group in range(len(tree["current"]))]
    for first, second in tree["children"]:
        members.append([*members[first], *members[second]])
    return members


def _close(shown: dict[int, Any], splits: Sequence[Mapping[str, Any]], made: list[Mapping[str, Any]]) -> None:
    """Add all splits above the shown splits, so that the drawn tree is connected."""
    by_node = {split["node"]: split for split in splits}
    for node in list(shown):
        parent = by_node[node]["parent"]
        while parent is not None and parent not in shown:
            shown[parent] = by_node[parent]
            parent = by_node[parent]["parent"]


def _ends(shown: Mapping[int, Mapping[str, Any]], root: int) -> list[int]:
    """Nodes that are not split in the figure, from left to right."""
    if root not in shown:
        return [root]
    return [*_ends(shown, shown[root]["left"]), *_ends(shown, shown[root]["right"])]


def _draw_split(
    ax: Axes,
    split: Mapping[str, Any],
    x: dict[int, float],
    heights: Mapping[int, float],
    *,
    made_now: bool,
    n_genes: int,
) -> None:
    height, left, right = heights[split["node"]], split["left"], split["right"]
    feet = heights.get(left, 0.0), heights.get(right, 0.0)
    color = "black" if made_now else "silver"
    ax.plot([x[left], x[left], x[right], x[right]], [feet[0], height, height, feet[1]], color=color, linewidth=1.2)
    middle = x[split["node"]] = 0.5 * (x[left] + x[right])
    named = list(split["genes"].items())[:n_genes]
    text = f"{split['separability']:.2f}, p = {split['p_value']:.2f}"
    text += "".join(f"\n{'+' if difference > 0 else '-'}{gene}" for gene, difference in named)
    weight = "bold" if split["p_value"] <= _ALPHA else "normal"
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    ax.text(middle, height + 0.05, text, ha="center", va="bottom", fontsize="xx-small", fontweight=weight, bbox=paper)


def cluster_names(model: Any, n_clusters: int) -> list[str]:
    """Name of every cluster, by number."""
    names = None if model.reference is None else model.reference.cluster_names
    return [str(number) for number in range(n_clusters)] if names is None else list(names)
