"""The cell graph of an AnnData, or its neighbours in a reference: build, store, and tell whether a stored one still fits."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu._keys import ADATA_KEYS, GRAPH_VERSION
from scsiameseclu.pp._counts import canonical, check_counts, get_counts, name_order, totals
from scsiameseclu.pp._diffusion import ppr_diffusion
from scsiameseclu.pp._graph import NeighborGraph
from scsiameseclu.pp._knn import knn
from scsiameseclu.pp._projection import Projection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scsiameseclu.pp._landmark_blocks import LandmarkBlocks
    from scsiameseclu.pp._landmarks import Landmarks

logger = logging.getLogger(__name__)

DIFFUSED_KEYS = (ADATA_KEYS.DIFFUSED_INDEX, ADATA_KEYS.DIFFUSED_WEIGHT)
"""Tables of the diffused graph, in ``obsm`` if and only if the graph was set up with diffusion."""


@dataclass(frozen=True)
class GraphSettings:
    """What a cell graph is built from; see :func:`neighbor_graph` for the meaning of each."""

    n_neighbors: int = 15
    use_rep: str | None = None
    neighbors_key: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    size_factor_key: str | None = None
    n_pcs: int = 50
    random_state: int = 0
    diffusion: bool = False

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GraphSettings:
        """Settings that a set-up left in a registry. Every graph was diffused before ``diffusion`` was one of them."""
        known = {"diffusion": True, **state}
        return cls(**{field.name: known[field.name] for field in fields(cls)})

    def of_neighbors(self) -> list[tuple[str, Any]]:
        """Settings that the neighbours of a cell depend on, by name: all but ``diffusion``."""
        return sorted((name, value) for name, value in asdict(self).items() if name != "diffusion")


@dataclass(frozen=True)
class CellGraph:
    """A built graph with the space it was built in.

    ``diffused`` is ``None`` if no diffusion was asked for, ``projection`` if the space came from ``obsm``.
    """

    rep: NDArray[np.float32]
    graph: NeighborGraph
    diffused: NeighborGraph | None
    projection: Projection | None


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
        Neighbours per cell, the cell itself not counted.
    use_rep
        Key of :attr:`~anndata.AnnData.obsm` to measure distances in. Default: principal components of log-normalised
        counts (:class:`Projection`).
    neighbors_key
        Key of :attr:`~anndata.AnnData.uns` of a graph made by :func:`scanpy.pp.neighbors`; its edges are used instead
        of new ones: the ``n_neighbors`` strongest of each cell. The representation is still computed, because a model
        reads it.
    layer
        Layer with the counts. Default: ``X``.
    batch_key
        Column of :attr:`~anndata.AnnData.obs`: every cell takes neighbours from every batch; see :func:`knn` for the
        rule.
    size_factor_key
        Column of :attr:`~anndata.AnnData.obs` with positive size factors to normalise by. Default: total counts.
    n_pcs
        Number of principal components.
    random_state
        Seed. Default: ``scvi.settings.seed``, or 0 where that is not set.
    diffusion
        Diffuse the graph by :func:`ppr_diffusion` as well, as the paper does.

    Returns
    -------
    The graph. ``adata`` gets, under the names in ``scsiameseclu._keys.ADATA_KEYS``:

    - ``obsm``: the representation (float32), the tables of neighbours (int64) and weights (float32), and with
      ``diffusion`` the same two for the diffused graph;
    - ``obsp``: connectivities and distances, with ``uns["siamese_clu_neighbors"]`` in scanpy's format, so that
      ``sc.tl.umap(adata, neighbors_key="siamese_clu_neighbors")`` works.

    Raises
    ------
    KeyError
        If a key is missing; the message lists those available.
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
        check_counts(get_counts(adata, layer), adata.obs_names, adata.var_names)
    built = build_graph(adata, settings)
    write_graph(adata, built, settings)
    return built.graph


def build_graph(adata: AnnData, settings: GraphSettings, projection: Projection | None = None) -> CellGraph:
    """Compute representation, neighbours and what else was asked for; ``projection`` replaces fitting a new one."""
    start = time.perf_counter()
    rep, projection = representation(adata, settings, projection)
    projected = time.perf_counter()
    if settings.neighbors_key is not None:
        graph = graph_from_scanpy(adata, settings.neighbors_key, settings.n_neighbors)
    else:
        batch = obs_column(adata, settings.batch_key)
        graph = knn(rep, settings.n_neighbors, settings.random_state, batch=batch)
    if not graph.is_edge.all():
        lonely = int((~graph.is_edge).any(axis=1).sum())
        logger.warning("%d of %d cells have fewer than %d neighbours.", lonely, graph.n_obs, graph.n_neighbors)
    linked = time.perf_counter()
    diffused = ppr_diffusion(graph) if settings.diffusion else None
    logger.info(
        "Cell graph of %d cells: representation %.1f s, neighbours %.1f s, diffusion %.1f s.",
        graph.n_obs,
        projected - start,
        linked - projected,
        time.perf_counter() - linked,
    )
    return CellGraph(rep, graph, diffused, projection)


def representation(
    adata: AnnData, settings: GraphSettings, projection: Projection | None
) -> tuple[NDArray[np.float32], Projection | None]:
    """Representation of the cells, and the projection behind it, fitted here if none is given."""
    if settings.use_rep is not None:
        return _obsm_rep(adata, settings.use_rep), None
    counts = get_counts(adata, settings.layer)
    sizes = obs_column(adata, settings.size_factor_key)
    if projection is None:
        batch = obs_column(adata, settings.batch_key)
        projection = Projection.fit(
            counts,
            settings.n_pcs,
            random_state=settings.random_state,
            size_factors=sizes,
            batch=batch,
            gene_order=name_order(adata.var_names),
        )
    return projection.transform(counts, sizes), projection


def write_graph(adata: AnnData, built: CellGraph, settings: GraphSettings) -> None:
    """Store a built graph in ``adata``."""
    write_tables(adata, built.rep, built.graph, built.diffused)
    adata.obsp[ADATA_KEYS.CONNECTIVITIES] = built.graph.connectivities()
    adata.obsp[ADATA_KEYS.DISTANCES] = built.graph.distance_matrix()
    record = graph_record(settings, fingerprint(adata, settings, built.projection))
    record["connectivities_key"], record["distances_key"] = ADATA_KEYS.CONNECTIVITIES, ADATA_KEYS.DISTANCES
    if built.projection is not None:
        record["projection"] = built.projection.to_state()
    adata.uns[ADATA_KEYS.NEIGHBORS] = record


def write_tables(
    adata: AnnData,
    rep: NDArray[np.float32],
    neighbors: NeighborGraph | LandmarkBlocks,
    diffused: NeighborGraph | LandmarkBlocks | None,
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


def graph_record(settings: GraphSettings, mark: str) -> dict[str, Any]:
    """What stays in ``uns``: scanpy's parameters, our settings, and the fingerprint."""
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
        "fingerprint": mark,
    }


