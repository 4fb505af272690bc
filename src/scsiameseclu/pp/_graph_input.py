"""What a cell graph is built from: settings, columns of ``obs``, representations in ``obsm``, graphs of scanpy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu.pp._counts import canonical
from scsiameseclu.pp._graph import NeighborGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray


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
    edges = sparse.coo_matrix(scanpy_connectivities(adata, neighbors_key))
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
    return bool(scanpy_connectivities(adata, neighbors_key).getnnz(axis=1).all())


def scanpy_connectivities(adata: AnnData, neighbors_key: str) -> sparse.csr_matrix:
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


def obsm_rep(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    """A dense, finite representation from ``obsm``, float32; may share memory with it."""
    if use_rep not in adata.obsm:
        raise KeyError(f"`use_rep`: expected a key of adata.obsm, found {use_rep!r}. Available: {list(adata.obsm)}.")
    rep = adata.obsm[use_rep]
    values = np.ascontiguousarray(canonical(rep).toarray() if sparse.issparse(rep) else rep, dtype=np.float32)
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
