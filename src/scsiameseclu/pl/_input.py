"""What the plots accept: cells with the columns and the embedding that a plot reads, or a model."""

from typing import Any

from anndata import AnnData
from mudata import MuData

from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata


def check_columns(adata: AnnData, *names: str, cure: str = "") -> None:
    """Refuse anything but an AnnData with these columns of ``obs``.

    Parameters
    ----------
    adata
        Cells.
    names
        Columns that have to be there.
    cure
        What to do about it, for the end of the message.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If a column is missing; the message lists the columns there are.
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    missing = [name for name in names if name not in adata.obs]
    if missing:
        raise KeyError(f"Expected obs columns {missing}, found {list(adata.obs.columns)}{cure}.")


def check_embedding(adata: AnnData, name: str, cure: str = "call write_to_adata() first") -> None:
    """Refuse anything but an AnnData with this entry of ``obsm``.

    Parameters
    ----------
    adata
        Cells.
    name
        Entry that has to be there.
    cure
        What to do about it, for the end of the message.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If the entry is missing; the message lists the entries there are.
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    if name not in adata.obsm:
        raise KeyError(f"Expected an embedding in obsm[{name!r}], found {sorted(adata.obsm)}: {cure}.")


def check_model(model: Any) -> None:
    """Refuse cells where a model is drawn.

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    """
    if isinstance(model, AnnData | MuData):
        raise TypeError(
            f"Expected a trained SCSiameseClu, found {type(model).__name__}: pass the model itself, such as what "
            "tl.cluster returned, or SCSiameseClu.load(folder, adata=adata)."
        )
