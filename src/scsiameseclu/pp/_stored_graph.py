"""A cell graph in an AnnData: write it, and tell whether a stored one still fits."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu._keys import ADATA_KEYS, GRAPH_VERSION, SIAMESE_KEYS
from scsiameseclu.pp._counts import get_counts, totals
from scsiameseclu.pp._graph_input import GraphSettings, obs_column, obsm_rep
from scsiameseclu.pp._projection import Projection
from scsiameseclu.pp._scanpy_graph import scanpy_connectivities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from scsiameseclu.pp._graph import NeighborGraph

DIFFUSED_KEYS = (ADATA_KEYS.DIFFUSED_INDEX, ADATA_KEYS.DIFFUSED_WEIGHT)
"""Tables of the diffused graph, in ``obsm`` if and only if the graph that was written was diffused."""

GRAPH_TABLES = (
    (SIAMESE_KEYS.GRAPH_REP, ADATA_KEYS.GRAPH_REP),
    (SIAMESE_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.NEIGHBOR_INDEX),
    (SIAMESE_KEYS.NEIGHBOR_WEIGHT, ADATA_KEYS.NEIGHBOR_WEIGHT),
)
"""Tables of every graph: key of a mini-batch and key of ``obsm``."""

DIFFUSED_TABLES = (
    (SIAMESE_KEYS.DIFFUSED_INDEX, ADATA_KEYS.DIFFUSED_INDEX),
    (SIAMESE_KEYS.DIFFUSED_WEIGHT, ADATA_KEYS.DIFFUSED_WEIGHT),
)
"""Tables of a diffused graph, in addition."""


@dataclass(frozen=True)
class CellGraph:
    """A built graph with the space it was built in.

    ``diffused`` is ``None`` if no diffusion was asked for, ``projection`` if the space came from ``obsm``.
    """

    rep: NDArray[np.float32]
    graph: NeighborGraph
    diffused: NeighborGraph | None
    projection: Projection | None


def write_graph(adata: AnnData, built: CellGraph, settings: GraphSettings, source: str | None = None) -> None:
    """Store a built graph in ``adata``; ``source`` is the digest of the cells, if it is known."""
    write_tables(adata, built.rep, built.graph, built.diffused)
    record = write_scanpy_graph(adata, built.graph, settings)
    record["fingerprint"] = fingerprint(adata, settings, built.projection, source)
    if built.projection is not None:
        record["projection"] = built.projection.to_state()


def write_scanpy_graph(data: Any, graph: NeighborGraph, settings: GraphSettings) -> dict[str, Any]:
    """Store a graph in scanpy's format in ``obsp`` and ``uns`` of an AnnData or a MuData; the record in ``uns``."""
    data.obsp[ADATA_KEYS.CONNECTIVITIES] = graph.connectivities()
    data.obsp[ADATA_KEYS.DISTANCES] = graph.distance_matrix()
    data.uns[ADATA_KEYS.NEIGHBORS] = graph_record(settings)
    return data.uns[ADATA_KEYS.NEIGHBORS]


def write_tables(
    adata: AnnData, rep: NDArray[np.float32], neighbors: NeighborGraph, diffused: NeighborGraph | None
) -> None:
    """Store the tables that a model reads in ``obsm``. Without ``diffused``, those of an earlier graph are removed."""
    adata.obsm[ADATA_KEYS.GRAPH_REP] = rep
    adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX] = neighbors.indices
    adata.obsm[ADATA_KEYS.NEIGHBOR_WEIGHT] = neighbors.weights
    if diffused is None:
        for key in DIFFUSED_KEYS:
            adata.obsm.pop(key, None)
    else:
        adata.obsm[ADATA_KEYS.DIFFUSED_INDEX] = diffused.indices
        adata.obsm[ADATA_KEYS.DIFFUSED_WEIGHT] = diffused.weights


def graph_record(settings: GraphSettings) -> dict[str, Any]:
    """What stays in ``uns``: scanpy's parameters and our settings."""
    return {
        "params": {
            "n_neighbors": settings.n_neighbors,
            "method": "umap",
            "metric": "euclidean",
            "random_state": settings.random_state,
            "use_rep": ADATA_KEYS.GRAPH_REP,
        },
        # Keys that were not given are left out: h5ad files of older anndata cannot hold None.
        "settings": {name: value for name, value in asdict(settings).items() if value is not None},
        "connectivities_key": ADATA_KEYS.CONNECTIVITIES,
        "distances_key": ADATA_KEYS.DISTANCES,
    }


def stored_projection(adata: AnnData) -> Projection | None:
    """The projection a stored graph was built with, if any."""
    state = adata.uns.get(ADATA_KEYS.NEIGHBORS, {}).get("projection")
    return None if state is None else Projection.from_state(state)


