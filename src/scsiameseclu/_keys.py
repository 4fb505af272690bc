"""Every name the package writes into an AnnData or an scvi-tools registry, in one place."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

DEFAULT_KEY: Final = "siamese_clu"
"""Default ``key_added`` of everything that writes cluster labels."""

GRAPH_VERSION: Final = 4
"""Version of the neighbour-table convention; part of the fingerprint, so that old tables are never reused."""


class _AnnDataKeys(NamedTuple):
    """Slots of an AnnData written by ``write_to_adata`` and ``pp.neighbor_graph``."""

    LATENT: str = "X_siamese_clu"  # obsm, float32 (n_obs, n_latent): the embedding of results named by DEFAULT_KEY
    GRAPH_REP: str = "siamese_clu_graph_rep"  # obsm, float32 (n_obs, d): the space the neighbours were found in
    NEIGHBOR_INDEX: str = "siamese_clu_neighbor_index"  # obsm, int64 (n_obs, k)
    NEIGHBOR_WEIGHT: str = "siamese_clu_neighbor_weight"  # obsm, float32 (n_obs, k)
    DIFFUSED_INDEX: str = (
        "siamese_clu_diffused_index"  # obsm, int64 (n_obs, k): personalised-PageRank neighbours, if asked for
    )
    DIFFUSED_WEIGHT: str = "siamese_clu_diffused_weight"  # obsm, float32 (n_obs, k), if asked for
    CONNECTIVITIES: str = "siamese_clu_connectivities"  # obsp, scanpy format
    DISTANCES: str = "siamese_clu_distances"  # obsp, scanpy format
    NEIGHBORS: str = "siamese_clu_neighbors"  # uns, scanpy format, plus the fingerprint


class _RegistryKeys(NamedTuple):
    """Name of our field in the registry of scvi-tools, and keys of a mini-batch."""

    CELL_GRAPH: str = "siamese_cell_graph"
    GRAPH_REP: str = "siamese_graph_rep"
    NEIGHBOR_INDEX: str = "siamese_neighbor_index"
    NEIGHBOR_WEIGHT: str = "siamese_neighbor_weight"
    DIFFUSED_INDEX: str = "siamese_diffused_index"
    DIFFUSED_WEIGHT: str = "siamese_diffused_weight"
    PROTEIN: str = "siamese_protein"
    PROTEIN_REP: str = "siamese_protein_rep"
    # Added by the loader, not registered: the representation of each neighbour, (batch, k, d).
    NEIGHBOR_REP: str = "siamese_neighbor_rep"
    DIFFUSED_REP: str = "siamese_diffused_rep"
    CELL_INDEX: str = "siamese_cell_index"  # int64 row numbers of the batch, (batch, 1)
    # Added by the training plan: the same tensors of one neighbour of each cell, which is the second view.
    PARTNER: str = "siamese_partner"
    # Added by the training plan: targets kept since the last refresh, float32 (batch, n_clusters), rows of 0 for none.
    CLUSTER_TARGET: str = "siamese_cluster_target"


ADATA_KEYS: Final = _AnnDataKeys()
GRAPH_TABLES: Final = (
    ADATA_KEYS.GRAPH_REP,
    ADATA_KEYS.NEIGHBOR_INDEX,
    ADATA_KEYS.NEIGHBOR_WEIGHT,
    ADATA_KEYS.DIFFUSED_INDEX,
    ADATA_KEYS.DIFFUSED_WEIGHT,
)
"""Entries of ``obsm`` that keep the cell graph for models; of no use to anyone else."""

SIAMESE_KEYS: Final = _RegistryKeys()

NEIGHBOR_BLOCKS: Final = (
    (SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_REP),
    (SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_REP),
)
"""Index tables, and under which key a mini-batch has the representation of the neighbours they name.

Only a graph set up with diffusion has the second.
"""


def latent_key(key: str) -> str:
    """``obsm`` entry with the embedding that the clusters of ``key`` were made in."""
    return f"X_{key}"


def confidence_key(key: str) -> str:
    """``obs`` column with the highest cluster probability of each cell."""
    return f"{key}_confidence"


def probs_key(key: str) -> str:
    """``obsm`` entry with the cluster probabilities of each cell."""
    return f"{key}_probs"


def out_of_reference_key(key: str) -> str:
    """``obs`` column that says how unlike the reference each mapped cell is."""
    return f"{key}_out_of_reference"


UNASSIGNED: Final = "unassigned"
"""Category of cells and clusters that get no type."""

MAX_OUT_OF_REFERENCE: Final = 0.95
"""Out-of-reference score above which cells are left unassigned by default: about 5 % of the cells of known types."""
MANY_OUT_OF_REFERENCE: Final = 0.15
"""Share of cells above that score that is worth a warning."""


def type_key(key: str) -> str:
    """``obs`` column, and ``uns`` entry, with the types that the clusters of ``key`` were named after."""
    return f"{key}_type"


def markers_key(key: str) -> str:
    """``uns`` entry with the ranked genes of the clusters of ``key``."""
    return f"{key}_markers"


def predicted_key(labels_key: str) -> str:
    """``obs`` column, and ``uns`` entry, with the types predicted from partly known labels."""
    return f"{labels_key}_predicted"


def stability_key(key: str) -> str:
    """``obs`` column, and ``uns`` entry, with how often a cell stays in its cluster when the seed changes."""
    return f"{key}_stability"


def consensus_key(key: str) -> str:
    """``obs`` column with the clusters that the runs agree on."""
    return f"{key}_consensus"


def check_key(key: Any, argument: str = "key_added") -> None:
    """Refuse names of results that files cannot hold.

    Raises
    ------
    TypeError
        If ``key`` is not text.
    ValueError
        If it is empty, contains ``/``, or is kept for other purposes.
    """
    if not isinstance(key, str):
        raise TypeError(f"`{argument}`: expected text, found {key!r}.")
    if not key.strip() or "/" in key or "\0" in key or key in {".", "..", "_index", "__categories"}:
        raise ValueError(
            f"`{argument}`: expected a name that files can hold (not empty, without '/', none of '.', '..', '_index', "
            f"'__categories'), found {key!r}. Take another one, such as {DEFAULT_KEY!r}."
        )


def check_key_added(data: Any, key: Any) -> None:
    """Refuse a name under which results cannot be written, or would replace anything but earlier results.

    Parameters
    ----------
    data
        AnnData or MuData to write to.
    key
        Name of the labels.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_key`; ValueError also if something else has the name.
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
            "`key_added`: expected a name that is free, or that of earlier results of this package, found that "
            f"{' and '.join(taken)} would be replaced by results named {key!r}. Take another name, or delete what is "
            "there."
        )
