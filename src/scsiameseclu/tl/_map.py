"""Map cells to a trained model, and write the results into the AnnData of the user."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu._copied_results import copy_results
from scsiameseclu._keys import (
    DEFAULT_KEY,
    MANY_OUT_OF_REFERENCE,
    MAX_OUT_OF_REFERENCE,
    UNASSIGNED,
    check_key_added,
    confidence_key,
    latent_key,
    out_of_reference_key,
)
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from scsiameseclu.model import SCSiameseClu

logger = logging.getLogger(__name__)

_MANY_CELLS = 100

__all__ = ["map"]


def map(
    query: AnnData,
    model: SCSiameseClu | str | PathLike[str],
    key_added: str = DEFAULT_KEY,
    *,
    max_out_of_reference: float | None = MAX_OUT_OF_REFERENCE,
    min_confidence: float | None = None,
    min_gene_share: float = 0.5,
    accelerator: str = "auto",
) -> SCSiameseClu:
    """Assign new cells to the clusters of a trained model, and write the results into ``query``.

    The cells are mapped without training, as by :meth:`~scsiameseclu.SCSiameseClu.load_query_data`. Cells that are
    unlike the cells of the reference are left unassigned.

    Parameters
    ----------
    query
        New cells. The counts must be of the same kind, and be in the same layer, as in the reference. The columns of
        ``obs`` that the model reads must exist. Genes are matched by name.
    model
        Trained model, or the folder of a saved model.
    key_added
        Name of the results.
    max_out_of_reference
        Cells with a higher out-of-reference score are ``"unassigned"``. With 0.95, about 5 % of the cells of known
        types are unassigned. ``None``: no limit.
    min_confidence
        Cells whose cluster has a lower probability are ``"unassigned"``. ``None``: no limit.
    min_gene_share
        Share of the genes of the model that the query must have, in ``[0, 1]``.
    accelerator
        Device to compute on, as in scvi-tools: ``"auto"``, ``"cpu"``, ``"gpu"``, ...

    Returns
    -------
    SCSiameseClu
        The model of the query, for further training or other results. Its ``adata`` is a new object.

    Raises
    ------
    TypeError
        If ``query`` is not an AnnData.
    NotImplementedError
        If ``query`` is backed.
    ValueError
        If a limit is outside [0, 1], or the query has too few genes of the model. Also as
        :meth:`~scsiameseclu.SCSiameseClu.load_query_data`.
    RuntimeError
        If the model was not trained. Also if ``max_out_of_reference`` is given and the model cannot compute
        out-of-reference scores.

    Notes
    -----
    The function writes

    - ``obs[key_added]``: clusters of the model, categorical, with ``"unassigned"`` last;
    - ``obs[f"{key_added}_confidence"]``: probability of the most probable cluster, float32, also for unassigned cells;
    - ``obs[f"{key_added}_out_of_reference"]``: out-of-reference score, float32;
    - ``obsm[f"{key_added}_probs"]``: probabilities of all clusters, float32;
    - ``obsm[f"X_{key_added}"]``: embedding, float32;
    - ``uns[key_added]``: settings and quality numbers.

    Examples
    --------
    >>> model = scsiameseclu.tl.cluster(reference)
    >>> scsiameseclu.tl.map(query, model)
    >>> query.obs["siamese_clu"].value_counts()
    """
    limits = {"max_out_of_reference": max_out_of_reference, "min_confidence": min_confidence}
    mapped = map_cells(query, model, key_added, **limits, min_gene_share=min_gene_share, accelerator=accelerator)
    _warn_of_unlike_cells(query.obs.get(out_of_reference_key(key_added)))
    return mapped


def map_cells(
    query: AnnData,
    model: SCSiameseClu | str | PathLike[str],
    key_added: str,
    *,
    max_out_of_reference: float | None,
    min_confidence: float | None,
    min_gene_share: float,
    accelerator: str,
) -> SCSiameseClu:
    """Map cells as :func:`map` does, without the warning about cells that are unlike the reference."""
    from scsiameseclu.model import SCSiameseClu  # imported here, so that importing `tl` does not load the model

    check_anndata(query, "SCSiameseClu.load_query_data(mdata, model) and write_to_adata() map a MuData")
    check_key_added(query, key_added)
    check_limits(max_out_of_reference=max_out_of_reference, min_confidence=min_confidence)
    if not isinstance(model, SCSiameseClu):
        model = SCSiameseClu.load(model, adata=False, accelerator=accelerator)
    mapped = SCSiameseClu.load_query_data(_shared(query), model, min_gene_share=min_gene_share, accelerator=accelerator)
    mapped.write_to_adata(key_added=key_added)
    copy_results(mapped.adata, query, key_added)
    unsure = np.zeros(query.n_obs, dtype=bool)
    if max_out_of_reference is not None or (mapped.reference is not None and len(mapped.reference.latent)):
        # The reference model computes the score, and caches the distances between its landmarks for later calls.
        score = model._novelty(query.obsm[latent_key(key_added)])
        query.obs[out_of_reference_key(key_added)] = score
        unsure |= score > (1.0 if max_out_of_reference is None else max_out_of_reference)
    if min_confidence is not None:
        unsure |= query.obs[confidence_key(key_added)].to_numpy() < min_confidence
    query.obs[key_added] = _without(query.obs[key_added], unsure)
    limits = {"max_out_of_reference": max_out_of_reference, "min_confidence": min_confidence}
    given = {name: value for name, value in limits.items() if value is not None}
    query.uns[key_added]["params"] = {**query.uns[key_added]["params"], **given}
    query.uns[key_added]["n_unassigned"] = int(unsure.sum())
    return mapped


def _warn_of_unlike_cells(score: pd.Series | None) -> None:
    """Warn if many more cells than usual are unlike the reference."""
    if score is None or len(score) < _MANY_CELLS:
        return
    share = float((score > MAX_OUT_OF_REFERENCE).mean())
    if share > MANY_OUT_OF_REFERENCE:
        logger.warning(
            "%.0f %% of the cells have an out-of-reference score above %s, instead of about 5 %%. These cells may be "
            "of other types, of another tissue, or measured by another technique. Their clusters mean little, even "
            "with a high confidence; see pl.out_of_reference.",
            100 * share,
            MAX_OUT_OF_REFERENCE,
        )


def check_limits(**limits: float | None) -> None:
    """Refuse limits outside of [0, 1]."""
    for name, value in limits.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"`{name}`: expected a number between 0 and 1, or None, found {value}.")


def _shared(query: AnnData) -> AnnData:
    """Create a new AnnData for the model to write to. The counts and tables are shared with the query."""
    if query.isbacked:
        raise NotImplementedError(
            "Expected an AnnData in memory, found a backed AnnData; call query.to_memory() first."
        )
    cells = AnnData(
        query.X, obs=query.obs.copy(), var=query.var.copy(), obsm=dict(query.obsm), uns=dict(query.uns), raw=query.raw
    )
    cells.layers.update({name: layer for name, layer in query.layers.items() if name is not None})
    return cells


def _without(labels: pd.Series, unsure: NDArray[np.bool_]) -> pd.Categorical:
    """Replace the labels of unsure cells by ``"unassigned"``. Categories without a cell are removed."""
    values = pd.Categorical(labels)
    if unsure.any():
        values = values.add_categories([UNASSIGNED])
        values[unsure] = UNASSIGNED
    return values.remove_unused_categories()
