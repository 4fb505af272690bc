"""Every name that the package writes into an AnnData or into the registry of scvi-tools, and shared constants."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

DEFAULT_KEY: Final = "siamese_clu"
"""Default ``key_added`` of all functions that write cluster labels."""

GRAPH_VERSION: Final = 4
"""Version of the format of neighbour tables. The version is part of the fingerprint, so old tables are not reused."""

TARGET_SUM: Final = 1e4
"""Total counts of a cell after normalisation, before the logarithm. A cell of typical depth has about this total."""


class _AnnDataKeys(NamedTuple):
    """Entries of an AnnData that ``write_to_adata`` and ``pp.neighbor_graph`` write."""

    LATENT: str = "X_siamese_clu"  # obsm, float32 (n_obs, n_latent): embedding of the results named DEFAULT_KEY
    GRAPH_REP: str = "siamese_clu_graph_rep"  # obsm, float32 (n_obs, d): representation that neighbours are found in
    NEIGHBOR_INDEX: str = "siamese_clu_neighbor_index"  # obsm, int64 (n_obs, k)
    NEIGHBOR_WEIGHT: str = "siamese_clu_neighbor_weight"  # obsm, float32 (n_obs, k)
    # Neighbours by personalised PageRank, only in a graph that was built with diffusion.
    DIFFUSED_INDEX: str = "siamese_clu_diffused_index"  # obsm, int64 (n_obs, k)
    DIFFUSED_WEIGHT: str = "siamese_clu_diffused_weight"  # obsm, float32 (n_obs, k)
    CONNECTIVITIES: str = "siamese_clu_connectivities"  # obsp, scanpy format
    DISTANCES: str = "siamese_clu_distances"  # obsp, scanpy format
    NEIGHBORS: str = "siamese_clu_neighbors"  # uns, scanpy format, plus the fingerprint


class _RegistryKeys(NamedTuple):
    """Name of the cell-graph field in the registry of scvi-tools, and keys of the tensors of a mini-batch."""

    CELL_GRAPH: str = "siamese_cell_graph"
    GRAPH_REP: str = "siamese_graph_rep"
    NEIGHBOR_INDEX: str = "siamese_neighbor_index"
    NEIGHBOR_WEIGHT: str = "siamese_neighbor_weight"
    DIFFUSED_INDEX: str = "siamese_diffused_index"
    DIFFUSED_WEIGHT: str = "siamese_diffused_weight"
    PROTEIN: str = "siamese_protein"
    PROTEIN_REP: str = "siamese_protein_rep"
    # The loader adds the representation of each neighbour, float32 (batch, k, d). These keys are not registered.
    NEIGHBOR_REP: str = "siamese_neighbor_rep"
    DIFFUSED_REP: str = "siamese_diffused_rep"
    # The loader adds the row numbers of the cells of the mini-batch, int64 (batch, 1).
    CELL_INDEX: str = "siamese_cell_index"
    # The training plan adds the tensors of one neighbour of each cell. This neighbour is the cell's second view.
    PARTNER: str = "siamese_partner"
    # The training plan adds the cluster targets of the last refresh, float32 (batch, n_clusters). A cell without a
    # target has a row of zeros.
    CLUSTER_TARGET: str = "siamese_cluster_target"


ADATA_KEYS: Final = _AnnDataKeys()
GRAPH_TABLES: Final = (
    ADATA_KEYS.GRAPH_REP,
    ADATA_KEYS.NEIGHBOR_INDEX,
    ADATA_KEYS.NEIGHBOR_WEIGHT,
    ADATA_KEYS.DIFFUSED_INDEX,
    ADATA_KEYS.DIFFUSED_WEIGHT,
)
"""Entries of ``obsm`` that store the cell graph for models. Exported files leave these entries out."""

SIAMESE_KEYS: Final = _RegistryKeys()

NEIGHBOR_BLOCKS: Final = (
    (SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_REP),
    (SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_REP),
)
"""Pairs of keys: the index table of neighbours, and the representation of these neighbours in a mini-batch.

