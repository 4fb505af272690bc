"""What the tools accept."""

from typing import Any

from anndata import AnnData


def check_anndata(data: Any, instead: str) -> None:
    """Refuse anything but an AnnData, and say what serves others.

    Parameters
    ----------
    data
        What a tool was called with.
    instead
        What to do with a MuData, a clause.

    Raises
    ------
    TypeError
        If ``data`` is no AnnData.
    """
    if not isinstance(data, AnnData):
        raise TypeError(f"Expected an AnnData, found {type(data).__name__}: {instead}.")
