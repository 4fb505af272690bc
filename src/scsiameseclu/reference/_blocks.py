"""What a model reads of cells besides their counts: representation, neighbours, edge weights."""

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
from scsiameseclu.pp._graph_input import GraphSettings
from scsiameseclu.pp._joint import JointProjection, ProteinScaling
from scsiameseclu.pp._knn import batch_codes
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._memberships import fuzzy_weights
from scsiameseclu.pp._neighbors import link_cells
from scsiameseclu.pp._projection import Projection, positive
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
    """What a model reads of cells besides their counts, computed next to a reference.

    The cells of the reference have neighbours among themselves. All other cells have neighbours among the landmarks of
    the reference, each cell on its own; the row number of landmark *j* is ``n_obs + j``, which no cell has.

    Parameters
    ----------
    tables
        By key of a mini-batch (``SIAMESE_KEYS``): representation float32 ``(n_obs, d)``, row numbers of neighbours
        int64 ``(n_obs, k)`` and edge weights float32 ``(n_obs, k)``, the same two of the diffused graph if that was
        asked for, proteins as measured and standardised, float32 ``(n_obs, n_proteins)``, if there are any.
    landmark_rep
        Representation of the landmarks, float32 ``(n_landmarks, d)``.
    digest
        Digest of the cells.
    are_reference
        Whether these are the cells of the reference.
    names
        Names of the cells.
    marks
        What a later change of the cells shows in (:meth:`~scsiameseclu.reference._sources.Cells.marks`).
    built
        Settings and graph of the cells of the reference, to be written; ``None`` where these are in ``obsm`` already.
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
        """SHA-1 of the cells and what was read of each of them, in hexadecimal."""
        state = hashlib.sha1(self.digest.encode(), usedforsecurity=False)
        for name, values in sorted(self.marks.items()):
            state.update(name.encode())
            state.update(values.tobytes() if values.dtype.kind in "fiu" else "\0".join(values).encode())
        return state.hexdigest()

    def match(self, source: Source, data: Any, state: Mapping[str, Any], rows: NDArray[np.int64] | None = None) -> bool:
        """Whether cells are as they were when the blocks were computed; only ``rows`` of the counts are read.

        Parameters
        ----------
        source, data
            Where the cells are.
        state
            State of the reference.
        rows
            Rows to look at, ascending; all by default.
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
        Where the cells are.
    settings
        Settings of the graph.

    Returns
    -------
    State of the reference, plain, for a registry; and the blocks of its cells.

    Raises
    ------
    KeyError, ValueError
        If something that the settings name is missing, or data are not valid.
    """
    cells = source.look_up(data, settings)
    measured = None
    if cells.proteins is not None:
        measured = MeasuredProteins.of(cells.proteins.values, cells.batch)
        cells = measured.applied(cells)
    sums = CellSums.of_checked(cells.counts, cells.names, cells.genes, advice=partial(cells.advice, True))
    digest = source.digest(data, cells, settings, sums)
    stored = stored_graph(data, settings, None, digest) if isinstance(source, AnnDataSource) else None
    projection: AnyProjection = stored_projection(data)
    if stored is None:
        projection = _fitted(source, cells, settings, sums)
        rep = _projected(cells, projection, sums)
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
    """Read cells next to a reference, in one pass over the counts.

    Parameters
    ----------
    source, data
        Where the cells are.
    state
        State of the reference. Without ``"landmarks"``, the cells become those of the reference.

    Returns
    -------
    State of the reference, and the blocks of the cells. A cell has fewer neighbours if the reference has no more than
    ``n_neighbors`` cells.

    Raises
    ------
    KeyError
        If something that was named at set-up is missing.
    ValueError
        If data are not valid, genes or proteins differ, or the representation has another width.
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
            "The model was set up with the graph uns[%r], which the given data lack or which says nothing of "
            "neighbours in the reference: neighbours are searched in the model's representation instead.",
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
    """Cells with what was read of them."""

    cells: Cells
    settings: GraphSettings
    projection: AnyProjection
    rep: NDArray[np.float32]
    sums: CellSums
    digest: str

    def landmarks(self) -> Landmarks:
        """Landmarks among these cells."""
        return Landmarks.choose(self.rep, self.cells.batch, self.settings.n_neighbors, self.settings.random_state)

    def blocks(self, tables: dict[str, NDArray[Any]], landmarks: Landmarks, **others: Any) -> CellBlocks:
        """Blocks of the cells, with these tables and those of the proteins if there are any."""
        if self.cells.proteins is not None and isinstance(self.projection, JointProjection):
            values = self.cells.proteins.values
            scores = self.projection.protein.transform(values)
            tables = {**tables, SIAMESE_KEYS.PROTEIN: values, SIAMESE_KEYS.PROTEIN_REP: scores}
        marks = self.cells.marks(None, self.sums)
        return CellBlocks(tables, landmarks.rep, self.digest, names=self.cells.names, marks=marks, **others)


