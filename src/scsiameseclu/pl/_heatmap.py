"""Heat map that several plots use."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

MAX_WRITTEN = 400
"""Largest number of entries of a heat map whose values are written as text."""


def draw_heatmap(
    ax: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float],
    label: str,
    cmap: str = "viridis",
    write: bool = True,
) -> None:
    """Draw a heat map with named rows and columns and a colour bar. Write the values into a small heat map."""
    image = ax.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    ax.set_xticks(np.arange(len(columns)), columns, rotation=90, fontsize="x-small")
    ax.set_yticks(np.arange(len(rows)), rows, fontsize="x-small")
    if not write or values.size > MAX_WRITTEN:
        return
    brightness = np.asarray(image.cmap(image.norm(values)))[..., :3] @ (0.299, 0.587, 0.114)
    for (i, j), value in np.ndenumerate(values):
        color = "white" if brightness[i, j] < 0.5 else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
