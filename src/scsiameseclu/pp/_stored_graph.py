"""Write a cell graph to an AnnData, and check whether a stored graph still belongs to the cells."""

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
"""Keys of ``obsm`` with the diffused graph. The keys exist only if the stored graph was diffused."""

GRAPH_TABLES = (
    (SIAMESE_KEYS.GRAPH_REP, ADATA_KEYS.GRAPH_REP),
    (SIAMESE_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.NEIGHBOR_INDEX),
    (SIAMESE_KEYS.NEIGHBOR_WEIGHT, ADATA_KEYS.NEIGHBOR_WEIGHT),
)
"""Tables of every graph, each as its key in a mini-batch and its key in ``obsm``."""

DIFFUSED_TABLES = (
    (SIAMESE_KEYS.DIFFUSED_INDEX, ADATA_KEYS.DIFFUSED_INDEX),
    (SIAMESE_KEYS.DIFFUSED_WEIGHT, ADATA_KEYS.DIFFUSED_WEIGHT),
)
"""Additional tables of a diffused graph."""


@dataclass(frozen=True)
class CellGraph:
    """A cell graph with the representation that the graph was built on.

    Parameters
    ----------
    rep
        Representation of the cells, float32 ``(n_obs, n_rep)``.
    graph
        The graph.
    diffused
        The diffused graph, or ``None`` if the graph was not diffused.
    projection
        Projection that computed the representation, or ``None`` if the representation comes from ``obsm``.
    """

    rep: NDArray[np.float32]
    graph: NeighborGraph
    diffused: NeighborGraph | None
    projection: Projection | None


def write_graph(adata: AnnData, built: CellGraph, settings: GraphSettings, source: str | None = None) -> None:
    """Store a cell graph in ``adata``. ``source`` is the result of :func:`source_digest`, if already known."""
    write_tables(adata, built.rep, built.graph, built.diffused)
    record = write_scanpy_graph(adata, built.graph, settings)
    record["fingerprint"] = fingerprint(adata, settings, built.projection, source)
    if built.projection is not None:
        record["projection"] = built.projection.to_state()


def write_scanpy_graph(data: Any, graph: NeighborGraph, settings: GraphSettings) -> dict[str, Any]:
    """Store a graph in the format of scanpy in ``obsp`` and ``uns`` of an AnnData or MuData.

    Returns
    -------
    dict
        The record in ``uns``.
    """
    data.obsp[ADATA_KEYS.CONNECTIVITIES] = graph.connectivities()
    data.obsp[ADATA_KEYS.DISTANCES] = graph.distance_matrix()
    data.uns[ADATA_KEYS.NEIGHBORS] = graph_record(settings)
    return data.uns[ADATA_KEYS.NEIGHBORS]


def write_tables(
    adata: AnnData, rep: NDArray[np.float32], neighbors: NeighborGraph, diffused: NeighborGraph | None
) -> None:
    """Store the tables that a model reads in ``obsm``.

    If ``diffused`` is ``None``, the tables of an earlier diffused graph are deleted.
    """
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
    """Record of a graph in ``uns``: the parameters in the format of scanpy, and all settings of the graph."""
    return {
        "params": {
            "n_neighbors": settings.n_neighbors,
            "method": "umap",
            "metric": "euclidean",
            "random_state": settings.random_state,
            "use_rep": ADATA_KEYS.GRAPH_REP,
        },
        # Settings of None are left out, because older versions of anndata cannot write None to h5ad files.
        "settings": {name: value for name, value in asdict(settings).items() if value is not None},
        "connectivities_key": ADATA_KEYS.CONNECTIVITIES,
        "distances_key": ADATA_KEYS.DISTANCES,
    }


def stored_projection(adata: AnnData) -> Projection | None:
    """Projection that computed the representation of the stored graph, or None."""
    state = adata.uns.get(ADATA_KEYS.NEIGHBORS, {}).get("projection")
    return None if state is None else Projection.from_state(state)


def stored_graph(
    adata: AnnData, settings: GraphSettings, projection: Projection | None = None, source: str | None = None
) -> dict[str, NDArray[Any]] | None:
    """Read the tables of the graph in ``adata``, if the graph is up to date.

    A graph is up to date if it was built from exactly these cells and data, and with these settings. The function
    detects subsets, permutations and concatenations of cells, copied tables, changed counts or representations, other
    settings and another projection. The diffused graph must be stored if and only if ``settings`` request it.

    Parameters
    ----------
    adata
        Cells, with or without a graph written by :func:`~scsiameseclu.pp.neighbor_graph`.
    settings
        Settings of the graph.
    projection
        Projection of the graph. ``None``: the projection that is stored with the graph.
    source
        Result of :func:`source_digest`, if already known.

    Returns
    -------
    dict or None
        Tables of the graph by their keys in a mini-batch, or ``None`` if there is no graph that is up to date.
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
    except KeyError:  # an input of the graph was deleted; building the graph again raises a clear error
        return None
    return {name: np.array(table) for name, table in tables.items()} if record["fingerprint"] == expected else None


def has_wanted_diffusion(adata: AnnData, settings: GraphSettings) -> bool:
    """Whether ``obsm`` has both tables of a diffused graph if ``settings`` request diffusion, and none otherwise."""
    return all((key in adata.obsm) == settings.diffusion for key in DIFFUSED_KEYS)


def fingerprint(
    adata: AnnData, settings: GraphSettings, projection: Projection | None = None, source: str | None = None
) -> str:
    """SHA-1 of everything that a stored graph depends on, in hexadecimal.

    The fingerprint covers the stored representation, the projection, and the source of the graph
    (:func:`source_digest`, computed if ``source`` is ``None``).

    Raises
    ------
    KeyError
        If a layer, column or array that the settings name is missing.
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
    """SHA-1 of the data that a graph is built from, in hexadecimal.

    The digest covers the version of the format, the settings except ``diffusion``, the number and names of the cells,
    batches and size factors. If the representation is computed from counts, the digest also covers the names of the
    genes and the total counts per cell and per gene. (The totals are used because a digest of all counts takes much
    longer.) Otherwise, the digest covers the representation in ``obsm``. If the settings name a graph of scanpy, the
    digest covers this graph.

    Parameters
    ----------
    adata
        Cells.
    settings
        Settings of the graph.
    sums
        Total counts per cell and per gene, if already known.

    Raises
    ------
    KeyError
        If a layer, column or array that the settings name is missing.
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
            yield "\0".join(map(str, column)).encode()  # not `astype(str)`, which does not convert missing values
