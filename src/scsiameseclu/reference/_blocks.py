"""Tables that a model reads for cells besides their counts: representation, neighbours and edge weights."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from scsiameseclu._keys import GRAPH_VERSION, SIAMESE_KEYS
from scsiameseclu.pp._cell_sums import CellSums
from scsiameseclu.pp._counts import name_order
from scsiameseclu.pp._gene_moments import positive
from scsiameseclu.pp._graph_input import GraphSettings
from scsiameseclu.pp._joint import JointProjection, ProteinScaling
from scsiameseclu.pp._knn import batch_codes
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._memberships import fuzzy_weights
from scsiameseclu.pp._neighbors import link_cells
from scsiameseclu.pp._projection import Projection
from scsiameseclu.pp._scanpy_graph import covers_all_cells
from scsiameseclu.pp._stored_graph import CellGraph, stored_graph, stored_projection
from scsiameseclu.pp._threads import within_thread_limit
from scsiameseclu.reference._proteins import MeasuredProteins
from scsiameseclu.reference._sources import AnnDataSource, Cells, MuDataSource
from scsiameseclu.reference._targets import check_genes, check_proteins, check_representation, check_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Source: TypeAlias = "AnnDataSource | MuDataSource"
AnyProjection: TypeAlias = "Projection | JointProjection | None"


@dataclass(frozen=True, eq=False)
class CellBlocks:
    """Tables that a model reads for cells besides their counts.

    The neighbours of a reference cell are other reference cells. The neighbours of any other cell are landmarks of the
    reference, and do not depend on the other cells in the data. Landmark *j* has the row number ``n_obs + j``, because
    cells have the row numbers below ``n_obs``.

    Parameters
    ----------
    tables
        Tables by key of a mini-batch (``SIAMESE_KEYS``). There are the representation, float32 ``(n_obs, d)``, the row
        numbers of neighbours, int64 ``(n_obs, k)``, and the edge weights, float32 ``(n_obs, k)``. With diffusion, there
        are also row numbers and weights of the diffused graph. With proteins, there are also measured proteins and
        standardised proteins, float32 ``(n_obs, n_proteins)``.
    landmark_rep
        Representation of the landmarks, float32 ``(n_landmarks, d)``.
    digest
        Digest of the cells.
    are_reference
        Whether the cells are the cells of the reference.
    names
        Names of the cells.
    marks
        Summaries of each cell that reveal a later change (:meth:`~scsiameseclu.reference._sources.Cells.marks`).
    built
        Settings and graph of the cells of the reference, to be written to the data. ``None`` if the graph came from
        the data, or if the cells are not the reference.
    """

    tables: Mapping[str, NDArray[Any]]
    landmark_rep: NDArray[np.float32]
    digest: str
    are_reference: bool
    names: pd.Index
    marks: Mapping[str, NDArray[Any]]
    built: tuple[GraphSettings, CellGraph] | None = None

    @property
    def content(self) -> str:
        """SHA-1 of the digest and the marks of the cells, in hexadecimal."""
        state = hashlib.sha1(self.digest.encode(), usedforsecurity=False)
        for name, values in sorted(self.marks.items()):
            state.update(name.encode())
            state.update(values.tobytes() if values.dtype.kind in "fiu" else "\0".join(values).encode())
        return state.hexdigest()

    def match(self, source: Source, data: Any, state: Mapping[str, Any], rows: NDArray[np.int64] | None = None) -> bool:
        """Whether cells are unchanged since the blocks were computed. Only the counts of ``rows`` are read.

        Parameters
        ----------
        source, data
            Reader of the data, and the data with the cells.
        state
            State of the reference.
        rows
            Row numbers of the cells to compare, ascending. By default all cells.
        """
        if not data.obs_names.equals(self.names):
            return False
        cells = source.look_up(data, _settings(state, data))
        cells = _measured(state, cells).applied(cells)
        where = slice(None) if rows is None else rows
        found = cells.marks(rows)
        return found.keys() == self.marks.keys() and all(
            _same(values, self.marks[name][where]) for name, values in found.items()
        )


@within_thread_limit()
def set_up(source: Source, data: Any, settings: GraphSettings) -> tuple[dict[str, Any], CellBlocks]:
    """Make cells a reference: fit the projection, build the graph, choose landmarks.

    Parameters
    ----------
    source, data
        Reader of the data, and the data with the cells.
    settings
        Settings of the graph.

    Returns
    -------
    State of the reference, as a plain dictionary for a registry, and the blocks of the cells.

    Raises
    ------
    KeyError, ValueError
        If a key in the settings is missing in the data, or the data are not valid.
    """
    cells = source.look_up(data, settings)
    measured = None
    if cells.proteins is not None:
        measured = MeasuredProteins.of(cells.proteins.values, cells.batch)
        cells = measured.applied(cells)
    projection: AnyProjection = stored_projection(data)
    # A projection is fitted to the moments, unless there is one already or the size factors are others.
    fits = projection is None and cells.rep is None and cells.sizes is None
    advice = partial(cells.advice, True)
    sums = CellSums.of_checked(cells.counts, cells.names, cells.genes, advice=advice, with_moments=fits)
    digest = source.digest(data, cells, settings, sums)
    stored = stored_graph(data, settings, None, digest) if isinstance(source, AnnDataSource) else None
    if stored is None:
        projection, rep = _fitted(source, cells, settings, sums)
    else:
        rep = stored[SIAMESE_KEYS.GRAPH_REP]
    read = _Read(cells, settings, projection, rep, sums, digest)
    landmarks = read.landmarks()
    state = {
        "version": GRAPH_VERSION,
        **asdict(settings),
        "n_rep": int(rep.shape[1]),
        **_projection_state(projection, cells, source),
        "landmarks": landmarks.to_state(),
        "source": digest,
    }
    if measured is not None:
        state["measured"] = measured.to_state()
    return state, _own_blocks(data, read, landmarks, stored)


@within_thread_limit()
def meet(source: Source, data: Any, state: Mapping[str, Any]) -> tuple[dict[str, Any], CellBlocks]:
    """Compute the blocks of cells for an existing reference, in one pass over the counts.

    Parameters
    ----------
    source, data
        Reader of the data, and the data with the cells.
    state
        State of the reference. Without ``"landmarks"``, the cells become the cells of the reference.

    Returns
    -------
    State of the reference, and the blocks of the cells. Cells have fewer than ``n_neighbors`` neighbours if the
    reference has too few cells.

    Raises
    ------
    KeyError
        If a key that was given at set-up is missing in the data.
    ValueError
        If the data are not valid, the genes or proteins differ, or the representation has another width.
    """
    settings = _settings(state, data)
    check_representation(settings.use_rep, data)
    cells = source.look_up(data, settings)
    projection = projection_of(state)
    check_genes(state, cells, projection)
    check_proteins(state, cells, projection)
    cells = _measured(state, cells).applied(cells)
    rep, sums = _read(cells, projection)
    check_width(state, rep)
    digest = source.digest(data, cells, settings, sums)
    if "landmarks" not in state or state["source"] == digest:
        stored = None if isinstance(projection, JointProjection) else stored_graph(data, settings, projection, digest)
        if stored is not None:
            rep = stored[SIAMESE_KEYS.GRAPH_REP]
        read = _Read(cells, settings, projection, rep, sums, digest)
        if "landmarks" not in state:
            state = {**state, "landmarks": read.landmarks().to_state(), "source": digest}
        landmarks = Landmarks.from_state(state["landmarks"])
        return dict(state), _own_blocks(data, read, landmarks, stored)
    if state["neighbors_key"] is not None:
        logger.warning(
            "The model was set up with the graph uns[%r]. The given data have no such graph, or their graph has no "
            "neighbours in the reference. Neighbours are searched in the model's representation instead.",
            state["neighbors_key"],
        )
    landmarks = Landmarks.from_state(state["landmarks"])
    logger.info("Finding the neighbours of %d cells among %d landmarks.", len(rep), len(landmarks))
    return dict(state), _blocks_among_landmarks(_Read(cells, settings, projection, rep, sums, digest), landmarks)


def projection_of(state: Mapping[str, Any]) -> AnyProjection:
    """Projection of a reference from its state."""
    if "joint" in state:
        return JointProjection.from_state(state["joint"])
    return None if state["projection"] is None else Projection.from_state(state["projection"])


@dataclass(frozen=True, eq=False)
class _Read:
    """Cells with the projection, representation, sums and digest that belong to them."""

    cells: Cells
    settings: GraphSettings
    projection: AnyProjection
    rep: NDArray[np.float32]
    sums: CellSums
    digest: str

    def landmarks(self) -> Landmarks:
        """Choose landmarks among these cells."""
        return Landmarks.choose(self.rep, self.cells.batch, self.settings.n_neighbors, self.settings.random_state)

    def blocks(self, tables: dict[str, NDArray[Any]], landmarks: Landmarks, **others: Any) -> CellBlocks:
        """Make the blocks of the cells from ``tables`` and, if there are proteins, the tables of the proteins."""
        if self.cells.proteins is not None and isinstance(self.projection, JointProjection):
            values = self.cells.proteins.values
            scores = self.projection.protein.transform(values)
            tables = {**tables, SIAMESE_KEYS.PROTEIN: values, SIAMESE_KEYS.PROTEIN_REP: scores}
        marks = self.cells.marks(None, self.sums)
        return CellBlocks(tables, landmarks.rep, self.digest, names=self.cells.names, marks=marks, **others)


def _settings(state: Mapping[str, Any], data: Any) -> GraphSettings:
    """Settings of a reference.

    The key of scanpy's graph is removed if the data have no such graph for every cell.
    """
    settings = GraphSettings.from_state(state)
    if settings.neighbors_key is None or covers_all_cells(data, settings.neighbors_key):
        return settings
    return replace(settings, neighbors_key=None)


def _measured(state: Mapping[str, Any], cells: Cells) -> MeasuredProteins:
    """Which proteins were measured in the reference.

    References of early versions do not record which proteins were measured. The cells themselves then decide.
    """
    if "measured" in state:
        return MeasuredProteins.from_state(state["measured"])
    if cells.proteins is None:
        return MeasuredProteins((), np.zeros((0, 0), dtype=bool))
    return MeasuredProteins.of(cells.proteins.values, cells.batch)


def _fitted(
    source: Source, cells: Cells, settings: GraphSettings, sums: CellSums
) -> tuple[AnyProjection, NDArray[np.float32]]:
    """Fit the projection of a new reference, and compute the representation of its cells.

    The projection is ``None`` if the representation comes from ``obsm``.
    """
    options: dict[str, Any] = {
        "n_comps" if cells.proteins is None else "n_pcs": settings.n_pcs,
        "random_state": settings.random_state,
        "size_factors": cells.sizes,
        "batch": cells.batch,
        "gene_order": name_order(cells.genes),
        "sums": sums,
    }
    if cells.proteins is None or isinstance(source, AnnDataSource):
        return (None, cells.rep) if cells.rep is not None else Projection.fit_transform(cells.counts, **options)
    if cells.proteins.counts is None:
        raise ValueError("Expected protein values to set up on, found only NaN. Use setup_anndata for RNA alone.")
    values = cells.proteins.values
    scaling = ProteinScaling.fit(values, cells.proteins.names, cells.proteins.counts)
    if cells.rep is not None:
        return JointProjection(None, scaling), cells.rep
    return JointProjection.fit_transform(cells.counts, values, scaling, protein_weight=source.protein_weight, **options)


def _read(cells: Cells, projection: AnyProjection) -> tuple[NDArray[np.float32], CellSums]:
    """Compute representation and sums of cells in one pass over their counts."""
    rna = projection.rna if isinstance(projection, JointProjection) else projection
    rep = None if rna is None else np.empty((len(cells.names), rna.n_comps), dtype=np.float32)

    def visit(places: slice, block: Any, per_cell: NDArray[np.float64]) -> None:
        if rna is not None and rep is not None:
            sizes = positive(per_cell) if cells.sizes is None else cells.sizes[places]
            rep[places] = rna.project(block, sizes)

    sums = CellSums.of_checked(cells.counts, cells.names, cells.genes, advice=partial(cells.advice, False), visit=visit)
    return _completed(cells, projection, rep), sums


def _completed(cells: Cells, projection: AnyProjection, rna: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Representation of cells from principal components of the RNA.

    The result is the table from ``obsm`` if there is one. With proteins, the components of the RNA are combined with
    components of the proteins.
    """
    if cells.rep is not None:
        return cells.rep
    if rna is None:
        raise ValueError("Expected a projection of the RNA, found none; this is a bug.")
    if isinstance(projection, JointProjection) and cells.proteins is not None:
        return projection.combined(rna, cells.proteins.values)
    return rna


