import numpy as np
import pytest

from scsiameseclu.partition import NClustersResult
from scsiameseclu.pl import n_clusters_search


class Model:
    def __init__(self, search: dict | None) -> None:
        self.n_clusters_search_ = search


def test_communities_by_resolution() -> None:
    search = NClustersResult(4, "Leiden", {0.1: 4, 1.0: 9}).to_state()
    ax = n_clusters_search(Model(search), return_fig=True).axes[0]
    curve, chosen = ax.lines
    np.testing.assert_array_equal(curve.get_xdata(), [0.1, 1.0])
    np.testing.assert_array_equal(curve.get_ydata(), [4, 9])
    np.testing.assert_array_equal(chosen.get_ydata(), 4)
    assert ax.get_title() == "4 clusters: Leiden" and ax.get_xscale() == "log"


def test_scores_by_number_of_clusters_and_the_record_in_uns() -> None:
    ax = n_clusters_search(
        {"values": np.array([2, 3, 4]), "scores": [0.1, 0.5, 0.2], "n_clusters": 3}, return_fig=True
    ).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.1, 0.5, 0.2])
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), 3)
    ax = n_clusters_search({"criterion": "c", "resolutions": [1.0], "n_communities": [2]}, return_fig=True).axes[0]
    assert len(ax.lines) == 1 and ax.get_title() == "c"


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match='train a model with n_clusters="auto" first'):
        n_clusters_search(Model(None))
    with pytest.raises(ValueError, match=r"'values' and 'scores' in the record of the search, found \['criterion'\]"):
        n_clusters_search({"criterion": "c"})
