"""Bundled lists of marker genes, one file per tissue, with their sources."""

import json
from importlib.resources import files
from typing import Any, Literal, get_args

__all__ = ["marker_sets", "marker_sources"]

Organism = Literal["human", "mouse"]


def marker_sets(tissue: str, organism: Organism = "human") -> dict[str, list[str]]:
    """Load marker genes of the cell types of a tissue, for :func:`~scsiameseclu.tl.annotate`.

    Each cell type has five to eight well-known marker genes. The cell types are the main types of the tissue, without
    cell states and fine subtypes.

    Parameters
    ----------
    tissue
        ``"blood"``, ``"brain"``, ``"immune"`` (immune cells of any tissue), ``"kidney"`` or ``"pancreas"``.
    organism
        Organism of the gene symbols: ``"human"`` or ``"mouse"``.

    Returns
    -------
    dict
        Gene symbols of each cell type, the best-known gene first. Each call returns a new dictionary.

    Raises
    ------
    ValueError
        If there are no marker genes for this tissue or organism.

    Notes
    -----
    :func:`marker_sources` lists the publications. The marker genes of two tissues can be merged as dictionaries:
    ``marker_sets("kidney") | marker_sets("immune")``.

    Examples
    --------
    >>> marker_sets("pancreas")["Beta cell"][:3]
    ['INS', 'IAPP', 'MAFA']
    """
    if organism not in get_args(Organism):
        raise ValueError(f"Expected organism to be one of {list(get_args(Organism))}, found {organism!r}.")
    return {name: list(genes[organism]) for name, genes in _read(tissue)["types"].items()}


def marker_sources(tissue: str) -> list[str]:
    """List the publications that the marker genes of a tissue come from.

    Parameters
    ----------
    tissue
        As in :func:`marker_sets`.

    Returns
    -------
    list of str
        One publication per entry, with its DOI.

    Raises
    ------
    ValueError
        If there are no marker genes for this tissue.

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
