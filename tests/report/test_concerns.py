"""Every rule finds its problem, and finds nothing in an ordinary clustering."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu.report._cells import Cells
from scsiameseclu.report._concerns import explained, find_concerns
from scsiameseclu.report._names import Name, Names

N = 300


def cells(**changed) -> Cells:
    """Three clusters of 100 cells without any problem."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], N // 3)
    ordinary = {
        "obs": pd.DataFrame({"sample": rng.choice(["a", "b"], N), "score": rng.normal(size=N)}, dtype=object).astype(
            {"score": float}
        ),
        "clusters": pd.Categorical.from_codes(codes, ["0", "1", "2"]),
        "probabilities": np.eye(3, dtype=np.float32)[codes] * 0.9 + 0.1 / 3,
        "n_counts": rng.integers(900, 1100, N).astype(float),
        "n_genes": np.full(N, 500),
        "n_vars": 2000,
        "out_of_reference": rng.random(N).astype(np.float32),
        "cluster_stability": pd.Series([0.9, 0.9, 0.9], ["0", "1", "2"]),
        "shown": AnnData(np.zeros((1, 1))),
    }
    return Cells(**{**ordinary, **changed})


def found(shown: Cells, *, names: Names | None = None, tree=None, is_query: bool = True) -> set[tuple[str, str]]:
    concerns = find_concerns(shown, tree, names or Names(), list(shown.obs), is_query)
    assert all(each.text.endswith(".") or each.text.endswith(").") for each in concerns)
    return {(each.kind, each.about) for each in concerns}


def test_an_ordinary_clustering_is_fine():
    assert found(cells()) == set()


def test_few_counts():
    assert found(cells(n_counts=np.full(N, 400.0))) == {("depth", "all cells")}
    counts = np.full(N, 1000.0)
    counts[100:200] = 490.0
    assert found(cells(n_counts=counts)) == {("depth", "1")}
    counts[100:200] = 510.0
    assert found(cells(n_counts=counts)) == set()


@pytest.mark.parametrize(("size", "expected"), [(19, {("size", "1")}), (20, set()), (0, set())])
def test_small_clusters(size, expected):
    codes = np.zeros(N, dtype=int)
    codes[:size] = 1
    clusters = pd.Categorical.from_codes(codes, ["0", "1"])
    probabilities = np.eye(2, dtype=np.float32)[codes]
    assert found(cells(clusters=clusters, probabilities=probabilities, cluster_stability=None)) == expected


def test_unstable_clusters():
    stability = pd.Series([0.59, 0.6, np.nan], ["0", "1", "2"])
    assert found(cells(cluster_stability=stability)) == {("stability", "0")}


def test_clusters_that_follow_a_column():
    codes = np.repeat([0, 1, 2], N // 3)
    donor = np.where(codes == 2, "x", np.tile(["x", "y", "z"], N // 3))
    assert found(cells(obs=pd.DataFrame({"donor": donor}))) == {("column", "2")}
    assert found(cells(obs=pd.DataFrame({"donor": donor == "x"}))) == {("column", "2")}
    # Clusters cannot follow a column with one value, or with another value for every cell.
    assert found(cells(obs=pd.DataFrame({"same": ["x"] * N, "cell": [str(i) for i in range(N)]}))) == set()
    noise = np.random.default_rng(0).normal(size=N)
    assert found(cells(obs=pd.DataFrame({"depth": codes + 0.1 * noise}))) == {("column", "all cells")}
    assert found(cells(obs=pd.DataFrame({"depth": codes + 3.0 * noise}))) == set()


def test_variance_explained_by_groups():
    assert explained(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1])) == pytest.approx(1.0)
    assert explained(np.array([1.0, 3.0, 1.0, 3.0]), np.array([0, 0, 1, 1])) == pytest.approx(0.0)
    values = np.array([0.0, 1.0, 2.0, 4.0, np.nan, np.inf])
    within = ((values[:2] - 0.5) ** 2).sum() + ((values[2:4] - 3.0) ** 2).sum()
    total = ((values[:4] - values[:4].mean()) ** 2).sum()
    assert explained(values, np.array([0, 0, 1, 1, 0, 1])) == pytest.approx(1 - within / total)
    assert explained(np.full(3, np.nan), np.zeros(3, dtype=int)) == explained(np.ones(3), np.zeros(3, dtype=int)) == 0.0


def test_two_types_in_one_cluster():
    close = Names({"0": Name("B", 1.0, "T", 0.95, is_close=True), "1": Name("B", 1.0, "T", 0.1)})
    assert found(cells(), names=close) == {("two types", "0")}
    mixed = Names({}, {"0": Name("B", 0.75, "T", 0.25), "1": Name("B", 0.8, "T", 0.2), "2": Name("B", 1.0)})
    assert found(cells(), names=mixed) == {("two types", "0")}


def split(node, parent, left, right, p_value):
    split = {"node": node, "parent": parent, "left": left, "right": right, "n_left": 50, "n_right": 50}
    return {**split, "separability": 2.0, "p_value": p_value, "genes": {"up": 1.0}}


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [((0.01, 0.5), {("two types", "0")}), ((0.5, 0.01), {("two types", "1")}), ((0.06, 0.06), set())],
)
def test_clusters_that_the_tree_divides(p_values, expected):
    tree = {
        "centers": np.zeros((4, 2)).tolist(),
        "clusters": [0, 0, 1, 1],
        "current": [0, 0, 1, 1],
        "sizes": [50, 50, 100, 100],
        "children": [[0, 1], [2, 3], [4, 5]],
        "splits": [split(6, None, 4, 5, 0.01), split(4, 6, 0, 1, p_values[0]), split(5, 6, 2, 3, p_values[1])],
    }
    assert found(cells(), tree=tree, is_query=False) == expected
    assert found(cells(), tree=tree, is_query=True) == set()


def test_uncertain_cells():
    probabilities = cells().probabilities.copy()
    probabilities[100:110] = 0.4, 0.45, 0.15
    assert found(cells(probabilities=probabilities)) == set()
    probabilities[100:111] = 0.4, 0.45, 0.15
    assert found(cells(probabilities=probabilities)) == {("uncertain", "1")}


def test_cells_unlike_the_reference():
    score = np.full(N, 0.5, dtype=np.float32)
    n_many = int(0.15 * N)
    score[:n_many] = 0.96
    assert found(cells(out_of_reference=score)) == set()
    score[: n_many + 1] = 0.96
    assert found(cells(out_of_reference=score)) == {("reference", "all cells")}
    assert found(cells(out_of_reference=score), is_query=False) == set()
    assert found(cells(out_of_reference=None)) == set()