def stored_projection(adata: AnnData) -> Projection | None:
    """The projection a stored graph was built with, if any."""
    state = adata.uns.get(ADATA_KEYS.NEIGHBORS, {}).get("projection")
    return None if state is None else Projection.from_state(state)


def graph_is_current(
    adata: AnnData,
    settings: GraphSettings,
    projection: Projection | None = None,
    landmarks: Landmarks | None = None,
) -> bool:
    """Whether the stored graph was built from exactly these cells, this data and these settings.

    Detects subsets, permutations, concatenations, copied tables, changed counts or representations, other settings
    and, if ``projection`` is given, another projection. Tables of a diffused graph must be there if they are asked
    for, and only then. With ``landmarks``: whether the stored tables name neighbours among exactly these; without:
    neighbours among the cells themselves.
    """
    record = adata.uns.get(ADATA_KEYS.NEIGHBORS)
    if record is None or "fingerprint" not in record or ADATA_KEYS.GRAPH_REP not in adata.obsm:
        return False
    if ADATA_KEYS.NEIGHBOR_WEIGHT not in adata.obsm or not has_wanted_diffusion(adata, settings):
        return False
    for key in (ADATA_KEYS.NEIGHBOR_INDEX, *((ADATA_KEYS.DIFFUSED_INDEX,) if settings.diffusion else ())):
        table = adata.obsm.get(key)
        if table is None or table.shape[1] != settings.n_neighbors or table.dtype != np.int64:
            return False
        if table.min() < 0 or table.max() >= adata.n_obs + (0 if landmarks is None else len(landmarks)):
            return False
    try:
        expected = fingerprint(
            adata, settings, stored_projection(adata) if projection is None else projection, landmarks
        )
    except KeyError:  # something the graph was built from is gone: whoever rebuilds it will say what
        return False
    return bool(record["fingerprint"] == expected)


