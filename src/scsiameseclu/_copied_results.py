"""Copy results from the AnnData that a model works on to the AnnData of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsiameseclu._keys import ADATA_KEYS, confidence_key, latent_key, probs_key

if TYPE_CHECKING:
    from anndata import AnnData


def copy_results(source: AnnData, target: AnnData, key: str) -> None:
    """Copy the results of ``write_to_adata`` from one AnnData to another with the same cells in the same order.

    Parameters
    ----------
    source, target
        AnnData of the same cells. The genes may differ.
    key
        The ``key_added`` of the results.

    Raises
    ------
    ValueError
        If the cells differ.
    """
    if not source.obs_names.equals(target.obs_names):
        raise ValueError(
            f"Expected the same cells in the same order, found {source.n_obs} cells in the source and {target.n_obs} "
            "cells in the target with other names or in another order."
        )
    for name in (key, confidence_key(key)):
        target.obs[name] = source.obs[name].array.copy()  # by position, because names of cells need not be unique
    for name in (latent_key(key), probs_key(key)):
        target.obsm[name] = source.obsm[name].copy()
    target.uns[key] = dict(source.uns[key])
    if ADATA_KEYS.CONNECTIVITIES not in source.obsp:  # a query has no graph: its neighbours are in the reference
        return
    graph = target.uns[ADATA_KEYS.NEIGHBORS] = dict(source.uns[ADATA_KEYS.NEIGHBORS])
    for name in (ADATA_KEYS.CONNECTIVITIES, ADATA_KEYS.DISTANCES):
        target.obsp[name] = source.obsp[name].copy()
    rep = graph["params"]["use_rep"]  # scanpy looks up the representation that the graph was built on
    target.obsm[rep] = source.obsm[rep].copy()