def _settings(state: Mapping[str, Any], data: Any) -> GraphSettings:
    """Settings of a reference, without its graph of scanpy if the data do not have that for every cell."""
    settings = GraphSettings.from_state(state)
    if settings.neighbors_key is None or covers_all_cells(data, settings.neighbors_key):
        return settings
    return replace(settings, neighbors_key=None)


def _measured(state: Mapping[str, Any], cells: Cells) -> MeasuredProteins:
    """Which proteins were measured in the reference; of an early one, which did not say so, in the cells themselves."""
    if "measured" in state:
        return MeasuredProteins.from_state(state["measured"])
    if cells.proteins is None:
        return MeasuredProteins((), np.zeros((0, 0), dtype=bool))
    return MeasuredProteins.of(cells.proteins.values, cells.batch)


def _fitted(source: Source, cells: Cells, settings: GraphSettings, sums: CellSums) -> AnyProjection:
    """Fit the projection of a new reference."""
    options: dict[str, Any] = {
        "n_comps" if cells.proteins is None else "n_pcs": settings.n_pcs,
        "random_state": settings.random_state,
        "size_factors": cells.sizes,
        "batch": cells.batch,
        "gene_order": name_order(cells.genes),
    }
    if cells.proteins is None or isinstance(source, AnnDataSource):
        return None if cells.rep is not None else Projection.fit(cells.counts, per_cell=sums.per_cell, **options)
    if cells.proteins.counts is None:
        raise ValueError("Expected protein values to set up on, found only NaN. Use setup_anndata for RNA alone.")
    values = cells.proteins.values
    scaling = ProteinScaling.fit(values, cells.proteins.names, cells.proteins.counts)
    if cells.rep is not None:
        return JointProjection(None, scaling)
    return JointProjection.fit(cells.counts, values, scaling, protein_weight=source.protein_weight, **options)


def _read(cells: Cells, projection: AnyProjection) -> tuple[NDArray[np.float32], CellSums]:
    """Representation and sums of cells, from one pass over their counts."""
    rna = projection.rna if isinstance(projection, JointProjection) else projection
    rep = None if rna is None else np.empty((len(cells.names), rna.n_comps), dtype=np.float32)

    def visit(places: slice, block: Any, per_cell: NDArray[np.float64]) -> None:
        if rna is not None and rep is not None:
            sizes = positive(per_cell) if cells.sizes is None else cells.sizes[places]
            rep[places] = rna.project(block, sizes)

    sums = CellSums.of_checked(cells.counts, cells.names, cells.genes, advice=partial(cells.advice, False), visit=visit)
    return _completed(cells, projection, rep), sums


def _projected(cells: Cells, projection: AnyProjection, sums: CellSums) -> NDArray[np.float32]:
    """Representation of the cells of a new reference."""
    rna = projection.rna if isinstance(projection, JointProjection) else projection
    if rna is None:
        return _completed(cells, projection, None)
    sizes = positive(sums.per_cell) if cells.sizes is None else cells.sizes
    return _completed(cells, projection, rna.transform(cells.counts, sizes))


def _completed(cells: Cells, projection: AnyProjection, rna: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Representation from the components of the RNA: as they are, or next to the proteins; or from ``obsm``."""
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
    """Blocks of the cells of a reference: neighbours among themselves, from a graph in the data if there is one."""
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
    """Blocks of cells that are not the reference: neighbours among its landmarks, every cell on its own."""
    n_obs, k, batch = len(read.rep), read.settings.n_neighbors, read.cells.batch
    if batch is not None:
        batch_codes(batch, n_obs)  # refuses missing labels
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
    if read.settings.diffusion:  # there is no graph between these cells to diffuse
        tables[SIAMESE_KEYS.DIFFUSED_INDEX], tables[SIAMESE_KEYS.DIFFUSED_WEIGHT] = indices, weights
    return read.blocks(tables, landmarks, are_reference=False)


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two tables agree; sums of values that are not whole numbers may differ by rounding."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind in "fiu":
        return bool(np.allclose(first, second, rtol=1e-9, atol=0.0, equal_nan=True))
    return bool(np.array_equal(first, second))
