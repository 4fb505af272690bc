import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from scsiameseclu.metrics import clustering_metrics, rare_type_recall
from scsiameseclu.metrics._matching import contingency


def test_renamed_perfect_clustering_scores_one():
    scores = clustering_metrics(["a", "b", "c", "a"], [7, 3, 9, 7])
    assert scores == {"acc": 1.0, "nmi": 1.0, "ari": 1.0, "f1_macro": 1.0, "n_clusters": 3}


def test_more_clusters_than_labels_by_hand():
    # cluster 0 -> A (3 of 4 cells), cluster 2 -> B (2 of 2 cells), cluster 1 is not matched
    scores = clustering_metrics(list("AAAABB"), [0, 0, 0, 1, 2, 2])
    assert scores["acc"] == pytest.approx(5 / 6)
    assert scores["f1_macro"] == pytest.approx((2 * 3 / (4 + 3) + 1) / 2)
    assert scores["n_clusters"] == 3


def test_labels_without_a_cluster_have_f1_zero():
    # The single cluster is matched to A (4 cells). B and C have no cluster.
    scores = clustering_metrics(list("AAAABBCC"), [0] * 8)
    assert scores["acc"] == pytest.approx(0.5)
    assert scores["f1_macro"] == pytest.approx((2 * 4 / (4 + 8)) / 3)
    assert scores["ari"] == pytest.approx(0.0)
    assert scores["nmi"] == pytest.approx(0.0)
    assert scores["n_clusters"] == 1


@pytest.mark.parametrize(("n_types", "n_clusters"), [(4, 4), (3, 7), (6, 2)])
def test_agreement_with_scikit_learn(n_types, n_clusters):
    rng = np.random.default_rng(0)
    true = rng.integers(n_types, size=200)
    pred = np.where(rng.random(200) < 0.6, true % n_clusters, rng.integers(n_clusters, size=200))
    scores = clustering_metrics(true, pred)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(true, pred))
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(true, pred))
    acc, f1 = brute_force(true, pred, n_types, n_clusters)
    assert scores["acc"] == pytest.approx(acc)
    assert scores["f1_macro"] == pytest.approx(f1)


def brute_force(true, pred, n_types, n_clusters):
    """Best (accuracy, macro-F1) over all one-to-one matchings, F1 by scikit-learn."""
    from itertools import permutations

    slots = max(n_types, n_clusters)
    mappings = {order[:n_clusters] for order in permutations(range(slots))}
    best_acc = max((np.array(m)[pred] == true).mean() for m in mappings)
    names = [np.array(m)[pred] for m in mappings if (np.array(m)[pred] == true).mean() == best_acc]
    f1 = [f1_score(true, n, labels=range(n_types), average="macro", zero_division=0) for n in names]
    return best_acc, max(f1)


@pytest.mark.parametrize("names", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_ties_go_to_the_higher_f1_whatever_the_names(names):
    # cluster 1 -> A; clusters 0 (one A, one B) and 2 (one B) tie for B in accuracy, and 2 is the purer one
    pred = np.array(names)[[1, 0, 0, 1, 2]]
    scores = clustering_metrics(list("ABAAB"), pred)
    assert scores["acc"] == pytest.approx(3 / 5)
    assert scores["f1_macro"] == pytest.approx((2 * 2 / (3 + 2) + 2 * 1 / (2 + 1)) / 2)


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pd.Index,
        pd.Categorical,
        pytest.param(lambda x: pd.Series(x, dtype="category"), id="categorical series"),
        pytest.param(lambda x: pd.Series(x, dtype="string"), id="string series"),
        pytest.param(lambda x: np.array(x, dtype=object), id="object array"),
    ],
)
def test_any_container_of_labels(convert):
    labels, clusters = ["x", "x", "y", "z"], ["0", "0", "1", "1"]
    assert clustering_metrics(convert(labels), convert(clusters)) == clustering_metrics(labels, clusters)


@pytest.mark.parametrize("values", [[True, True, False], [1.5, 1.5, 2.0], np.array([1, 1, 2], dtype=np.int8)])
def test_any_type_of_label(values):
    assert clustering_metrics(values, ["p", "p", "q"])["ari"] == 1.0


def test_unused_categories_are_not_clusters():
    pred = pd.Categorical(["0", "0", "1"], categories=["0", "1", "2", "3"])
    true = pd.Categorical(["a", "a", "b"], categories=["a", "b", "never"])
    assert clustering_metrics(true, pred) == {"acc": 1.0, "nmi": 1.0, "ari": 1.0, "f1_macro": 1.0, "n_clusters": 2}


@pytest.mark.parametrize(
    "missing",
    [
        ["a", None, "b"],
        ["a", np.nan, "b"],
        [0.0, np.nan, 1.0],
        pd.Categorical(["a", None, "b"]),
        pd.Series(["a", pd.NA, "b"], dtype="string"),
    ],
)
def test_missing_values_are_refused_on_either_side(missing):
    with pytest.raises(ValueError, match=r"y_true without missing values, found 1 \(the first at position 1\)"):
        clustering_metrics(missing, [0, 1, 2])
    with pytest.raises(ValueError, match="y_pred without missing values"):
        clustering_metrics([0, 1, 2], missing)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="found 2 and 3"):
        clustering_metrics([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"y_true as a non-empty one-dimensional array, found shape \(0,\)"):
        clustering_metrics([], [])
    with pytest.raises(ValueError, match=r"y_pred as a non-empty one-dimensional array, found shape \(2, 1\)"):
        clustering_metrics([0, 1], np.zeros((2, 1)))


def test_series_of_the_same_cells_in_another_order_are_refused():
    true = pd.Series(["a", "b", "b"], index=["c0", "c1", "c2"])
    pred = pd.Series(["0", "1", "1"], index=["c0", "c1", "c2"])
    assert clustering_metrics(true, pred)["acc"] == 1.0
    with pytest.raises(ValueError, match="in the same order"):
        clustering_metrics(true, pred.iloc[::-1])
    # Index labels without any name in common are not in another order, so they are accepted.
    assert clustering_metrics(true, pred.reset_index(drop=True))["acc"] == 1.0


def test_rare_type_recall_by_hand():
    # 100 cells: A 96, B 2, C 2. Cluster 1 has one of the two B, C lies in A's cluster.
    true = ["A"] * 96 + ["B"] * 2 + ["C"] * 2
    pred = [0] * 97 + [1] + [0] * 2
    assert rare_type_recall(true, pred) == pytest.approx((0.5 + 0.0) / 2)
    assert rare_type_recall(true, true) == 1.0
    # A is not rare below a share of 0.96
    assert rare_type_recall(true, pred, max_fraction=0.96) == pytest.approx((1 + 0.5 + 0) / 3)


def test_rare_type_recall_without_rare_types_is_nan():
    assert np.isnan(rare_type_recall(["A", "B"], [0, 1]))
    with pytest.raises(ValueError, match=r"max_fraction in \(0, 1\], found 0"):
        rare_type_recall(["A", "B"], [0, 1], max_fraction=0)
    with pytest.raises(ValueError, match="found 2 and 3"):
        rare_type_recall([0, 1], [0, 1, 2])


def test_contingency_is_that_of_scikit_learn_and_keeps_groups_without_cells():
    rng = np.random.default_rng(0)
    first, second = rng.integers(3, size=50), rng.integers(5, size=50)
    np.testing.assert_array_equal(contingency(first, second, 3, 5), contingency_matrix(first, second))
    np.testing.assert_array_equal(contingency(first, second, 4, 6)[3], 0)
    np.testing.assert_array_equal(contingency(first, second, 4, 6)[:, 5], 0)
