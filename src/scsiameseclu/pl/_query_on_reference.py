"""Plot of mapped cells on the reference."""

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from sklearn.neighbors import NearestNeighbors

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, UNASSIGNED, latent_key
from scsiameseclu.pl._colors import default_colors, group_colors
from scsiameseclu.pl._embedding import latent_umap
from scsiameseclu.pl._figure import Drawn, PathOf, canvas, finish
from scsiameseclu.pl._input import check_columns, check_embedding

__all__ = ["query_on_reference"]

_GREY = "#d9d9d9"


@with_shared_descriptions
def query_on_reference(
    query: AnnData,
    reference: AnnData,
    color: str | None = None,
    *,
    key: str = DEFAULT_KEY,
    reference_key: str = DEFAULT_KEY,
    basis: str | None = None,
    n_neighbors: int = 15,
    figsize: tuple[float, float] = (5.2, 4.2),
    ax: Axes | None = None,
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Drawn:
    """Draw mapped cells in colour on the UMAP of the reference, whose cells are grey.

    The nearest reference cells of each mapped cell are found in the embedding. The mapped cell is drawn at the mean of
    the coordinates of these reference cells. Cells that are unlike the reference are also drawn among the reference
    cells, so their position means little. Use the out-of-reference score to recognise such cells.

    Parameters
    ----------
    query
        Cells mapped by :func:`~scsiameseclu.tl.map`. Their coordinates are stored in ``obsm[f"X_{key}_umap"]``.
    reference
        Cells of the reference, with the results of the model that the query was mapped to.
    color
        Column of ``query.obs`` to colour the mapped cells by. ``None``: the clusters.
    key, reference_key
        The ``key_added`` under which the results of the query and of the reference were written.
    basis
        Coordinates in ``reference.obsm``, such as ``"X_umap"``. ``None``: the UMAP of the embedding in
        ``obsm[f"X_{reference_key}_umap"]``. If this entry does not exist, it is computed and stored, as in
        :func:`~scsiameseclu.pl.embedding`.
    n_neighbors
        Number of reference cells whose coordinates are averaged, but at most the number of reference cells.
    %(param_figsize)s
    %(param_ax)s
    %(param_finish)s
    **kwargs
        Further arguments of :func:`scanpy.pl.embedding` for the mapped cells.

    Returns
    -------
    %(returns_panel)s

    Raises
    ------
    TypeError
        If ``query`` or ``reference`` is not an AnnData.
    KeyError
        If an embedding, the basis or the colour is missing. The message lists the available names.
    ValueError
        If the two embeddings have different numbers of dimensions, or ``n_neighbors`` is below 1.
    """
    color = key if color is None else color
    check_columns(query, color, cure=": call tl.map() first, or name another color")
    check_embedding(query, latent_key(key), "call tl.map() first")
    check_embedding(reference, latent_key(reference_key))
    if basis is None:
        basis = f"{latent_key(reference_key)}_umap"
        if basis not in reference.obsm:
            basis = latent_umap(reference, latent_key(reference_key))
    else:
        check_embedding(reference, basis, "compute it first, or leave out basis")
    places = np.asarray(reference.obsm[basis])[:, :2]
    stored = f"{latent_key(key)}_umap"
    query.obsm[stored] = _placed(
        np.asarray(query.obsm[latent_key(key)]),
        np.asarray(reference.obsm[latent_key(reference_key)]),
        places,
        n_neighbors,
    )

    figure, panel = canvas(ax, figsize)
    size = 120_000 / (reference.n_obs + query.n_obs)
    panel.scatter(
        places[:, 0], places[:, 1], s=min(size, 20.0), color=_GREY, linewidth=0, rasterized=reference.n_obs > 20_000
    )
    options = {"frameon": False, "size": min(2.0 * size, 40.0), **kwargs}
    if color == key:
        options.setdefault("palette", _palette(query, reference, key, reference_key))
    # Scanpy writes colours to `uns`. A new object is drawn, so that colours of the user are not replaced.
    shown = AnnData(obs=query.obs[[color]].copy(), obsm={stored: query.obsm[stored]})
    sc.pl.embedding(shown, basis=stored, color=color, ax=panel, show=False, **options)
    return finish(figure, panel, ax=ax, show=show, save=save, return_fig=return_fig)


def _placed(latent: np.ndarray, reference: np.ndarray, places: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Mean of the coordinates of the nearest reference cells, float32 ``(n, 2)``."""
    if latent.shape[1] != reference.shape[1]:
        raise ValueError(
            f"Expected embeddings by the same model, found {latent.shape[1]} dimensions in the query and "
            f"{reference.shape[1]} in the reference."
        )
    if n_neighbors < 1:
        raise ValueError(f"Expected n_neighbors of at least 1, found {n_neighbors}.")
    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(reference))).fit(reference)
    return places[search.kneighbors(latent, return_distance=False)].mean(axis=1).astype(np.float32)


def _palette(query: AnnData, reference: AnnData, key: str, reference_key: str) -> dict[str, str]:
    """Colours of the clusters, as in plots of the reference. Unassigned cells are black."""
    palette = group_colors(reference, reference_key) if reference_key in reference.obs else {}
    names = [str(name) for name in query.obs[key].astype("category").cat.categories]
    without_color = [name for name in names if name not in palette]  # clusters without a cell in the reference
    colors = default_colors(len(palette) + len(without_color))[len(palette) :]
    return {**palette, **dict(zip(without_color, colors, strict=True)), UNASSIGNED: "black"}
