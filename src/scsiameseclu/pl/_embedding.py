"""Two-dimensional picture of the embedding."""

from collections.abc import Sequence

import numpy as np
import scanpy as sc
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from scsiameseclu._keys import ADATA_KEYS, DEFAULT_KEY, confidence_key

__all__ = ["embedding"]

UMAP_KEY = f"{ADATA_KEYS.LATENT}_umap"


def embedding(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    key: str = DEFAULT_KEY,
    basis: str | None = None,
    n_neighbors: int = 15,
    random_state: int = 0,
    panel_size: tuple[float, float] = (4.4, 3.8),
    **kwargs: object,
) -> Figure:
    """Draw the cells in two dimensions, coloured by cluster and confidence unless told otherwise.

    Parameters
    ----------
    adata
        Cells with the results of :meth:`~scsiameseclu.SCSiameseClu.write_to_adata`.
    color
        Columns of ``adata.obs`` or genes, one panel each. ``None``: the clusters and their confidence.
    key
        The ``key_added`` under which the results were written.
    basis
        Coordinates in ``adata.obsm`` to use as they are, such as ``"X_umap"``. ``None``: a UMAP of
        ``obsm["X_siamese_clu"]``, computed now and stored in ``obsm["X_siamese_clu_umap"]``; the user's own
        ``obsm["X_umap"]`` and neighbour graphs are left alone.
    n_neighbors
        Neighbours for that UMAP; at most the number of other cells.
    random_state
        Seed of that UMAP.
    panel_size
        Width and height of one panel, in inches.
    **kwargs
        Passed on to :func:`scanpy.pl.embedding`.

    Returns
    -------
    The figure, with one panel per entry of ``color``.

    Raises
    ------
    KeyError
        If a colour, the basis or the embedding is missing; the message lists what there is.
    """
    if basis is None:
        basis = _latent_umap(adata, n_neighbors=n_neighbors, random_state=random_state)
    elif basis not in adata.obsm and f"X_{basis}" not in adata.obsm:
        raise KeyError(f"Expected coordinates obsm[{basis!r}], found {sorted(adata.obsm)}.")
    colors = _resolve_colors(adata, color, key)

    width, height = panel_size
    figure, axes = plt.subplots(
        1, len(colors), figsize=(width * len(colors), height), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes.flat, colors, strict=True):
        sc.pl.embedding(adata, basis=basis, color=name, ax=ax, show=False, **{"frameon": False, **kwargs})
    return figure


def _resolve_colors(adata: AnnData, color: str | Sequence[str] | None, key: str) -> list[str]:
    if color is None:
        if key not in adata.obs:
            raise KeyError(
                f"Expected clusters in obs[{key!r}], found {list(adata.obs.columns)}: call write_to_adata() first."
            )
        return [name for name in (key, confidence_key(key)) if name in adata.obs]
    colors = [color] if isinstance(color, str) else list(color)
    missing = [name for name in colors if name not in adata.obs and name not in adata.var_names]
    if missing or not colors:
        raise KeyError(
            f"Expected color among the genes and the obs columns {list(adata.obs.columns)}, found {missing}."
        )
    return colors


def _latent_umap(adata: AnnData, n_neighbors: int, random_state: int) -> str:
    """Compute the UMAP of the embedding on a bare copy, so that no graph or setting of the user's is replaced."""
    if ADATA_KEYS.LATENT not in adata.obsm:
        raise KeyError(
            f"Expected an embedding in obsm[{ADATA_KEYS.LATENT!r}], found {sorted(adata.obsm)}: "
            "call write_to_adata() first, or name other coordinates with basis."
        )
    latent = np.asarray(adata.obsm[ADATA_KEYS.LATENT])
    cells = AnnData(obsm={"latent": latent}, shape=(adata.n_obs, 0))
    sc.pp.neighbors(cells, n_neighbors=min(n_neighbors, adata.n_obs - 1), use_rep="latent", random_state=random_state)
    # Spectral initial positions need more cells than dimensions; random ones always work.
    sc.tl.umap(cells, init_pos="spectral" if adata.n_obs > 10 else "random", random_state=random_state)
    adata.obsm[UMAP_KEY] = cells.obsm["X_umap"]
    return UMAP_KEY
