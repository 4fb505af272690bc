"""Landmarks: reference cells that are stored in a model. New cells find their neighbours among the landmarks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scsiameseclu.pp._exact_search import search_exact
from scsiameseclu.pp._knn import (
    askers,
    batch_codes,
    batch_quotas,
    centred,
    exact_distances,
    sort_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

LANDMARK_LIMIT = 20_000
"""Largest number of landmarks (4 MB as float32 with 50 components). A larger reference is sampled."""

_MAX_GROUPS = 200
_LANDMARKS_PER_GROUP = 50
_MAX_FIT_CELLS = 50_000
_MIN_SPREAD = 1e-3


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Reference cells in the representation that the cell graph was built on.

    The neighbours of a cell are its nearest landmarks. Each cell is compared with every landmark, so the neighbours of
    a cell do not depend on other new cells. With batches, a new cell takes as many neighbours from each batch as the
    reference cells of its batch do (see :func:`~scsiameseclu.pp.knn`). Cells of a batch that the reference does not
    have take their neighbours from the largest batches of the reference.

    A reference cell may be passed again as a new cell. So one landmark at the same point (and of the same batch, if the
    batch of the cell is known) is left out of the neighbours of each cell. If all reference cells are landmarks, a
    reference cell gets the same neighbours as in training.

    Parameters
    ----------
    rep
        Representation of the landmarks, float32 ``(n_landmarks, n_rep)``.
    batch
        Batch of each landmark as a code into ``batches``, int64 ``(n_landmarks,)``. Without batches, all codes are 0.
    batches
        Names of the batches. Without batches, the tuple is empty.
    quotas
        Number of neighbours that a cell of each batch (rows) takes from each batch (columns), int64
        ``(max(n_batches, 1) + 1, max(n_batches, 1))``. The last row is for cells of batches that are not listed. See
        :func:`~scsiameseclu.pp._knn.batch_quotas`.
    rows
        Row number of each landmark in the reference, int64 ``(n_landmarks,)``. The array is empty if the row numbers
        are not known.
    """

    rep: NDArray[np.float32]
    batch: NDArray[np.int64]
    batches: tuple[str, ...]
    quotas: NDArray[np.int64]
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def choose(
        cls,
        rep: NDArray[np.float32],
        batch: pd.Series | None,
        n_neighbors: int,
        random_state: int = 0,
        limit: int = LANDMARK_LIMIT,
    ) -> Landmarks:
        """Choose landmarks among the cells of a reference.

        With at most ``limit`` cells, all cells are landmarks. Otherwise, cells are grouped by k-means and by batch, and
        about the same number of cells is drawn from each group. So all cells of small groups are kept.

        Parameters
        ----------
        rep
            Representation of the cells, float32 ``(n_obs, n_rep)``.
        batch
            Batch of every cell, or ``None`` if neighbours are not balanced over batches.
        n_neighbors
            Number of neighbours per cell.
        random_state
            Seed of the sample.
        limit
            Largest number of landmarks.
        """
        rep = np.array(rep, dtype=np.float32)  # a copy, because the table in the AnnData may be changed later
        codes, names = np.zeros(len(rep), dtype=np.int64), tuple[str, ...]()
        if batch is not None:
            codes = batch_codes(batch, len(rep))
            names = tuple(str(name) for name in pd.factorize(np.asarray(batch), sort=True)[1])
        quotas = batch_quotas(np.bincount(codes, minlength=max(len(names), 1)), n_neighbors)
        if names and len(names) == len(rep):  # every batch has one cell: the graph ignores such batches, too
            codes, names = np.zeros_like(codes), ()
            quotas = batch_quotas(np.array([len(rep)]), n_neighbors)
        chosen = cls(rep, codes, names, quotas, np.arange(len(rep)))
        return chosen if len(rep) <= limit else chosen.thinned(limit, random_state)[0]

    @classmethod
    def of_points(cls, points: NDArray[np.float32], n_neighbors: int) -> Landmarks:
        """Use all points as landmarks, without batches. The array is not copied."""
        quotas = batch_quotas(np.array([len(points)]), n_neighbors)
        return cls(points, np.zeros(len(points), dtype=np.int64), (), quotas)

    def thinned(self, limit: int, random_state: int = 0) -> tuple[Landmarks, NDArray[np.int64]]:
        """Keep ``limit`` landmarks, chosen as in :meth:`choose`.

        Returns
        -------
        tuple
            The remaining landmarks, and their row numbers among the present landmarks, int64 ``(limit,)``.
        """
        kept = np.zeros(0, dtype=np.int64) if limit == 0 else even_sample(self.rep, limit, self.batch, random_state)
        codes = self.batch[kept]
        quotas = np.minimum(self.quotas, np.bincount(codes, minlength=self.quotas.shape[1]))
        rows = self.rows[kept] if len(self.rows) else self.rows
        return Landmarks(self.rep[kept], codes, self.batches, quotas, rows), kept

    def __len__(self) -> int:
        """Number of landmarks."""
        return len(self.rep)

    @cached_property
    def digest(self) -> str:
        """SHA-1 of the representation, batches and quotas."""
        state = hashlib.sha1("\0".join(self.batches).encode(), usedforsecurity=False)
        for table in (self.rep, self.batch, self.quotas):
            state.update(np.ascontiguousarray(table).tobytes())
        return state.hexdigest()

    def nearest(
        self, rep: NDArray[np.float32], batch: Sequence[Any] | pd.Series | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the nearest landmarks of every cell.

        Parameters
        ----------
        rep
            Representation of the cells, float32 ``(n_cells, n_rep)``.
        batch
            Batch of every cell, length ``n_cells``. The batch determines the quotas, and helps to recognise reference
            cells. Batches that the reference does not have are allowed.

        Returns
        -------
        tuple of numpy.ndarray
            Row numbers of the landmarks, int64 ``(n_cells, k)``, and distances to them, float64 ``(n_cells, k)``,
            ascending. The distance is infinite where a cell has fewer than ``k`` landmarks.

        Raises
        ------
        ValueError
            If the width of ``rep`` is not that of the landmarks.
        """
        if rep.ndim != 2 or rep.shape[1] != self.rep.shape[1]:
            raise ValueError(
                f"Expected a representation of {self.rep.shape[1]} columns as in the reference, found shape "
                f"{rep.shape}."
            )
        width = int(self.quotas.sum(axis=1).max(initial=0))
        indices, distances = np.zeros((len(rep), width), dtype=np.int64), np.full((len(rep), width), np.inf)
        if width == 0:
            return indices, distances
        points = centred(self.rep, self.rep)
        queries = centred(np.asarray(rep, dtype=np.float32), self.rep)
        own_batch = self._codes_of(batch, len(rep))
        meets_itself = np.ones(len(rep), dtype=bool)
        for giver in np.flatnonzero(self.quotas.any(axis=0)):
            members = np.flatnonzero(self.batch == giver)
            for rows, quota, places in askers(self.quotas, int(giver), own_batch):
                candidates = members[search_exact(points[members], queries[rows], min(quota + 1, len(members)))]
                apart = exact_distances(points, queries[rows], candidates)
                self._leave_out_itself(candidates, apart, rows, own_batch[rows], meets_itself)
                found, measured = sort_rows(candidates, apart, quota)
                places = places[:, : found.shape[1]]
                indices[rows[:, None], places], distances[rows[:, None], places] = found, measured
        return sort_rows(indices, distances, width)

    def novelty(self, rep: NDArray[np.float32], batch: Sequence[Any] | pd.Series | None = None) -> NDArray[np.float32]:
        """Compute how unlike the reference each cell is.

        The relative distance of a cell is its mean distance to its nearest landmarks, divided by the mean distance of
        these landmarks to their own nearest landmarks. So a distance counts less in a sparse part of the reference than
        in a dense part. The novelty of a cell is the share of the landmarks that have a smaller relative distance.

        Parameters
        ----------
        rep, batch
            As for :meth:`nearest`.

        Returns
        -------
        numpy.ndarray
            Novelty of each cell in [0, 1], float32 ``(n_cells,)``.
        """
        spread, ratios = self._calibration
        indices, distances = self.nearest(rep, batch)
        own = _relative_distance(indices, distances, spread)
        return (np.searchsorted(ratios, own, side="left") / max(len(ratios), 1)).astype(np.float32)

    @cached_property
    def _calibration(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean distance of every landmark to its nearest landmarks, and sorted relative distances of all landmarks."""
        names = None if not self.batches else np.array(self.batches, dtype=object)[self.batch]
        indices, distances = self.nearest(self.rep, names)
        spread = _mean_finite(distances)
        spread = np.maximum(spread, max(_MIN_SPREAD * float(spread.mean()), np.finfo(np.float64).tiny))
        return spread, np.sort(_relative_distance(indices, distances, spread))

    def _codes_of(self, batch: Sequence[Any] | pd.Series | None, n_cells: int) -> NDArray[np.int64]:
        """Codes of the batches of cells. Unknown batches have the code -1. Without batches, all codes are 0."""
        if not self.batches:
            return np.zeros(n_cells, dtype=np.int64)
        if batch is None:
            return np.full(n_cells, -1)
        return pd.Index(self.batches).get_indexer([str(name) for name in np.asarray(batch)]).astype(np.int64)

    def _leave_out_itself(
        self,
        candidates: NDArray[np.int64],
        distances: NDArray[np.float64],
        rows: NDArray[np.int64],
        own_batch: NDArray[np.int64],
        pending: NDArray[np.bool_],
    ) -> None:
        """Set the distance of one landmark at the same point as the cell to infinity.

        The landmark must be of the same batch, if the batch of the cell is known. ``pending`` is True for cells for
        which no landmark has been left out yet.
        """
        same = (distances == 0) & ((own_batch < 0)[:, None] | (self.batch[candidates] == own_batch[:, None]))
        met = np.flatnonzero(pending[rows] & same.any(axis=1))
        # Several landmarks may lie at this point. The landmark with the lowest row number is left out, so the result
        # does not depend on the order in which the search returns the landmarks.
        column = np.where(same[met], candidates[met], len(self)).argmin(axis=1)
        distances[met, column] = np.inf
        pending[rows[met]] = False

    def to_state(self) -> dict[str, Any]:
        """Plain dictionary of arrays and names, for a registry."""
        return {
            "rep": self.rep,
            "batch": self.batch,
            "batches": list(self.batches),
            "quotas": self.quotas,
            "rows": self.rows,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Landmarks:
        """Inverse of :meth:`to_state`.

        States of early versions are also read. In these states, the quotas are the same for all batches, and row
        numbers are missing.
        """
        quotas = np.asarray(state["quotas"], dtype=np.int64)
        return cls(
            np.asarray(state["rep"], dtype=np.float32),
            np.asarray(state["batch"], dtype=np.int64),
            tuple(str(name) for name in state["batches"]),
            np.tile(quotas, (len(quotas) + 1, 1)) if quotas.ndim == 1 else quotas,
            np.asarray(state.get("rows", ()), dtype=np.int64),
        )


def _mean_finite(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(distances)
    return np.where(finite, distances, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)


def _relative_distance(
    indices: NDArray[np.int64], distances: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    scale = np.where(np.isfinite(distances), spread[indices], np.inf)
    return _mean_finite(distances) / np.maximum(_mean_finite(scale), np.finfo(np.float64).tiny)


def even_sample(
    rep: NDArray[np.float32], size: int, codes: NDArray[np.int64] | None = None, random_state: int = 0
) -> NDArray[np.int64]:
    """Draw ``size`` row numbers, in ascending order, about equally many from every group of cells.

    The groups are found by k-means and divided by batch (``codes``). A small group gives all its cells.
    """
    from sklearn.cluster import MiniBatchKMeans

    codes = np.zeros(len(rep), dtype=np.int64) if codes is None else codes
    rng = np.random.default_rng(random_state)
    fitted = rep if len(rep) <= _MAX_FIT_CELLS else rep[np.sort(rng.choice(len(rep), _MAX_FIT_CELLS, replace=False))]
    n_groups = min(_MAX_GROUPS, max(size // _LANDMARKS_PER_GROUP, 1))
    kmeans = MiniBatchKMeans(n_groups, batch_size=4096, n_init=1, random_state=random_state).fit(fitted)
    strata = np.unique(kmeans.predict(rep) * (np.max(codes) + 1) + codes, return_inverse=True)[1]
    # Rank within the stratum after shuffling: taking the lowest ranks first takes evenly from all strata.
    order = rng.permutation(len(rep))
    order = order[np.argsort(strata[order], kind="stable")]
    sizes = np.bincount(strata)
    rank = np.empty(len(rep), dtype=np.int64)
    rank[order] = np.arange(len(rep)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(np.lexsort((rng.random(len(rep)), rank))[:size])
