"""Checks that cells have the genes, proteins and representation of the reference of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scsiameseclu.pp._joint import JointProjection
from scsiameseclu.pp._projection import Projection

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from scsiameseclu.reference._sources import Cells


def check_genes(state: Mapping[str, Any], cells: Cells, projection: Projection | JointProjection | None) -> None:
    """Refuse cells whose genes are not the genes of the reference in the same order.

    Raises
    ------
    ValueError
        If the genes differ, or are in another order.
    """
    if isinstance(projection, JointProjection):
        _check_names("genes", list(state["gene_names"]), list(cells.genes.astype(str)))
        return
    if projection is None:
        return
    if len(cells.genes) != projection.n_vars:
        raise ValueError(
            f"Expected the {projection.n_vars} genes the model was set up with, found {len(cells.genes)}. "
            "Map the cells with scsiameseclu.tl.map(adata, model), which finds the genes by name, or align a copy of "
            "the data with SCSiameseClu.prepare_query_anndata(adata, model)."
        )
    names = list(cells.genes[projection.gene_indices].astype(str))
    if names != list(state["gene_names"]):
        if set(state["gene_names"]) <= set(cells.genes.astype(str)):
            raise ValueError(
                "Expected the genes in the order the model was set up with, found the genes in another order. "
                "Align the data with `prepare_query_anndata` first."
            )
        raise ValueError(
            f"Expected the genes the model was set up with ({', '.join(state['gene_names'][:3])}, ...), found genes of "
            f"other names ({', '.join(names[:3])}, ...). If these are the same genes, rename adata.var_names."
        )


def check_proteins(state: Mapping[str, Any], cells: Cells, projection: Projection | JointProjection | None) -> None:
    """Refuse cells whose proteins are not the proteins of the reference in the same order.

    Raises
    ------
    ValueError
        If the proteins differ, are in another order, or are counts where the reference has normalised values (or the
        reverse).
    """
    if not isinstance(projection, JointProjection) or cells.proteins is None:
        return
    scaling, found = projection.protein, cells.proteins
    _check_names("proteins", list(scaling.names), found.names)
    if found.counts is not None and scaling.counts != found.counts:
        kinds = {True: "counts", False: "normalised values"}
        raise ValueError(f"Expected proteins as {kinds[scaling.counts]}, as at set-up, found {kinds[found.counts]}.")


def check_representation(use_rep: str | None, data: Any) -> None:
    """Refuse an AnnData or MuData without the representation that the reference was set up with.

    Raises
    ------
    KeyError
        If ``obsm`` has no such entry.
    """
    if use_rep is not None and use_rep not in data.obsm:
        raise KeyError(
            f"`use_rep`: expected obsm[{use_rep!r}], on which the model's cell graph is built, found "
            f"{sorted(data.obsm)}. Compute this entry with the same model as for the reference, for instance "
            f"adata.obsm[{use_rep!r}] = scvi_model.get_latent_representation(adata)."
        )


def check_width(state: Mapping[str, Any], rep: NDArray[np.float32]) -> None:
    """Refuse a representation of another width than the reference has.

    Raises
    ------
    ValueError
        If the numbers of columns differ.
    """
    if rep.shape[1] != int(state["n_rep"]):
        raise ValueError(
            f"obsm[{state['use_rep']!r}]: expected {state['n_rep']} columns as at set-up, found {rep.shape[1]}. "
            "Compute this entry with the same model as for the reference."
        )


def _check_names(what: str, known: list[str], found: list[str]) -> None:
    if known != found:
        raise ValueError(
            f"Expected the {len(known)} {what} the model was set up with, in their order, found {len(found)} {what} "
            "that differ. Align the data with `prepare_query_mudata` first."
        )
