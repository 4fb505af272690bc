"""Neighbours of cells among the landmarks of a reference, as tables of an AnnData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scsiameseclu._keys import ADATA_KEYS
from scsiameseclu.pp._knn import batch_codes, fuzzy_weights
from scsiameseclu.pp._neighbors import (
    GraphSettings,
    fingerprint,
    graph_record,
    obs_column,
    representation,
    write_tables,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scsiameseclu.pp._landmarks import Landmarks
    from scsiameseclu.pp._projection import Projection


@dataclass(frozen=True)
class LandmarkBlocks:
    """Neighbours of cells among the landmarks of a reference.

    ``indices``, int64 ``(n_obs, k)``: ``n_obs`` plus the row of the landmark; the own row number on padding.
    ``weights``, float32 ``(n_obs, k)``: as of a graph.
    """

    rep: NDArray[np.float32]
    indices: NDArray[np.int64]
    weights: NDArray[np.float32]


def landmark_blocks(
    adata: AnnData, settings: GraphSettings, landmarks: Landmarks, projection: Projection | None = None
) -> LandmarkBlocks:
    """Compute the representation of cells that are not the reference, and their neighbours among its landmarks."""
    rep, _ = representation(adata, settings, projection)
    batch = obs_column(adata, settings.batch_key)
    if batch is not None:
        batch_codes(batch, adata.n_obs)  # refuses missing labels
    nearest, distances = landmarks.nearest(rep, batch)
    is_edge = np.isfinite(distances)
    k, found = settings.n_neighbors, min(settings.n_neighbors, nearest.shape[1])
    indices = np.tile(np.arange(adata.n_obs, dtype=np.int64)[:, None], (1, k))
    weights = np.zeros((adata.n_obs, k), dtype=np.float32)
    indices[:, :found] = np.where(is_edge, nearest + adata.n_obs, indices[:, :found])
    if found:
        own_batch = landmarks.batch[nearest] if landmarks.batches else None
        weights[:, :found] = fuzzy_weights(np.where(is_edge, distances, 0.0).astype(np.float32), is_edge, own_batch)
    return LandmarkBlocks(rep, indices, weights)


def write_landmark_blocks(
    adata: AnnData,
    blocks: LandmarkBlocks,
    settings: GraphSettings,
    landmarks: Landmarks,
    projection: Projection | None,
) -> None:
    """Store neighbours among landmarks in ``adata``.

    There is no graph between these cells. ``obsp`` stays as it is, and the tables of the diffused graph, if asked
    for, are those of the neighbours.
    """
    write_tables(adata, blocks.rep, blocks, blocks if settings.diffusion else None)
    record = graph_record(settings, fingerprint(adata, settings, projection, landmarks))
    for slot, key in (("connectivities_key", ADATA_KEYS.CONNECTIVITIES), ("distances_key", ADATA_KEYS.DISTANCES)):
        if key in adata.obsp:
            record[slot] = key
    adata.uns[ADATA_KEYS.NEIGHBORS] = record
