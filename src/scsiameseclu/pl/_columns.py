"""Check of the columns of ``obs`` that a plot reads."""

from anndata import AnnData


def check_columns(adata: AnnData, *names: str, cure: str = "") -> None:
    """Check that columns of ``obs`` exist.

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
    KeyError
        If a column is missing. The message lists the existing columns.
    """
    missing = [name for name in names if name not in adata.obs]
    if missing:
        raise KeyError(f"Expected obs columns {missing}, found {list(adata.obs.columns)}{cure}.")
