"""Plot of the out-of-reference scores of mapped cells."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, MAX_OUT_OF_REFERENCE, out_of_reference_key
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns

__all__ = ["out_of_reference"]


@with_shared_descriptions
def out_of_reference(
    adata: AnnData,
    *,
    key: str = DEFAULT_KEY,
    threshold: float | None = MAX_OUT_OF_REFERENCE,
    n_bins: int = 50,
    figsize: tuple[float, float] = (4.4, 3.0),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw a histogram of the out-of-reference scores of mapped cells.

    If the mapped cells are like the reference cells, all bins have about the height of the dashed line. If bins at the
    right end are higher than the line, some of the cells are unlike the reference.

    Parameters
    ----------
    adata
        Cells mapped by :func:`~scsiameseclu.tl.map`.
    key
        The ``key_added`` of the mapping.
    threshold
        Score to mark with a line. The title then shows the share of cells with a higher score. ``None``: no line.
    n_bins
        Number of bins of equal width.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If there are no scores. The message lists the existing columns.
    ValueError
        If ``n_bins`` is below 1.
    """
    column = out_of_reference_key(key)
    check_columns(adata, column, cure=": call tl.map() first")
    if n_bins < 1:
        raise ValueError(f"Expected n_bins of at least 1, found {n_bins}.")
    scores = adata.obs[column].to_numpy(dtype=float)
    figure, panel = canvas(ax, figsize)
    panel.hist(scores, bins=np.linspace(0.0, 1.0, n_bins + 1).tolist(), color="lightsteelblue")
    panel.axhline(len(scores) / n_bins, color="black", linestyle="--", linewidth=1, label="cells like the reference")
    if threshold is not None:
        panel.axvline(threshold, color="grey", linestyle=":", linewidth=1)
        panel.set_title(f"{np.mean(scores > threshold):.1%} of cells above {threshold:g}", fontsize="small")
    panel.set(xlim=(0, 1), xlabel="out-of-reference score", ylabel="cells")
    panel.legend(fontsize="x-small", frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)
