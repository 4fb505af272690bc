from types import SimpleNamespace

import numpy as np
import pytest

from scsiameseclu.pl import split_evidence


def split(node, left, right, separability, p_value):
    return {"node": node, "left": left, "right": right, "separability": separability, "p_value": p_value}


def model(current, names=None):
    splits = [split(6, 4, 5, 5.0, 0.01), split(5, 2, 3, 2.5, 0.05), split(4, 0, 1, 1.1, 0.5)]
    tree = {"current": current, "children": [[0, 1], [2, 3], [4, 5]], "splits": splits}
    reference = None if names is None else SimpleNamespace(cluster_names=names)
    return SimpleNamespace(cluster_tree_=tree, reference=reference)


def test_heights_fill_and_line():
    panel = split_evidence(model([0, 0, 1, 1], ["a", "b"]), show=False)
    filled, empty = panel.collections
    np.testing.assert_allclose(filled.get_offsets(), [[2, 5.0], [3, 2.5]])
    np.testing.assert_allclose(empty.get_offsets(), [[4, 1.1]])
    _, line, one = panel.lines
    assert line.get_xdata()[0] == 2.5 and one.get_ydata()[0] == 1.0
    assert [text.get_text() for text in panel.texts] == ["b", "a"]  # clusters that further splits would divide
    assert panel.get_title().startswith("2 clusters")
    assert [text.get_text() for text in panel.get_legend().get_texts()][:2] == ["p at most 0.05", "p above 0.05"]


def test_splits_that_were_made_come_first():
    """After ``model.split`` of the right cluster, the second split has been made, but not the third."""
    panel = split_evidence(model([0, 1, 2, 2]), show=False)
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [5.0, 1.1, 2.5])
    assert panel.lines[1].get_xdata()[0] == 3.5 and [text.get_text() for text in panel.texts] == ["2"]
    assert len(split_evidence(model([0, 1, 2, 2]), n_below=0, show=False).texts) == 0


def test_one_cluster_and_wrong_calls():
    lonely = SimpleNamespace(cluster_tree_={"current": [0], "children": [], "splits": []}, reference=None)
    assert split_evidence(lonely, show=False).get_title().startswith("1 clusters")
    with pytest.raises(ValueError, match="cluster tree, found none"):
        split_evidence(SimpleNamespace(cluster_tree_=None))
    with pytest.raises(ValueError, match="n_below of at least 0"):
        split_evidence(lonely, n_below=-1)
