"""Colours of groups, which are the same in every plot."""

from collections.abc import Sequence
from typing import Any

from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scanpy.plotting import palettes

_LARGER = (palettes.default_20, palettes.default_28, palettes.default_102)


def group_colors(adata: AnnData, column: str) -> dict[str, str]:
    """Colour of every group: the colours that scanpy stored in ``uns``, or otherwise the default colours of scanpy.

    Parameters
    ----------
    adata
        Cells. Nothing is written.
    column
        Column of ``obs`` with the groups.

    Returns
    -------
    dict
        Colours by the name of the group, in the order of the categories.
    """
    names = [str(name) for name in adata.obs[column].astype("category").cat.categories]
    stored = [str(color) for color in adata.uns.get(f"{column}_colors", [])]
    colors = stored if len(stored) >= len(names) else default_colors(len(names))
    return dict(zip(names, colors, strict=False))


def default_colors(n: int) -> list[str]:
    """Default colours of scanpy for ``n`` groups."""
    cycle: Sequence[Any] = plt.rcParams["axes.prop_cycle"].by_key().get("color", [])
    palette = next((each for each in (cycle, *_LARGER) if len(each) >= n), palettes.default_102)
    return [to_hex(palette[number % len(palette)]) for number in range(n)]