Only a graph that is set up with diffusion has the second pair.
"""


def latent_key(key: str) -> str:
    """``obsm`` entry with the embedding of the cells that belongs to the clusters ``key``."""
    return f"X_{key}"


def confidence_key(key: str) -> str:
    """``obs`` column with the highest cluster probability of each cell."""
    return f"{key}_confidence"


def probs_key(key: str) -> str:
    """``obsm`` entry with the cluster probabilities of each cell."""
    return f"{key}_probs"


def out_of_reference_key(key: str) -> str:
    """``obs`` column with the out-of-reference score, which is high for mapped cells that are unlike the reference."""
    return f"{key}_out_of_reference"


UNASSIGNED: Final = "unassigned"
"""Category of cells and clusters that no cluster or cell type is assigned to."""

MAX_OUT_OF_REFERENCE: Final = 0.95
"""Cells with a higher out-of-reference score are left unassigned by default.

About 5 % of the cells of types that the reference contains have a higher score.
"""
MANY_OUT_OF_REFERENCE: Final = 0.15
"""A warning is given if a larger share of the cells has a score above :data:`MAX_OUT_OF_REFERENCE`."""


def type_key(key: str) -> str:
    """``obs`` column, and ``uns`` entry, with the cell types that were assigned to the clusters of ``key``."""
    return f"{key}_type"


def markers_key(key: str) -> str:
    """``uns`` entry with the ranked genes of the clusters of ``key``."""
    return f"{key}_markers"


def predicted_key(labels_key: str) -> str:
    """``obs`` column, and ``uns`` entry, with the cell types predicted from partly known labels."""
    return f"{labels_key}_predicted"


def stability_key(key: str) -> str:
    """``obs`` column, and ``uns`` entry, with how often a cell stays in its cluster when the seed changes."""
    return f"{key}_stability"


def consensus_key(key: str) -> str:
    """``obs`` column with the consensus clusters of runs with different seeds."""
    return f"{key}_consensus"


def check_key(key: Any, argument: str = "key_added") -> None:
    """Check that results can be saved to files under the name ``key``.

    Raises
    ------
    TypeError
        If ``key`` is not text.
    ValueError
        If ``key`` is empty, contains ``/``, or is a name of the cell graph or a name that the file format reserves.
    """
    if not isinstance(key, str):
        raise TypeError(f"`{argument}`: expected text, found {key!r}.")
    if key in ADATA_KEYS:
        raise ValueError(
            f"`{argument}`: expected a name that this package does not use for the cell graph, found {key!r}."
        )
    if not key.strip() or "/" in key or "\0" in key or key in {".", "..", "_index", "__categories"}:
        raise ValueError(
            f"`{argument}`: expected a name that files can hold (not empty, without '/', none of '.', '..', '_index', "
            f"'__categories'), found {key!r}. Choose another name, such as {DEFAULT_KEY!r}."
        )


def check_key_added(data: Any, key: Any) -> None:
    """Check that results can be written under the name ``key``, and would only replace earlier results of this package.

    Parameters
    ----------
    data
        AnnData or MuData to write to.
    key
        Name of the cluster labels.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_key`. ValueError also if the user's own data already have one of the names.
    """
    check_key(key)
    record = data.uns.get(key)
    params = record.get("params") if isinstance(record, Mapping) else None
    if isinstance(params, Mapping) and "n_clusters_requested" in params:  # earlier results
        return
    places = {"obs": (key, confidence_key(key)), "obsm": (latent_key(key), probs_key(key)), "uns": (key,)}
    taken = [f"{slot}[{name!r}]" for slot, names in places.items() for name in names if name in getattr(data, slot)]
    if taken:
        raise ValueError(
            "`key_added`: expected a name that is free, or the name of earlier results of this package, found that "
            f"results named {key!r} would replace {' and '.join(taken)}. Choose another name, or delete "
            f"{' and '.join(taken)}."
        )
