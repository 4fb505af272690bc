from types import SimpleNamespace

import pytest

from scsiameseclu.pl import cluster_tree


class Model:
    def __init__(self, tree, names=None):
        self.cluster_tree_ = tree
        self.reference = None if names is None else SimpleNamespace(cluster_names=names)


def split(node, parent, left, right, p_value):
    return {
        "node": node,
        "parent": parent,
        "left": left,
        "right": right,
        "separability": 2.5,
        "p_value": p_value,
        "genes": {"up": 2.0, "down": -1.0},
    }


TREE = {
    "current": [0, 0, 1, 1],
    "sizes": [10, 20, 30, 40],
    "children": [[0, 1], [2, 3], [4, 5]],
    "splits": [split(6, None, 4, 5, 0.01), split(5, 6, 2, 3, 0.5), split(4, 6, 0, 1, 0.5)],
}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_clusters_sizes_and_significance_are_shown():
    figure = cluster_tree(Model(TREE), n_below=0, genes=1, return_fig=True)
    assert texts(figure) == ["2.50, p = 0.01\n+up", "0\n30", "1\n70"]
    assert figure.axes[0].texts[0].get_fontweight() == "bold"
    assert figure.axes[0].get_title().startswith("2 clusters")


def test_the_cut_lies_between_what_is_split_and_what_is_not():
    ax = cluster_tree(Model(TREE, ["a", "b"]), return_fig=True).axes[0]
    *splits, cut = ax.lines
    heights = {line.get_color(): [] for line in splits}
    for line in splits:
        heights[line.get_color()].append(max(line.get_ydata()))
    assert max(heights["silver"]) < cut.get_ydata()[0] < min(heights["black"])
    assert "(a)\n10" in texts(ax.figure) and "p = 0.50" in " ".join(texts(ax.figure))


def test_one_cluster_can_be_drawn():
    lonely = {"current": [0], "sizes": [10], "children": [], "splits": []}
    assert texts(cluster_tree(Model(lonely), return_fig=True)) == ["0\n10"]


def test_clusters_merged_across_the_tree_are_not_taken_for_whole():
    assert "(0)\n10" in texts(cluster_tree(Model({**TREE, "current": [0, 1, 0, 1]}), return_fig=True))


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="found none: call model.train"):
        cluster_tree(Model(None))