def has_wanted_diffusion(adata: AnnData, settings: GraphSettings) -> bool:
    """Whether ``obsm`` has the tables of a diffused graph if they are asked for, and neither of them if not."""
    return all((key in adata.obsm) == settings.diffusion for key in DIFFUSED_KEYS)


def fingerprint(
    adata: AnnData,
    settings: GraphSettings,
    projection: Projection | None = None,
    landmarks: Landmarks | None = None,
) -> str:
    """SHA-1 of everything a stored graph depends on, in hexadecimal.

    Covers the stored representation, the projection, the source (:func:`source_digest`) and, for neighbours among
    landmarks, the landmarks and the table.

    Raises
    ------
    KeyError
        If a source is missing.
    """
    state = hashlib.sha1(source_digest(adata, settings).encode(), usedforsecurity=False)
    state.update(np.ascontiguousarray(adata.obsm[ADATA_KEYS.GRAPH_REP], dtype=np.float32).tobytes())
    state.update(b"" if projection is None else projection.digest.encode())
    if landmarks is not None:
        state.update(landmarks.digest.encode())
        state.update(np.ascontiguousarray(adata.obsm[ADATA_KEYS.NEIGHBOR_INDEX]).tobytes())
    return state.hexdigest()


def source_digest(adata: AnnData, settings: GraphSettings) -> str:
    """SHA-1 of what a graph is built from, in hexadecimal: tells the cells of a reference from any others.

    Covers the version of the convention, the settings but for the diffusion, the names and number of cells, and gene
    names with the totals per cell and gene (exact sums, far cheaper than the matrix), or the representation or graph
    named in the settings, plus batches and size factors.

    Raises
    ------
    KeyError
        If a source is missing.
    """
    state = hashlib.sha1(usedforsecurity=False)
    state.update(repr((GRAPH_VERSION, adata.n_obs, settings.of_neighbors())).encode())
    state.update("\0".join(adata.obs_names.astype(str)).encode())
    for part in _source_parts(adata, settings):
        state.update(part)
    return state.hexdigest()


def _source_parts(adata: AnnData, settings: GraphSettings) -> Iterator[bytes]:
    if settings.use_rep is not None:
        yield _obsm_rep(adata, settings.use_rep).tobytes()
    else:
        yield "\0".join(adata.var_names.astype(str)).encode()
        yield from (sums.tobytes() for sums in totals(get_counts(adata, settings.layer)))
    if settings.neighbors_key is not None:
        connectivities = _scanpy_connectivities(adata, settings.neighbors_key)
        yield from (getattr(connectivities, name).tobytes() for name in ("indptr", "indices", "data"))
    for key in (settings.batch_key, settings.size_factor_key):
        column = obs_column(adata, key)
        if column is not None:
            yield "\0".join(map(str, column)).encode()  # `astype(str)` keeps missing values as floats


