"""Genes and proteins of new cells in the order of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu import _compat


def align_genes(adata: AnnData, names: pd.Index) -> AnnData:
    """Give an AnnData the genes of a model, in the order of the model.

    Genes that the AnnData lacks become 0, in ``X`` (if there is one) and in every layer.

    Parameters
    ----------
    adata
        Cells by genes. The function may change the object.
    names
        Names of the genes of the model.

    Returns
    -------
    Cells by genes of the model.
    """
    without_x = adata.X is None
    if without_x:  # anndata cannot join an AnnData without X and the missing genes, which have an X
        adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    cells, uns, raw = adata.obs_names, adata.uns, adata.raw
    adata.obs_names = pd.RangeIndex(adata.n_obs).astype(str)  # anndata joins parts by the names of the cells
    del adata.raw  # anndata cannot join a part with raw and a part without raw
    aligned = _compat.pad_and_sort(adata, names)
    aligned.obs_names, aligned.uns = cells, uns
    if raw is not None:
        aligned.raw = AnnData(raw.X, var=raw.var)
    if without_x:
        aligned.X = None
    return aligned


def align_modalities(mdata: MuData, names: Mapping[str, Sequence[str]], proteins: str | None = None) -> MuData:
    """Give a MuData the modalities of a model, each with the variables of the model in the order of the model.

    ``obs``, ``obsm`` and ``uns`` of the MuData itself are kept. Variables that the MuData lacks become 0, except in the
    modality ``proteins``.

    Parameters
    ----------
    mdata
        Cells. The object is not changed.
    names
        Names of the variables of the model, by modality. Modalities without an entry are left out.
    proteins
        Modality in which missing variables become NaN (not measured) instead of 0.

    Returns
    -------
    MuData of the same cells.
    """
    parts = {}
    for key in mdata.mod:
        if key in names:
            wanted = pd.Index(names[key])
            missing = ~wanted.isin(mdata[key].var_names)
            parts[key] = align_genes(mdata[key].copy(), wanted)
            if key == proteins and missing.any():
                _not_measured(parts[key], missing)
    aligned = MuData(parts)
    aligned.obs = mdata.obs.copy()
    for key, table in mdata.obsm.items():
        if key not in mdata.mod:  # MuData makes the obsm entries that are named like a modality itself
            aligned.obsm[key] = table.copy()
    aligned.uns = mdata.uns.copy()
    return aligned


def _not_measured(adata: AnnData, missing: NDArray[np.bool_]) -> None:
    """Write NaN into the ``missing`` columns of ``X`` and of every layer. The matrices become dense."""

    def filled(matrix: Any) -> NDArray[np.float32]:
        values = np.array(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float32)
        values[:, missing] = np.nan
        return values

    if adata.X is not None:
        adata.X = filled(adata.X)
    for key in adata.layers:
        adata.layers[key] = filled(adata.layers[key])
