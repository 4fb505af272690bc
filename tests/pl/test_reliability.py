import numpy as np
import pytest

from scsiameseclu.pl import reliability


def test_points_are_the_filled_bins() -> None:
    ax = reliability([0.2, 0.9, 0.7, 0.8], [0, 1, 1, 0], n_bins=2, return_fig=True).axes[0]
    diagonal, points = ax.lines
    np.testing.assert_allclose(points.get_xdata(), [0.2, 0.8])
    np.testing.assert_allclose(points.get_ydata(), [0, 2 / 3])
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.25, 0.75])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert ax.get_title() == "calibration error 0.150"


def test_empty_bins_are_not_drawn() -> None:
    np.testing.assert_allclose(reliability([0.95, 0.95], [1, 0], return_fig=True).axes[0].lines[1].get_ydata(), [0.5])
    with pytest.raises(ValueError, match="the same length"):
        reliability([0.5], [1, 0])