def _projection_state(projection: AnyProjection, cells: Cells, source: Source) -> dict[str, Any]:
    if isinstance(projection, JointProjection) and isinstance(source, MuDataSource):
        return {
            "projection": None,
            "gene_names": list(cells.genes.astype(str)),
            "protein_weight": source.protein_weight,
            "joint": projection.to_state(),
        }
    if not isinstance(projection, Projection):
        return {"projection": None, "gene_names": None}
    names = list(cells.genes[projection.gene_indices].astype(str))
    return {"projection": projection.to_state(), "gene_names": names}


def _own_blocks(data: Any, read: _Read, landmarks: Landmarks, stored: dict[str, NDArray[Any]] | None) -> CellBlocks:
    """Blocks of the cells of a reference, from a graph stored in the data or from a new graph."""
    if stored is not None:
        return read.blocks(stored, landmarks, are_reference=True)
    logger.info("Building the cell graph of %d cells.", len(read.rep))
    graph, diffused = link_cells(data, read.rep, read.settings, read.cells.batch)
    tables: dict[str, NDArray[Any]] = {
        SIAMESE_KEYS.GRAPH_REP: read.rep,
        SIAMESE_KEYS.NEIGHBOR_INDEX: graph.indices,
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: graph.weights,
    }
    if diffused is not None:
        tables[SIAMESE_KEYS.DIFFUSED_INDEX] = diffused.indices
        tables[SIAMESE_KEYS.DIFFUSED_WEIGHT] = diffused.weights
    projection = read.projection if isinstance(read.projection, Projection) else None
    built = read.settings, CellGraph(read.rep, graph, diffused, projection)
    return read.blocks(tables, landmarks, are_reference=True, built=built)


