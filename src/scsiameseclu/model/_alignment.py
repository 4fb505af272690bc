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
    """Give cells the genes of a model, in their order.

    Missing genes are 0, in ``X`` (if there is one) and in every layer.

    Parameters
    ----------
    adata
        Cells; may be changed.
    names
        Genes of the model.
    """
    without_x = adata.X is None
    if without_x:  # anndata cannot put a part with X next to one without
        adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    cells, uns, raw = adata.obs_names, adata.uns, adata.raw
    adata.obs_names = pd.RangeIndex(adata.n_obs).astype(str)  # parts are put together by the names of the cells
    del adata.raw  # anndata cannot put a part with raw next to one without
    aligned = _compat.pad_and_sort(adata, names)
    aligned.obs_names, aligned.uns = cells, uns
    if raw is not None:
        aligned.raw = AnnData(raw.X, var=raw.var)
    if without_x:
        aligned.X = None
    return aligned


def align_modalities(mdata: MuData, names: Mapping[str, Sequence[str]], proteins: str | None = None) -> MuData:
    """Give a MuData the modalities of a model, and the modalities the names of the model in their order.

    The tables of the MuData itself are kept.

    Parameters
    ----------
    mdata
        Cells; not changed.
    names
        Names of the model, by modality. Other modalities are left out.
    proteins
        Modality in which what is missing was not measured (NaN), instead of 0.
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
        if key not in mdata.mod:  # which cells a modality has, made by MuData itself
            aligned.obsm[key] = table.copy()
    aligned.uns = mdata.uns.copy()
    return aligned


def _not_measured(adata: AnnData, missing: NDArray[np.bool_]) -> None:
    """Write NaN into columns of ``X`` and of every layer, which become dense."""

    def filled(matrix: Any) -> NDArray[np.float32]:
        values = np.array(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float32)
        values[:, missing] = np.nan
        return values

    if adata.X is not None:
        adata.X = filled(adata.X)
    for key in adata.layers:
        adata.layers[key] = filled(adata.layers[key])