def graph_from_scanpy(adata: AnnData, neighbors_key: str, n_neighbors: int) -> NeighborGraph:
    """Read a graph in scanpy's format: of each cell the ``n_neighbors`` strongest connectivities, ties by row number.

    Self loops are dropped, weights above 1 are divided by the largest, distances are ``-log(weight)`` (a symmetrised
    edge has no distance of its own).

    Raises
    ------
    KeyError
        If the graph is missing; the message lists what there is.
    ValueError
        If its shape or its weights are not valid.
    """
    edges = sparse.coo_matrix(_scanpy_connectivities(adata, neighbors_key))
    if not np.all(np.isfinite(edges.data) & (edges.data >= 0)):
        raise ValueError(f"uns[{neighbors_key!r}]: expected finite connectivities of at least 0, found others.")
    kept = (edges.row != edges.col) & (edges.data > 0)
    rows, columns = edges.row[kept].astype(np.int64), edges.col[kept].astype(np.int64)
    strengths = edges.data[kept].astype(np.float32)
    strengths /= max(1.0, float(strengths.max(initial=0)))

    order = np.lexsort((columns, -strengths, rows))
    rows, columns, strengths = rows[order], columns[order], strengths[order]
    degrees = np.bincount(rows, minlength=adata.n_obs)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    strong = rank < n_neighbors
    rows, rank = rows[strong], rank[strong]

    indices = np.tile(np.arange(adata.n_obs, dtype=np.int64)[:, None], (1, n_neighbors))
    weights = np.zeros(indices.shape, dtype=np.float32)
    indices[rows, rank] = columns[strong]
    weights[rows, rank] = np.maximum(strengths[strong], np.finfo(np.float32).tiny)
    distances = np.zeros_like(weights)
    distances[rows, rank] = -np.log(weights[rows, rank])
    return NeighborGraph(indices, distances + 0, weights, symmetric=True)


def covers_all_cells(adata: AnnData, neighbors_key: str) -> bool:
    """Whether ``adata`` has the graph and every cell an edge in it (a small subset of a graph may have none left)."""
    if neighbors_key not in adata.uns:
        return False
    return bool(_scanpy_connectivities(adata, neighbors_key).getnnz(axis=1).all())


def _scanpy_connectivities(adata: AnnData, neighbors_key: str) -> sparse.csr_matrix:
    if neighbors_key not in adata.uns:
        raise KeyError(
            f"`neighbors_key`: expected a key of adata.uns, found {neighbors_key!r}. Available: {list(adata.uns)}."
        )
    record = adata.uns[neighbors_key]
    key = record.get("connectivities_key", "connectivities") if hasattr(record, "get") else "connectivities"
    if key not in adata.obsp:
        raise KeyError(
            f"uns[{neighbors_key!r}] names the graph obsp[{key!r}], which is missing. "
            f"Available: {list(adata.obsp)}. Run scanpy.pp.neighbors."
        )
    graph = adata.obsp[key]
    return canonical(graph if sparse.issparse(graph) else sparse.csr_matrix(graph))


def _obsm_rep(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    if use_rep not in adata.obsm:
        raise KeyError(f"`use_rep`: expected a key of adata.obsm, found {use_rep!r}. Available: {list(adata.obsm)}.")
    rep = adata.obsm[use_rep]
    try:
        values = np.ascontiguousarray(canonical(rep).toarray() if sparse.issparse(rep) else rep, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"obsm[{use_rep!r}]: expected numbers alone, found others ({error}).") from error
    check_rep(values, use_rep, adata.obs_names)
    return values


def check_rep(values: NDArray[np.float32], use_rep: str, obs_names: pd.Index) -> None:
    """Refuse a representation that is not finite.

    Raises
    ------
    ValueError
        If there are NaN or infinite values; the message names the first such cell.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(
            f"obsm[{use_rep!r}]: expected a finite representation, found NaN or infinite values for cell "
            f"{obs_names[bad[0]]!r} ({bad.size} in all). Compute it again, or leave these cells out."
        )


def obs_column(adata: AnnData, key: str | None) -> pd.Series | None:
    if key is None:
        return None
    if key not in adata.obs:
        raise KeyError(f"Expected a column of adata.obs, found {key!r}. Available: {list(adata.obs)}.")
    return adata.obs[key]


def resolve_seed(random_state: int | None) -> int:
    """``random_state``, or the seed of scvi-tools, or 0."""
    if random_state is None:
        import scvi

        random_state = scvi.settings.seed
    return 0 if random_state is None else int(random_state)
