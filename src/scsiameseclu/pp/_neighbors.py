"""The cell graph of an AnnData."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from scsiameseclu.pp._check_counts import check_counts
from scsiameseclu.pp._counts import get_counts, name_order, where_counts_are
from scsiameseclu.pp._diffusion import ppr_diffusion
from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._graph_input import GraphSettings, obs_column, obsm_rep, resolve_seed
from scsiameseclu.pp._knn import knn
from scsiameseclu.pp._projection import Projection
from scsiameseclu.pp._scanpy_graph import graph_from_scanpy
from scsiameseclu.pp._stored_graph import CellGraph, write_graph
from scsiameseclu.pp._threads import within_thread_limit

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@within_thread_limit()
def neighbor_graph(
    adata: AnnData,
    n_neighbors: int = 15,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    size_factor_key: str | None = None,
    n_pcs: int = 50,
    random_state: int | None = None,
    diffusion: bool = False,
) -> NeighborGraph:
    """Build the cell graph and store it in ``adata``.

    Parameters
    ----------
    adata
        Annotated data with raw counts.
    n_neighbors
        Number of neighbours per cell. The cell itself is not counted.
    use_rep
        Key of :attr:`~anndata.AnnData.obsm` with the representation to measure distances in. ``None``: principal
        components of log-normalised counts (:class:`Projection`).
    neighbors_key
        Key of :attr:`~anndata.AnnData.uns` of a graph of :func:`scanpy.pp.neighbors`. The ``n_neighbors`` strongest
        edges of each cell in this graph are used, and no neighbours are searched. The representation is still computed,
        because models read the representation. ``None``: neighbours are searched.
    layer
        Layer with the counts. ``None``: ``X``.
    batch_key
        Column of :attr:`~anndata.AnnData.obs` with batches. Every cell then takes neighbours from every batch, by the
        rule of :func:`knn`. ``None``: batches are ignored.
    size_factor_key
        Column of :attr:`~anndata.AnnData.obs` with positive size factors to normalise by. ``None``: total counts.
    n_pcs
        Number of principal components.
    random_state
        Seed. ``None``: ``scvi.settings.seed``, or 0 if this seed is not set.
    diffusion
        Whether to compute the diffused graph (:func:`ppr_diffusion`) as well, as in the published method.

    Returns
    -------
    NeighborGraph
        The graph, without diffusion. The function also writes to ``adata``:

        - ``obsm["siamese_clu_graph_rep"]``: the representation, float32;
        - ``obsm["siamese_clu_neighbor_index"]`` and ``obsm["siamese_clu_neighbor_weight"]``: row numbers (int64) and
          edge weights (float32) of the neighbours;
        - ``obsm["siamese_clu_diffused_index"]`` and ``obsm["siamese_clu_diffused_weight"]``: the same for the diffused
          graph, with ``diffusion=True``;
        - ``obsp["siamese_clu_connectivities"]``, ``obsp["siamese_clu_distances"]`` and
          ``uns["siamese_clu_neighbors"]``: the graph in the format of scanpy, so
          ``sc.tl.umap(adata, neighbors_key="siamese_clu_neighbors")`` works.

    Raises
    ------
    KeyError
        If a key is missing. The message lists the available keys.
    ValueError
        If the counts or the representation are not valid.
    """
    settings = GraphSettings(
        n_neighbors=n_neighbors,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        layer=layer,
        batch_key=batch_key,
        size_factor_key=size_factor_key,
        n_pcs=n_pcs,
        random_state=resolve_seed(random_state),
        diffusion=diffusion,
    )
    if use_rep is None:
        counts = get_counts(adata, layer)
        check_counts(counts, adata.obs_names, adata.var_names, advice=lambda: where_counts_are(adata))
    built = build_graph(adata, settings)
    write_graph(adata, built, settings)
    return built.graph


def build_graph(adata: AnnData, settings: GraphSettings) -> CellGraph:
    """Compute the representation, the neighbours and, if requested, the diffused graph."""
    rep, projection = _representation(adata, settings)
    graph, diffused = link_cells(adata, rep, settings, obs_column(adata, settings.batch_key))
    return CellGraph(rep, graph, diffused, projection)


def link_cells(
    data: Any, rep: NDArray[np.float32], settings: GraphSettings, batch: pd.Series | None
) -> tuple[NeighborGraph, NeighborGraph | None]:
    """Build the graph of cells with a known representation, and, if requested, the diffused graph.

    Parameters
    ----------
    data
        AnnData or MuData, which contains the graph of scanpy if ``settings.neighbors_key`` is given.
    rep
        Representation of the cells, float32 ``(n_obs, n_rep)``.
    settings
        Settings of the graph.
    batch
        Batch of every cell, or ``None`` if neighbours are not balanced over batches.
    """
    start = time.perf_counter()
    if settings.neighbors_key is not None:
        graph = graph_from_scanpy(data, settings.neighbors_key, settings.n_neighbors)
    else:
        graph = knn(rep, settings.n_neighbors, settings.random_state, batch=batch)
    if not graph.is_edge.all():
        n_padded = int((~graph.is_edge).any(axis=1).sum())
        logger.warning("%d of %d cells have fewer than %d neighbours.", n_padded, graph.n_obs, graph.n_neighbors)
    linked = time.perf_counter()
    diffused = ppr_diffusion(graph) if settings.diffusion else None
    logger.info(
        "Cell graph of %d cells: neighbours %.1f s, diffusion %.1f s.",
        graph.n_obs,
        linked - start,
        time.perf_counter() - linked,
    )
    return graph, diffused


def _representation(adata: AnnData, settings: GraphSettings) -> tuple[NDArray[np.float32], Projection | None]:
    """Compute the representation of the cells. Also return the fitted projection, or None with ``use_rep``."""
    if settings.use_rep is not None:
        return obsm_rep(adata, settings.use_rep), None
    counts = get_counts(adata, settings.layer)
    sizes = obs_column(adata, settings.size_factor_key)
    projection, rep = Projection.fit_transform(
        counts,
        settings.n_pcs,
        random_state=settings.random_state,
        size_factors=sizes,
        batch=obs_column(adata, settings.batch_key),
        gene_order=name_order(adata.var_names),
    )
    return rep, projection
