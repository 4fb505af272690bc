"""Columns of ``obs`` that a plot reads."""

from anndata import AnnData


def check_columns(adata: AnnData, *names: str, cure: str = "") -> None:
    """Refuse cells without one of these columns of ``obs``.

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
    KeyError
        If a column is missing; the message lists the columns there are.
    """
    missing = [name for name in names if name not in adata.obs]
    if missing:
        raise KeyError(f"Expected obs columns {missing}, found {list(adata.obs.columns)}{cure}.")
