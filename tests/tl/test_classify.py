import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from scsiameseclu.metrics import expected_calibration_error
from scsiameseclu.tl import _classify, classify
from scsiameseclu.tl._classify import _fit_temperature

TYPES = np.array(["B", "NK/T", "pDC"])
METHODS = ["logistic", "knn"]


def _cells(n_obs: int = 300, spread: float = 1.0, seed: int = 0) -> AnnData:
    """Three types around the corners of a triangle."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_obs) % 3
    latent = 4 * np.eye(3)[codes] + spread * rng.normal(size=(n_obs, 3))
    return AnnData(
        np.ones((n_obs, 2), dtype=np.float32),
        obs=pd.DataFrame({"type": TYPES[codes]}, index=[f"c{i}" for i in range(n_obs)]),
        obsm={"X_siamese_clu": latent.astype(np.float32)},
    )


def _hide(adata: AnnData, share: float, seed: int = 0) -> np.ndarray:
    """Keep some labels in ``obs["part"]``; return a mask of the hidden labels."""
    hidden = np.random.default_rng(seed).random(adata.n_obs) >= share
    adata.obs["part"] = adata.obs["type"].astype(object).mask(hidden)
    return hidden


@pytest.mark.parametrize("method", METHODS)
def test_hidden_labels_are_found_and_written_where_promised(method: str) -> None:
    adata = _cells()
    hidden = _hide(adata, 0.1)
    probs = classify(adata, "part", method=method)
    assert probs.shape == (300, 3) and probs.index.equals(adata.obs_names) and list(probs.columns) == list(TYPES)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    predicted = adata.obs["part_predicted"]
    assert (predicted == adata.obs["type"])[hidden].mean() > 0.95
    np.testing.assert_array_equal(adata.obs["part_predicted_confidence"], probs.max(axis=1))
    np.testing.assert_array_equal(adata.obsm["part_predicted_probs"], probs)
    assert adata.obsm["part_predicted_probs"].dtype == np.float32
    record = adata.uns["part_predicted"]
    assert record["accuracy"] > 0.9 and record["params"]["n_labelled"] == (~hidden).sum()


@pytest.mark.parametrize("method", METHODS)
def test_confidence_is_the_share_of_right_predictions(method: str) -> None:
    adata = _cells(3000, spread=2.5)
    hidden = _hide(adata, 0.3)
    probs = classify(adata, "part", method=method)
    right = probs.columns[probs.to_numpy().argmax(1)] == adata.obs["type"]
    assert 0.6 < right[hidden].mean() < 0.95
    assert expected_calibration_error(probs.max(axis=1)[hidden], right[hidden]) < 0.05
    assert adata.uns["part_predicted"]["calibration_error"] < 0.06


def test_low_confidence_is_unassigned() -> None:
    adata = _cells(spread=2.5)
    _hide(adata, 0.3)
    classify(adata, "part", threshold=0.8)
    predicted, sure = adata.obs["part_predicted"], adata.obs["part_predicted_confidence"] >= 0.8
    assert 0.1 < sure.mean() < 0.9
    assert ((predicted == "unassigned") == ~sure).all()
    assert predicted.cat.categories.tolist() == [*TYPES, "unassigned"]
    classify(adata, "part", threshold=0, key_added="all")
    assert "unassigned" not in adata.obs["all"].cat.categories


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_label_is_not_believed(method: str) -> None:
    adata = _cells(spread=0.5)
    adata.obs["type"] = adata.obs["type"].astype(object)
    adata.obs.iloc[0, 0] = "pDC"  # a B cell
    classify(adata, "type", method=method)
    assert adata.obs["type_predicted"].iloc[0] == "B"
    assert (adata.obs["type_predicted"] == adata.obs["type"]).sum() == 299


def test_every_kind_of_missing_label() -> None:
    adata = _cells()
    hidden = _hide(adata, 0.2)
    expected = classify(adata, "part")
    for name in ("Unknown", "unassigned"):
        adata.obs["named"] = adata.obs["part"].fillna(name).astype("category")
        pd.testing.assert_frame_equal(classify(adata, "named"), expected)
    adata.obs["named"] = adata.obs["part"].fillna("?")
    pd.testing.assert_frame_equal(classify(adata, "named", unlabeled_category="?"), expected)
    adata.obs["number"] = np.where(hidden, np.nan, np.arange(300) % 3)
    assert list(classify(adata, "number").columns) == ["0.0", "1.0", "2.0"]


@pytest.mark.parametrize("method", METHODS)
def test_reference_labels_queries_whose_own_labels_are_not_looked_at(method: str) -> None:
    reference, query = _cells(300, seed=1), _cells(90, seed=2)
    reference.obsm["X_ref"] = reference.obsm["X_siamese_clu"]
    truth = query.obs["type"].copy()
    query.obs["type"] = "wrong"
    before = reference.copy()
    classify(query, "type", reference=reference, reference_rep="X_ref", method=method)
    assert (query.obs["type_predicted"].astype(str) == truth).mean() > 0.95
    assert reference.obs.equals(before.obs) and list(reference.obsm) == list(before.obsm) and not reference.uns
    reference.obsm["X_ref"] = reference.obsm["X_ref"][:, :2]
    with pytest.raises(ValueError, match=r"same dimension, found 3 and 2 \(reference\)"):
        classify(query, "type", reference=reference, reference_rep="X_ref")


@pytest.mark.parametrize("method", METHODS)
def test_types_with_one_labelled_cell(method: str) -> None:
    adata = _cells(60, spread=0.3)
    adata.obs["part"] = adata.obs["type"].astype(object).where(np.arange(60).astype(bool) & (np.arange(60) < 12))
    adata.obs.iloc[:, adata.obs.columns.get_loc("part")] = [
        label if label != "B" or i == 3 else None for i, label in enumerate(adata.obs["part"])
    ]
    probs = classify(adata, "part", method=method)
    assert np.isfinite(probs.to_numpy()).all()
    assert (adata.obs["part_predicted"] == adata.obs["type"])[12:].mean() > 0.6
    two = adata[np.isin(np.arange(60), [3, 4, 7, 10, 20, 30])].copy()
    assert np.isfinite(classify(two, "part", method=method).to_numpy()).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_only_labelled_cell_of_a_type_keeps_its_type(method: str) -> None:
    adata = _cells(60, spread=0.3)
    adata.obs["part"] = adata.obs["type"].where((np.arange(60) % 3 != 1) | (np.arange(60) == 7))
    adata.obs.loc[adata.obs_names[30:], "part"] = np.nan
    probs = classify(adata, "part", method=method, n_neighbors=3)
    assert adata.obs["part"].value_counts()["NK/T"] == 1
    assert probs.iloc[7].idxmax() == "NK/T"
    assert adata.uns["part_predicted"]["accuracy"] == 1.0


def test_the_temperature_of_a_few_cells_stays_near_one() -> None:
    probs = np.tile([[0.98, 0.01, 0.01]], (5, 1))
    codes = np.array([0, 0, 0, 1, 2])  # high confidence in five cells, of which three are right
    few, free = (_fit_temperature(probs, codes, prior_sd=sd) for sd in (0.25, np.inf))
    many = _fit_temperature(np.tile(probs, (400, 1)), np.tile(codes, 400), prior_sd=0.25)
    assert 1.0 < few < 1.6 and min(many, free) > 2.5


def test_only_logistic_regression_has_a_prior_for_its_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    def temperatures() -> dict[str, float]:
        found = {}
        for method in METHODS:
            adata = _cells(300, spread=4.0)
            adata.obs["part"] = adata.obs["type"].where(np.arange(300) < 15)
            classify(adata, "part", method=method)
            found[method] = adata.uns["part_predicted"]["temperature"]
        return found

    default = temperatures()
    monkeypatch.setattr(_classify, "PRIOR_SD", dict.fromkeys(METHODS, np.inf))
    free = temperatures()
    assert default["knn"] == free["knn"]
    assert abs(np.log(default["logistic"])) < 0.8 * abs(np.log(free["logistic"]))


@pytest.mark.parametrize("method", METHODS)
def test_one_label_for_each_type_is_enough(method: str) -> None:
    adata = _cells(300, spread=0.5)
    adata.obs["part"] = adata.obs["type"].where(np.arange(300) < 3)
    with pytest.warns(UserWarning, match=r"obs\['part'\]: no type has two labelled cells, so confidences are not"):
        probs = classify(adata, "part", method=method)
    assert (probs.idxmax(axis=1) == adata.obs["type"]).mean() > 0.95
    record = adata.uns["part_predicted"]
    assert record["temperature"] == 1.0 and np.isnan(record["accuracy"]) and np.isnan(record["calibration_error"])


def test_many_types_are_warned_of_and_batches_as_numbers_are_labels() -> None:
    adata = _cells(600)
    adata.obs["many"] = np.arange(600) % 201
    with pytest.warns(UserWarning, match=r"obs\['many'\] has 201 types. Check that the column holds cell types"):
        classify(adata, "many", method="knn")
    adata.obs["number"] = adata.obs["type"].map({"B": 0.0, "NK/T": 1.0, "pDC": 2.0})
    assert list(classify(adata, "number").columns) == ["0.0", "1.0", "2.0"]


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result_and_duplicated_cells(method: str) -> None:
    adata = _cells()
    _hide(adata, 0.3)
    pd.testing.assert_frame_equal(classify(adata, "part", method=method), classify(adata, "part", method=method))
    adata.obsm["X_siamese_clu"][:] = 1.0
    np.testing.assert_allclose(classify(adata, "part", method=method, n_neighbors=1000).max(axis=1), 1 / 3, atol=0.1)


def test_everything_survives_a_file(tmp_path) -> None:
    adata = _cells()
    _hide(adata, 0.3)
    classify(adata, "part")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = read_h5ad(tmp_path / "cells.h5ad")
    assert read.uns["part_predicted"]["types"].tolist() == list(TYPES)
    assert (read.obs["part_predicted"].astype(str) == adata.obs["part_predicted"].astype(str)).all()


def test_bad_arguments_are_refused_and_nothing_is_written() -> None:
    adata = _cells()
    columns = list(adata.obs)
    with pytest.raises(KeyError, match="`labels_key`: expected a column of obs, found 'nothing'. Available: "):
        classify(adata, "nothing")
    with pytest.raises(KeyError, match=r"adata.obsm\['X_other'\], found \['X_siamese_clu'\]: call write_to_adata"):
        classify(adata, "type", use_rep="X_other")
    with pytest.raises(ValueError, match=r"one of \['logistic', 'knn'\], found 'svm'"):
        classify(adata, "type", method="svm")
    with pytest.raises(ValueError, match=r"threshold in \[0, 1\], found 50"):
        classify(adata, "type", threshold=50)
    with pytest.raises(ValueError, match="n_neighbors of at least 1, found 0"):
        classify(adata, "type", n_neighbors=0)
    adata.obs["measured"] = np.linspace(0, 1, adata.n_obs)
    with pytest.raises(
        ValueError, match=r"cell types in obs\['measured'\], found numbers with fractions, such as 0.0;"
    ):
        classify(adata, "measured")
    adata.obs["barcode"] = adata.obs_names
    with pytest.raises(ValueError, match="found 300 different values for 300 labelled cells"):
        classify(adata, "barcode")
    adata.obs["one"] = "B"
    with pytest.raises(ValueError, match=r"at least two types in obs\['one'\], found \['B'\]"):
        classify(adata, "one")
    adata.obsm["X_siamese_clu"][5, 0] = np.nan
    with pytest.raises(ValueError, match="finite embedding"):
        classify(adata, "type")
    assert list(adata.obs) == [*columns, "measured", "barcode", "one"] and list(adata.obsm) == ["X_siamese_clu"]
