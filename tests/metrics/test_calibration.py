import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from scsiameseclu.metrics import expected_calibration_error, reliability_curve


def test_bins_by_hand():
    curve = reliability_curve([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], [0, 1, 0, 1, 1, 1], n_bins=2)
    # 0.5 belongs to the lower bin, because bins include their upper limit
    assert curve["n_cells"].tolist() == [3, 3]
    np.testing.assert_allclose(curve["confidence"], [0.3, 2.6 / 3])
    np.testing.assert_allclose(curve["accuracy"], [1 / 3, 1.0])
    assert expected_calibration_error([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], [0, 1, 0, 1, 1, 1], n_bins=2) == pytest.approx(
        (abs(1 / 3 - 0.3) + (1 - 2.6 / 3)) / 2
    )


@pytest.mark.parametrize("n_bins", [1, 4, 10])
def test_bins_with_cells_are_those_of_scikit_learn(n_bins):
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.beta(5, 1, size=200).round(2), np.linspace(0, 1, n_bins + 1)])
    correct = rng.uniform(size=len(confidence)) < confidence
    curve = reliability_curve(confidence, correct, n_bins)
    filled = curve[curve["n_cells"] > 0]
    accuracy, mean = calibration_curve(correct, confidence, n_bins=n_bins)
    np.testing.assert_allclose(filled["accuracy"], accuracy)
    np.testing.assert_allclose(filled["confidence"], mean)


def test_limits_of_the_range_have_a_bin_and_empty_bins_are_nan():
    curve = reliability_curve([0.0, 1.0], [False, True], n_bins=4)
    assert curve["n_cells"].tolist() == [1, 0, 0, 1]
    assert np.isnan(curve["accuracy"][1]) and curve["upper"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0


def test_single_precision_probabilities_may_exceed_one_by_rounding():
    assert expected_calibration_error(np.float32([1.0000001]), [True]) == 0.0


def test_overconfidence_is_the_error():
    assert expected_calibration_error(np.full(100, 0.99), np.arange(100) < 60) == pytest.approx(0.39)


def test_honest_confidences_have_a_small_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=20_000)
    correct = rng.uniform(size=20_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.02
    assert expected_calibration_error(confidence**0.25, correct) > 0.2


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"the same length, found shapes \(2,\) and \(3,\)"):
        reliability_curve([0.1, 0.2], [1, 0, 1])
    with pytest.raises(ValueError, match=r"in \[0, 1\] without missing values, found 0.5 to 1.5"):
        reliability_curve([0.5, 1.5], [1, 0])
    with pytest.raises(ValueError, match="without missing values"):
        expected_calibration_error([0.5, np.nan], [1, 0])
    with pytest.raises(ValueError, match="correct as booleans"):
        reliability_curve([0.5, 0.6], [2, 0])
    with pytest.raises(ValueError, match="n_bins of at least 1, found 0"):
        reliability_curve([0.5], [1], n_bins=0)