def _blocks_among_landmarks(read: _Read, landmarks: Landmarks) -> CellBlocks:
    """Blocks of cells outside the reference. The neighbours of each cell are landmarks of the reference."""
    n_obs, k, batch = len(read.rep), read.settings.n_neighbors, read.cells.batch
    if batch is not None:
        batch_codes(batch, n_obs)  # raises an error if batch labels are missing
    nearest, distances = landmarks.nearest(read.rep, batch)
    is_edge = np.isfinite(distances)
    found = min(k, nearest.shape[1])
    indices = np.tile(np.arange(n_obs, dtype=np.int64)[:, None], (1, k))
    weights = np.zeros((n_obs, k), dtype=np.float32)
    indices[:, :found] = np.where(is_edge, nearest + n_obs, indices[:, :found])
    if found:
        own_batch = landmarks.batch[nearest] if landmarks.batches else None
        weights[:, :found] = fuzzy_weights(np.where(is_edge, distances, 0.0).astype(np.float32), is_edge, own_batch)
    tables: dict[str, NDArray[Any]] = {
        SIAMESE_KEYS.GRAPH_REP: read.rep,
        SIAMESE_KEYS.NEIGHBOR_INDEX: indices,
        SIAMESE_KEYS.NEIGHBOR_WEIGHT: weights,
    }
    if read.settings.diffusion:  # these cells have no edges among each other, so the graph cannot be diffused
        tables[SIAMESE_KEYS.DIFFUSED_INDEX], tables[SIAMESE_KEYS.DIFFUSED_WEIGHT] = indices, weights
    return read.blocks(tables, landmarks, are_reference=False)


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two tables agree. Numbers may differ by rounding."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind in "fiu":
        return bool(np.allclose(first, second, rtol=1e-9, atol=0.0, equal_nan=True))
    return bool(np.array_equal(first, second))