def stored_graph(
    adata: AnnData, settings: GraphSettings, projection: Projection | None = None, source: str | None = None
) -> dict[str, NDArray[Any]] | None:
    """Tables of the graph in ``adata`` by key of a mini-batch; ``None`` if there is no current one.

    Current is a graph that was built from exactly these cells, data and settings. Subsets, permutations,
    concatenations, copied tables, changed counts or representations, other settings and another projection are
    detected. Tables of a diffused graph must be there if they are asked for, and only then.

    Parameters
    ----------
    adata
        Cells, with or without a graph written by :func:`neighbor_graph`.
    settings
        Settings of the graph.
    projection
        Projection of the graph. Default: that which was written with the graph.
    source
        Digest of the cells, if it is known.
    """
    record = adata.uns.get(ADATA_KEYS.NEIGHBORS)
    if record is None or "fingerprint" not in record or not has_wanted_diffusion(adata, settings):
        return None
    names = GRAPH_TABLES + DIFFUSED_TABLES if settings.diffusion else GRAPH_TABLES
    if any(key not in adata.obsm for _, key in names):
        return None
    tables = {name: adata.obsm[key] for name, key in names}
    for name, table in tables.items():
        if name in (SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.DIFFUSED_INDEX):
            if table.shape[1] != settings.n_neighbors or table.dtype != np.int64:
                return None
            if table.min() < 0 or table.max() >= adata.n_obs:
                return None
    projection = stored_projection(adata) if projection is None else projection
    try:
        expected = fingerprint(adata, settings, projection, source)
    except KeyError:  # something the graph was built from is gone: whoever rebuilds it will say what
        return None
    return {name: np.array(table) for name, table in tables.items()} if record["fingerprint"] == expected else None


def has_wanted_diffusion(adata: AnnData, settings: GraphSettings) -> bool:
    """Whether ``obsm`` has the tables of a diffused graph if they are asked for, and neither of them if not."""
    return all((key in adata.obsm) == settings.diffusion for key in DIFFUSED_KEYS)


def fingerprint(
    adata: AnnData, settings: GraphSettings, projection: Projection | None = None, source: str | None = None
) -> str:
    """SHA-1 of everything a stored graph depends on, in hexadecimal.

    Covers the stored representation, the projection, and the source (:func:`source_digest`, computed here if it is not
    given).

    Raises
    ------
    KeyError
        If a source is missing.
    """
    source = source_digest(adata, settings) if source is None else source
    state = hashlib.sha1(source.encode(), usedforsecurity=False)
    state.update(np.ascontiguousarray(adata.obsm[ADATA_KEYS.GRAPH_REP], dtype=np.float32).tobytes())
    state.update(b"" if projection is None else projection.digest.encode())
    return state.hexdigest()


def source_digest(
    adata: AnnData,
    settings: GraphSettings,
    sums: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> str:
    """SHA-1 of what a graph is built from, in hexadecimal: tells the cells of a reference from any others.

    Covers the version of the convention, the settings but for the diffusion, the names and number of cells, and gene
    names with the totals per cell and gene (exact sums, far cheaper than the matrix), or the representation or graph
    named in the settings, plus batches and size factors.

    Parameters
    ----------
    adata
        Cells.
    settings
        Settings of the graph.
    sums
        Totals per cell and per gene, if they are known.

    Raises
    ------
    KeyError
        If a source is missing.
    """
    state = hashlib.sha1(usedforsecurity=False)
    state.update(repr((GRAPH_VERSION, adata.n_obs, settings.of_neighbors())).encode())
    state.update("\0".join(adata.obs_names.astype(str)).encode())
    for part in _source_parts(adata, settings, sums):
        state.update(part)
    return state.hexdigest()


def _source_parts(
    adata: AnnData, settings: GraphSettings, sums: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> Iterator[bytes]:
    if settings.use_rep is not None:
        yield obsm_rep(adata, settings.use_rep).tobytes()
    else:
        yield "\0".join(adata.var_names.astype(str)).encode()
        sums = totals(get_counts(adata, settings.layer)) if sums is None else sums
        yield from (part.tobytes() for part in sums)
    if settings.neighbors_key is not None:
        connectivities = scanpy_connectivities(adata, settings.neighbors_key)
        yield from (getattr(connectivities, name).tobytes() for name in ("indptr", "indices", "data"))
    for key in (settings.batch_key, settings.size_factor_key):
        column = obs_column(adata, key)
        if column is not None:
            yield "\0".join(map(str, column)).encode()  # `astype(str)` keeps missing values as floats
