"""Checks and registry fields of ``setup_anndata``."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset
from mudata import MuData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from scsiameseclu import _compat
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._labels import LabelsField
from scsiameseclu.pp._counts import layer_names, repeated_genes
from scsiameseclu.pp._graph_input import GraphSettings

COVARIATE_KEYS = ("categorical_covariate_keys", "continuous_covariate_keys")


def check_kind(data: Any) -> None:
    """Refuse data that are neither an AnnData nor a MuData.

    Raises
    ------
    TypeError
        If ``data`` is of another class.
    """
    if not isinstance(data, AnnData | MuData):
        raise TypeError(f"Expected an AnnData or MuData, found {type(data).__name__}; pass adata itself, not a part.")


def check_setup_input(
    adata: AnnData,
    layer: str | None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    *,
    min_cells: int = 2,
) -> None:
    """Refuse data that a model cannot be set up on. The counts are not checked here.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    NotImplementedError
        If ``adata`` is backed by a matrix whose rows cannot be read one by one.
    KeyError
        If a key is missing. The message lists the available keys.
    ValueError
        If ``adata`` is a view, there are fewer than ``min_cells`` cells or fewer than two genes, batches or categories
        are missing, size factors are not positive, or continuous covariates are not finite.

    Warns
    -----
    UserWarning
        If gene names occur more than once.
    """
    if isinstance(adata, AnnData) and adata.is_view:
        raise ValueError("Expected an AnnData of its own, found a view; call adata = adata.copy() first.")
    columns = (batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys)
    check_cells(adata, layer, *columns, min_cells=min_cells)
    if repeated := repeated_genes(adata.var_names):
        warnings.warn(repeated, UserWarning, stacklevel=3)


def check_cells(
    adata: AnnData,
    layer: str | None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    *,
    min_cells: int = 1,
) -> None:
    """Refuse cells that a model cannot be set up on or applied to. Views are accepted.

    Raises
    ------
    TypeError, NotImplementedError, KeyError, ValueError
        Under the conditions of :func:`check_setup_input`.
    """
    if not isinstance(adata, AnnData):
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}.")
    if adata.isbacked and isinstance(adata.X, CSCDataset):
        raise NotImplementedError(
            "Expected backed counts whose rows can be read one by one (CSR or dense), found CSC. Write them as CSR "
            "(adata.to_memory(), adata.X = adata.X.tocsr(), adata.write_h5ad), or work in memory."
        )
    if adata.n_obs < min_cells or adata.n_vars < 2:
        raise ValueError(f"Expected at least {min_cells} cells and 2 genes, found {adata.n_obs} and {adata.n_vars}.")
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"`layer`: expected a key of adata.layers, found {layer!r}. Available: {layer_names(adata)}.")
    check_columns(adata, batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys)


def check_columns(
    adata: AnnData,
    batch_key: str | None,
    labels_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: Sequence[str] | None,
    continuous_covariate_keys: Sequence[str] | None,
) -> None:
    """Refuse columns of ``obs`` (of an AnnData or a MuData) that are missing or hold unusable values.

    Raises
    ------
    KeyError, TypeError, ValueError
        Under the conditions of :func:`check_setup_input` and :func:`check_one_kind`.
    """
    covariates = [*(categorical_covariate_keys or []), *(continuous_covariate_keys or [])]
    for key in [batch_key, labels_key, size_factor_key, *covariates]:
        if key is not None and key not in adata.obs:
            raise KeyError(f"Expected a column of adata.obs, found {key!r}. Available: {list(adata.obs.columns)}.")
    for key in [size_factor_key, *(continuous_covariate_keys or [])]:
        if key is not None:
            _check_numbers(adata, key, positive=key == size_factor_key)
    for key in [batch_key, *(categorical_covariate_keys or [])]:
        if key is None:
            continue
        if n_missing := int(adata.obs[key].isna().sum()):
            what = "batch" if key == batch_key else "category"
            raise ValueError(
                f"Expected a {what} for every cell, found {n_missing} missing values in obs[{key!r}]. Fill them in, or "
                "leave these cells out."
            )
        check_one_kind(adata.obs[key])


def check_one_kind(values: pd.Series, known: Sequence[Any] = ()) -> None:
    """Refuse categories that cannot be sorted together, such as text and numbers.

    Parameters
    ----------
    values
        Categories of cells, a column of ``obs``.
    known
        Categories of the reference, if there is one.

    Raises
    ------
    TypeError
        If the categories mix text and numbers, or cannot be sorted.
    """
    found, known = values.dropna().unique().tolist(), np.asarray(known).tolist()
    try:
        sorted([*known, *found])
    except TypeError as error:
        kinds = sorted({type(each).__name__ for each in [*known, *found]})
        reference = f" where the model's data have {known[:3]}" if known else ""
        raise TypeError(
            f"obs[{values.name!r}]: expected categories of one kind, found {found[:3]}{reference} "
            f"({', '.join(kinds)}). Convert the column, for instance with adata.obs[{values.name!r}].astype(str)."
        ) from error


def _check_numbers(adata: AnnData, key: str, *, positive: bool) -> None:
    """Refuse a column of ``obs`` with values that are not finite or, if ``positive``, not positive."""
    values = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(values) | (positive & (values <= 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"obs[{key!r}]: expected {'positive' if positive else 'finite'} numbers, found "
            f"{adata.obs[key].iloc[first]!r} for cell {adata.obs_names[first]!r} ({int(bad.sum())} in all)."
        )


def wants_diffusion(diffusion: bool, source_registry: dict[str, Any] | None) -> bool:
    """Whether to diffuse the graph. The setting of an existing model takes precedence over ``diffusion``."""
    if source_registry is None:
        return diffusion
    return GraphSettings.from_state(_compat.field_state(source_registry, SIAMESE_KEYS.CELL_GRAPH)).diffusion


def check_finite(values: NDArray[np.floating[Any]], names: Sequence[Any], what: str) -> None:
    """Refuse results that are NaN or infinite.

    Parameters
    ----------
    values
        Results, one row per cell.
    names
        Names of the cells.
    what
        Name of the results in the error message.

    Raises
    ------
    ValueError
        If a value is not finite. The message names the first such cell.
    """
    if np.isfinite(values.sum(dtype=np.float64)):  # quick check that needs no second table
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(
            f"Expected finite {what}, found NaN or infinite values for cell {names[bad[0]]!r} ({bad.size} of "
            f"{len(values)} cells). Look for extreme values in the counts, representation or covariates of these "
            "cells. If all cells have such values, the weights of the model are damaged: load or train the model again."
        )


def standard_fields(
    layer: str | None,
    batch_key: str | None,
    labels_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: list[str] | None,
    continuous_covariate_keys: list[str] | None,
) -> list[Any]:
    """Fields that every scvi-tools count model registers, in the usual order."""
    return [
        # The cell graph field checks the counts, and warns if they are not whole numbers.
        LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
        CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
        LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
        CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
        NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
    ]
