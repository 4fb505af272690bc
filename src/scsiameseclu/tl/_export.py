"""Export results for viewers and for other programming languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu._atomic import replaced_file
from scsiameseclu._keys import DEFAULT_KEY, GRAPH_TABLES, confidence_key, latent_key
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["export"]

_INTERNAL = "_scvi"
_SHOWN = "X_"


def export(
    adata: AnnData,
    path: str | PathLike[str],
    *,
    key: str = DEFAULT_KEY,
    csv: str | PathLike[str] | None = None,
) -> None:
    """Write an ``.h5ad`` file for viewers such as CELLxGENE and for readers in R, and optionally a table of the cells.

    Internal columns and entries of scvi-tools and of this package are left out. Everything else is written without
    changes. ``adata`` is not changed.

    Parameters
    ----------
    adata
        Cells in memory with clusters and coordinates in two dimensions, for instance by
        :func:`scsiameseclu.pl.embedding` or :func:`scanpy.tl.umap`.
    path
        Path of the ``.h5ad`` file to write.
    key
        The ``key_added`` of the results, for the table.
    csv
        Path of a table to write, with one row per cell: cluster, confidence, coordinates in two dimensions, and
        embedding. ``None``: no table.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    NotImplementedError
        If ``adata`` is backed.
    KeyError
        If there are no clusters or no embedding for the table.
    ValueError
        If names of cells or genes occur twice, if there are no coordinates in two dimensions, or if an entry ``X_...``
        of ``obsm`` has values that are not finite.

    Notes
    -----
    CELLxGENE requires an expression matrix in ``X``, unique names of cells and genes, and in ``obsm`` at least one
    array ``X_...`` with two or more columns and finite values. Viewers show the values in ``X``. So if ``X`` holds
    counts, move the counts to a layer and log-normalise ``X`` first.

    Examples
    --------
    >>> scsiameseclu.pl.embedding(adata)  # makes the coordinates
    >>> scsiameseclu.tl.export(adata, "clusters.h5ad", csv="cells.csv")
    """
    check_anndata(adata, "export the AnnData of one modality, such as mdata['rna'], with the results in it")
    if adata.isbacked:
        raise NotImplementedError(
            "Expected an AnnData in memory, found a backed AnnData; call adata.to_memory() first."
        )
    _check(adata)
    table = None if csv is None else cell_table(adata, key)
    with replaced_file(path) as new:
        without_internals(adata).write_h5ad(new, compression="gzip")
    if csv is not None and table is not None:
        with replaced_file(csv) as new:
            table.to_csv(new, index_label="cell", float_format="%.6g")


def without_internals(adata: AnnData) -> AnnData:
    """Create an AnnData without the internal columns and entries of scvi-tools and of this package.

    The matrices are shared with ``adata`` and not copied.

    Parameters
    ----------
    adata
        Cells in memory, which are not changed.
    """
    columns = [name for name in adata.obs if not str(name).startswith(_INTERNAL)]
    shared = AnnData(
        adata.X,
        obs=adata.obs[columns].copy(),
        var=adata.var.copy(),
        uns={name: value for name, value in adata.uns.items() if not str(name).startswith(_INTERNAL)},
        obsm={name: value for name, value in adata.obsm.items() if name not in GRAPH_TABLES},
        varm=dict(adata.varm),
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
        layers=dict(adata.layers),
    )
    for frame in (shared.obs, shared.var):
        _make_strings_plain(frame)
    if adata.raw is not None:
        raw = adata.raw.to_adata()
        _make_strings_plain(raw.var)
        shared.raw = raw
    return shared


def _make_strings_plain(frame: pd.DataFrame) -> None:
    """Convert the strings of a table to the dtype ``object``, in place.

    All readers of ``.h5ad`` files know this dtype. The strings of pandas 3 are written with a mask, which readers in
    other programming languages do not expect.
    """
    frame.index = frame.index.astype(object)
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            categories = column.cat.categories
            if isinstance(categories.dtype, pd.StringDtype):
                frame[name] = column.cat.set_categories(categories.astype(object), rename=True)
        elif isinstance(column.dtype, pd.StringDtype):
            frame[name] = column.astype(object)


def cell_table(adata: AnnData, key: str) -> pd.DataFrame:
    """Table with the cluster, confidence, coordinates in two dimensions and embedding of every cell.

    Parameters
    ----------
    adata
        Cells with results.
    key
        The ``key_added`` of the results.

    Raises
    ------
    KeyError
        If there are no clusters or no embedding.
    """
    if key not in adata.obs or latent_key(key) not in adata.obsm:
        raise KeyError(
            f"Expected clusters in obs[{key!r}] and an embedding in obsm[{latent_key(key)!r}], found "
            f"{list(adata.obs.columns)} and {sorted(adata.obsm)}: call write_to_adata() first."
        )
    table = adata.obs[[name for name in (key, confidence_key(key)) if name in adata.obs]].copy()
    for name in [each for each in adata.obsm if _is_plane(adata, each)] + [latent_key(key)]:
        values = np.asarray(adata.obsm[name])
        stem = name.removeprefix(_SHOWN)
        table[[f"{stem}_{number}" for number in range(1, values.shape[1] + 1)]] = values
    return table


def _is_plane(adata: AnnData, name: str) -> bool:
    return name.startswith(_SHOWN) and np.ndim(adata.obsm[name]) == 2 and adata.obsm[name].shape[1] == 2


def _check(adata: AnnData) -> None:
    for what, slot, names in (("cells", "obs", adata.obs_names), ("genes", "var", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()[:3].tolist()
            raise ValueError(
                f"Expected unique names of {what}, found several {what} {twice}; call adata.{slot}_names_make_unique()."
            )
    if not any(_is_plane(adata, name) for name in adata.obsm):
        raise ValueError(
            f"Expected coordinates in two dimensions in obsm['X_...'], found {sorted(adata.obsm)}: call "
            "pl.embedding(adata) or scanpy.tl.umap first."
        )
    for name in adata.obsm:
        values = np.asarray(adata.obsm[name])
        if name.startswith(_SHOWN) and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"Expected finite values in obsm[{name!r}], found NaN or infinite values; remove the entry."
            )
