"""Bundled lists of marker genes, one file per tissue, with their sources."""

import json
from importlib.resources import files
from typing import Any, Literal, get_args

__all__ = ["marker_sets", "marker_sources"]

Organism = Literal["human", "mouse"]


def marker_sets(tissue: str, organism: Organism = "human") -> dict[str, list[str]]:
    """Marker genes of the cell types of a tissue, for :func:`~scsiameseclu.tl.annotate`.

    The lists are short: five to eight genes that are known for each type. They name the types that most data of the
    tissue have, and no states or fine subtypes.

    Parameters
    ----------
    tissue
        ``"blood"``, ``"brain"``, ``"immune"`` (immune cells of any tissue), ``"kidney"`` or ``"pancreas"``.
    organism
        ``"human"`` or ``"mouse"``: whose gene symbols.

    Returns
    -------
    dict
        Gene symbols of each type, the best-known first; a new object on each call.

    Raises
    ------
    ValueError
        If there is no set for this tissue or organism.

    Notes
    -----
    :func:`marker_sources` has the publications. Merge sets as dictionaries: ``marker_sets("kidney") |
    marker_sets("immune")``.

    Examples
    --------
    >>> marker_sets("pancreas")["Beta cell"][:3]
    ['INS', 'IAPP', 'MAFA']
    """
    if organism not in get_args(Organism):
        raise ValueError(f"Expected organism to be one of {list(get_args(Organism))}, found {organism!r}.")
    return {name: list(genes[organism]) for name, genes in _read(tissue)["types"].items()}


def marker_sources(tissue: str) -> list[str]:
    """Publications behind the marker genes of a tissue, each with its DOI.

    Parameters
    ----------
    tissue
        As in :func:`marker_sets`.

    Returns
    -------
    list of str
        One publication per entry.

    Raises
    ------
    ValueError
        If there is no set for this tissue.

    Examples
    --------
    >>> marker_sources("kidney")[0][:11]
    'Park et al.'
    """
    return list(_read(tissue)["sources"])


def _read(tissue: str) -> dict[str, Any]:
    folder = files("scsiameseclu.datasets") / "markers"
    tissues = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if tissue not in tissues:
        raise ValueError(f"Expected a tissue with bundled markers, one of {tissues}, found {tissue!r}.")
    found: dict[str, Any] = json.loads((folder / f"{tissue}.json").read_text(encoding="utf-8"))
    return found
