"""Plot of the correlations between the dimensions, or between the cells, of an embedding."""

from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import ADATA_KEYS, DEFAULT_KEY
from scsiameseclu.metrics._latent import unit_rows
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._heatmap import draw_heatmap
from scsiameseclu.pl._input import check_columns, check_embedding

__all__ = ["latent_correlation"]


@with_shared_descriptions
def latent_correlation(
    adata: AnnData,
    *,
    between: Literal["dimensions", "cells"] = "dimensions",
    use_rep: str = ADATA_KEYS.LATENT,
    key: str = DEFAULT_KEY,
    max_cells: int = 500,
    random_state: int = 0,
    figsize: tuple[float, float] = (4.6, 4.0),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw Pearson correlations between the dimensions of an embedding, or between cells ordered by cluster.

    Between dimensions, high correlations off the diagonal mean that dimensions are redundant. Between cells, an
    embedding that separates the clusters shows blocks along the diagonal. An over-smoothed embedding shows high
    correlations between all cells. Xu et al. (IJCAI 2025) show the same comparison of cells.

    Parameters
    ----------
    adata
        Cells with an embedding.
    between
        What to correlate: ``"dimensions"`` or ``"cells"``.
    use_rep
        Entry of ``obsm`` with the embedding.
    key
        Column of ``obs`` with the groups of the cells, for ``between="cells"``. Cells without a group are left out.
    max_cells
        Largest number of cells to draw, for ``between="cells"``. From more cells, a random sample is drawn, in which
        the groups have the same proportions.
    random_state
        Seed of this sample.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given; otherwise ``None``. The figure shows a
    heat map and a colour bar. A dimension with the same value in all cells has correlation 0 with all other dimensions.
    A cell with the same value in all dimensions has correlation 0 with all other cells.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If the embedding or the groups are missing.
    ValueError
        If ``between`` is unknown or ``max_cells`` below 2.
    """
    if between not in ("dimensions", "cells"):
        raise ValueError(f"Expected between to be 'dimensions' or 'cells', found {between!r}.")
    if max_cells < 2:
        raise ValueError(f"Expected max_cells of at least 2, found {max_cells}.")
    check_embedding(adata, use_rep)
    if between == "cells":
        check_columns(adata, key)
    latent = np.asarray(adata.obsm[use_rep], dtype=np.float64)
    figure, panel = canvas(ax, figsize)
    if between == "dimensions":
        names = [str(i) for i in range(latent.shape[1])]
        _draw(panel, latent.T, names)
        panel.set_title(f"{latent.shape[1]} dimensions of {use_rep}", fontsize="small")
    else:
        groups = pd.Categorical(adata.obs[key]).remove_unused_categories()
        rows = _ordered_sample(groups.codes.astype(np.int64), max_cells, random_state)
        _draw(panel, latent[rows], [])
        _mark_groups(panel, groups[rows])
        panel.set_ylabel(key)
        panel.set_title(f"{len(rows)} cells in {use_rep}", fontsize="small")
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _draw(panel: Axes, rows: NDArray[np.float64], names: list[str]) -> None:
    """Draw the correlations of the rows as a heat map in red and blue, without text."""
    values = _correlation(rows)
    draw_heatmap(panel, values, names, names, limits=(-1, 1), label="correlation", cmap="RdBu_r", write=False)


def _mark_groups(panel: Axes, groups: pd.Categorical) -> None:
    """Draw lines between the groups of ordered cells, and the names of the groups."""
    sizes = np.bincount(groups.codes, minlength=len(groups.categories))
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        panel.axhline(end - 0.5, color="black", linewidth=0.5)
        panel.axvline(end - 0.5, color="black", linewidth=0.5)
    panel.set_yticks(ends - sizes / 2 - 0.5, groups.categories.astype(str), fontsize="x-small")


def _correlation(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of the rows. A constant row has correlation 0 with other rows. The diagonal is 1."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    units = unit_rows(centred)
    correlation = units @ units.T
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _ordered_sample(codes: NDArray[np.int64], max_cells: int, random_state: int) -> NDArray[np.int64]:
    """Row numbers of a random sample of cells, ordered by group.

    Cells are shuffled and ordered by group. Then cells at equal distances in this order are taken.
    """
    shuffled = np.random.default_rng(random_state).permutation(np.flatnonzero(codes >= 0))
    ordered = shuffled[np.argsort(codes[shuffled], kind="stable")]
    n_cells = min(max_cells, len(ordered))
    return ordered[np.arange(n_cells) * len(ordered) // max(n_cells, 1)]
