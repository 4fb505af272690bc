"""Checks of the input of the plots: cells with the columns and the embedding that a plot reads, or a model."""

from typing import Any

from anndata import AnnData
from mudata import MuData

from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata


def check_columns(adata: AnnData, *names: str, cure: str = "") -> None:
    """Check that the input of a plot is an AnnData with certain columns of ``obs``.

    Parameters
    ----------
    adata
        Cells.
    names
        Names of the columns.
    cure
        Advice for the user, which ends the error message.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If a column is missing. The message lists the existing columns.
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    missing = [name for name in names if name not in adata.obs]
    if missing:
        raise KeyError(f"Expected obs columns {missing}, found {list(adata.obs.columns)}{cure}.")


def check_embedding(adata: AnnData, name: str, cure: str = "call write_to_adata() first") -> None:
    """Check that the input of a plot is an AnnData with an embedding in ``obsm``.

    Parameters
    ----------
    adata
        Cells.
    name
        Name of the entry of ``obsm``.
    cure
        Advice for the user, which ends the error message.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If the entry is missing. The message lists the existing entries.
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    if name not in adata.obsm:
        raise KeyError(f"Expected an embedding in obsm[{name!r}], found {sorted(adata.obsm)}: {cure}.")


def check_model(model: Any) -> None:
    """Check that the input of a plot of a model is not cells.

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    """
    if isinstance(model, AnnData | MuData):
        raise TypeError(
            f"Expected a trained SCSiameseClu, found {type(model).__name__}: pass the model, such as the model "
            "that tl.cluster returned, or SCSiameseClu.load(folder, adata=adata)."
        )
