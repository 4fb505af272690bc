"""Plot of the embedding in two dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, TARGET_SUM, confidence_key, latent_key
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns, check_embedding
from scsiameseclu.pp._counts import totals
from scsiameseclu.pp._threads import numba_within_thread_limit, within_thread_limit

__all__ = ["embedding"]


@with_shared_descriptions
def embedding(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    key: str = DEFAULT_KEY,
    basis: str | None = None,
    n_neighbors: int = 15,
    random_state: int = 0,
    panel_size: tuple[float, float] = (4.4, 3.8),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Drawn:
    """Draw the cells in two dimensions, coloured by cluster, confidence, other columns or genes.

    Parameters
    ----------
    %(param_results)s
    color
        Columns of ``adata.obs`` or names of genes, one panel each. ``None``: the clusters and their confidence. If
        ``X`` holds whole numbers, genes are drawn as ``log(1 + 10,000 * count / total counts of the cell)``. Otherwise,
        and if there is a ``raw`` or the argument ``layer`` or ``use_raw`` is given, scanpy chooses the values.
    %(param_key)s
    basis
        Existing coordinates in ``adata.obsm``, such as ``"X_umap"``. ``None``: a UMAP of the embedding
        ``obsm[f"X_{key}"]`` is computed and stored in ``obsm[f"X_{key}_umap"]``. An existing ``obsm["X_umap"]`` and
        existing neighbour graphs are not changed.
    n_neighbors
        Number of neighbours for this UMAP, but at most the number of other cells.
    random_state
        Seed of this UMAP.
    panel_size
        Width and height of one panel, in inches.
    ax
        Axes to draw into, only with a single colour. ``None``: the axes of a new figure.
    %(param_finish)s
    **kwargs
        Further arguments of :func:`scanpy.pl.embedding`.

    Returns
    -------
    The figure if ``return_fig``; the axes (a list of axes for several colours) if ``show=False`` or ``ax`` is given;
    otherwise ``None``. The figure has one panel per entry of ``color``.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If a colour, the basis or the embedding is missing. The message lists the available names.
    ValueError
        If ``ax`` is given with several colours.
    """
    colors = _resolve_colors(adata, color, key)
    if ax is not None and len(colors) > 1:
        raise ValueError(
            f"Expected one color with ax, found {len(colors)} ({', '.join(colors)}): draw one color per call."
        )
    if basis is None:
        basis = latent_umap(adata, latent_key(key), n_neighbors=n_neighbors, random_state=random_state)
    elif basis not in adata.obsm and f"X_{basis}" not in adata.obsm:
        raise KeyError(f"Expected coordinates obsm[{basis!r}], found {sorted(adata.obsm)}.")
    if ax is None:
        figure, grid = plt.subplots(
            1, len(colors), figsize=(panel_size[0] * len(colors), panel_size[1]), squeeze=False, layout="constrained"
        )
        panels = list(grid.flat)
    else:
        figure, panel = canvas(ax, panel_size)
        panels = [panel]
    as_stored = adata.raw is not None or "layer" in kwargs or "use_raw" in kwargs
    for panel, name in zip(panels, colors, strict=True):
        cells = adata if as_stored or name in adata.obs else _with_expression(adata, name)
        options = {"frameon": False, **kwargs}
        if name == confidence_key(key):
            options.setdefault("title", "confidence of the cluster")
        sc.pl.embedding(cells, basis=basis, color=name, ax=panel, show=False, **options)
    axes = panels if len(panels) > 1 else panels[0]
    return finish(figure, axes, ax=ax, show=show, save=save, return_fig=return_fig)


def _resolve_colors(adata: AnnData, color: str | Sequence[str] | None, key: str) -> list[str]:
    if color is None:
        check_columns(adata, key, cure=": call write_to_adata() first")
        return [name for name in (key, confidence_key(key)) if name in adata.obs]
    check_columns(adata)
    colors = [color] if isinstance(color, str) else list(color)
    missing = [name for name in colors if name not in adata.obs and name not in adata.var_names]
    if missing or not colors:
        raise KeyError(
            f"Expected color among the genes and the obs columns {list(adata.obs.columns)}, found {missing}."
        )
    return colors


def _with_expression(adata: AnnData, gene: str) -> AnnData:
    """An AnnData with the coordinates of the cells, and the expression of one gene as a column of ``obs``."""
    obs = pd.DataFrame({gene: _expression(adata, gene)}, index=adata.obs_names)
    return AnnData(obs=obs, obsm={name: np.asarray(adata.obsm[name]) for name in adata.obsm})


def _expression(adata: AnnData, gene: str) -> NDArray[np.float64]:
    """Values of a gene to colour cells by. Counts are log-normalised to 10,000 counts per cell."""
    values = np.asarray(adata.obs_vector(gene), dtype=np.float64)
    if not np.array_equal(values, np.rint(values)) or (values < 0).any():
        return values
    per_cell = totals(adata.X)[0]
    return np.log1p(TARGET_SUM * values / np.maximum(per_cell, 1.0))


@within_thread_limit()
@numba_within_thread_limit()
def latent_umap(adata: AnnData, latent: str, n_neighbors: int = 15, random_state: int = 0) -> str:
    """Compute the UMAP of the embedding, store the coordinates in ``obsm``, and return the name of the new entry.

    The UMAP is computed on a copy, so graphs and settings of the user are not replaced.
    """
    check_embedding(adata, latent, "call write_to_adata() first, or name other coordinates with basis")
    cells = AnnData(obsm={"latent": np.asarray(adata.obsm[latent])}, shape=(adata.n_obs, 0))
    sc.pp.neighbors(cells, n_neighbors=min(n_neighbors, adata.n_obs - 1), use_rep="latent", random_state=random_state)
    # Spectral initial positions fail with very few cells.
    sc.tl.umap(cells, init_pos="spectral" if adata.n_obs > 10 else "random", random_state=random_state)
    adata.obsm[f"{latent}_umap"] = cells.obsm["X_umap"]
    return f"{latent}_umap"
