"""How the cell graph enters the registry of scvi-tools."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import rich.table
from scvi.data.fields import BaseAnnDataField, MuDataWrapper

from scsiameseclu._compat import MuDataTableField, TableField
from scsiameseclu._keys import ADATA_KEYS, GRAPH_VERSION, SIAMESE_KEYS
from scsiameseclu.pp._counts import check_counts, get_counts
from scsiameseclu.pp._landmark_blocks import landmark_blocks, write_landmark_blocks
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._neighbors import (
    GraphSettings,
    build_graph,
    graph_is_current,
    resolve_seed,
    source_digest,
    stored_projection,
    write_graph,
)
from scsiameseclu.pp._projection import Projection
from scsiameseclu.pp._scanpy_graph import covers_all_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

logger = logging.getLogger(__name__)

GRAPH_TABLES = (
    (SIAMESE_KEYS.GRAPH_REP, ADATA_KEYS.GRAPH_REP),
    (SIAMESE_KEYS.NEIGHBOR_INDEX, ADATA_KEYS.NEIGHBOR_INDEX),
    (SIAMESE_KEYS.NEIGHBOR_WEIGHT, ADATA_KEYS.NEIGHBOR_WEIGHT),
)
"""Tables of every graph: name in the registry and key of ``obsm``."""

DIFFUSED_TABLES = (
    (SIAMESE_KEYS.DIFFUSED_INDEX, ADATA_KEYS.DIFFUSED_INDEX),
    (SIAMESE_KEYS.DIFFUSED_WEIGHT, ADATA_KEYS.DIFFUSED_WEIGHT),
)
"""Tables of a graph set up with diffusion, in addition."""


class CellGraphField(BaseAnnDataField):
    """Builds the cell graph at set-up, and finds the neighbours of all other cells the model meets in that reference.

    The field carries no array into a mini-batch itself: it writes tables to :attr:`~anndata.AnnData.obsm`, which the
    :class:`~scvi.data.fields.ObsmField` companions from :func:`cell_graph_fields` register. It must stand before them.

    Row numbers of neighbours are valid for one set of cells in one order only, so a stored graph is used again only if
    its fingerprint matches the data. Otherwise:

    * the cells of the set-up, given without their graph, get the same graph again;
    * all others (query, subset, permutation, concatenation, changed counts) get neighbours among the
      :class:`~scsiameseclu.pp.Landmarks` of the set-up, each cell on its own, in the same space: by the projection
      fitted at set-up, or in ``obsm[use_rep]`` of the new data. The index of landmark *j* is ``n_obs + j``, so that it
      can never be taken for a cell.

    Parameters
    ----------
    registry_key
        Name in the registry.
    n_neighbors, use_rep, neighbors_key, layer, batch_key, size_factor_key, n_pcs, random_state, diffusion
        As for :func:`scsiameseclu.pp.neighbor_graph`.
    """

    def __init__(
        self,
        registry_key: str = SIAMESE_KEYS.CELL_GRAPH,
        *,
        n_neighbors: int = 15,
        use_rep: str | None = None,
        neighbors_key: str | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        n_pcs: int = 50,
        random_state: int | None = None,
        diffusion: bool = False,
    ) -> None:
        super().__init__()
        self._registry_key = registry_key
        self.settings = GraphSettings(
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

    @property
    def registry_key(self) -> str:
        """Name in the registry."""
        return self._registry_key

    @property
    def attr_name(self) -> str:
        """The graph's record is kept in ``uns``."""
        return "uns"

    @property
    def attr_key(self) -> str:
        """Key of the graph's record."""
        return ADATA_KEYS.NEIGHBORS

    @property
    def is_empty(self) -> bool:
        """Always ``False``: every model has a graph."""
        return False

    def get_data_registry(self) -> dict[str, Any]:
        """Empty, so that data loaders do not look for an array of this field."""
        return {}

    def validate_field(self, adata: AnnData) -> None:
        """Refuse counts that are negative, NaN or infinite. (The field of the counts warns about fractions.)"""
        super().validate_field(adata)
        counts = get_counts(adata, self.settings.layer)
        check_counts(counts, adata.obs_names, adata.var_names, non_integer="ignore")

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Build the graph, or keep the stored one if it is current; return the state to store with a model.

        Raises
        ------
        KeyError
            If a named slot is missing.
        ValueError
            If counts or representation are not valid.
        """
        super().register_field(adata)
        if graph_is_current(adata, self.settings):
            projection = stored_projection(adata)
        else:
            built = build_graph(adata, self.settings)
            write_graph(adata, built, self.settings)
            projection = built.projection
        return {
            "version": GRAPH_VERSION,
            **asdict(self.settings),
            "n_rep": int(adata.obsm[ADATA_KEYS.GRAPH_REP].shape[1]),
            "projection": None if projection is None else projection.to_state(),
            "gene_names": None if projection is None else list(adata.var_names[projection.gene_indices].astype(str)),
            **_reference_state(adata, self.settings),
        }

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, own_graph: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Give ``adata_target`` its neighbours in the reference, unless it has exactly those already.

        Cells get padded rows if the reference has no more than ``n_neighbors`` cells.

        Parameters
        ----------
        state_registry
            State left by the set-up.
        adata_target
            Cells to find neighbours for.
        own_graph
            The cells *are* the data of the set-up, changed in place since: give them a graph of their own, and take the
            landmarks from them.
        **kwargs
            Ignored.

        Raises
        ------
        KeyError
            If ``use_rep``, ``batch_key`` or another named slot is missing in the target.
        ValueError
            If counts are not valid, genes differ in number or order, or the representation has another width.
        """
        super().transfer_field(state_registry, adata_target, **kwargs)
        self.validate_field(adata_target)
        projection = _projection(state_registry)
        _check_target(state_registry, projection, adata_target)
        settings, landmarks = _plan(state_registry, adata_target, own_graph)
        if graph_is_current(adata_target, settings, projection, landmarks):
            return dict(state_registry)
        if self.settings.neighbors_key is not None and settings.neighbors_key is None:
            logger.warning(
                "The model was set up with the graph uns[%r], which the given data lacks or which says nothing of neighbours "
                "in the reference: neighbours are searched in the model's representation instead.",
                self.settings.neighbors_key,
            )
        if landmarks is None:
            logger.info("Building the cell graph of %d cells.", adata_target.n_obs)
            write_graph(adata_target, build_graph(adata_target, settings, projection), settings)
            return {**state_registry, **_reference_state(adata_target, settings)} if own_graph else dict(state_registry)
        logger.info("Finding the neighbours of %d cells among %d landmarks.", adata_target.n_obs, len(landmarks))
        blocks = landmark_blocks(adata_target, settings, landmarks, projection)
        write_landmark_blocks(adata_target, blocks, settings, landmarks, projection)
        return dict(state_registry)

    def is_current(
        self, adata: AnnData, state_registry: Mapping[str, Any] | None = None, own_graph: bool = False
    ) -> bool:
        """Whether the neighbours stored in ``adata`` belong to its cells and data as they are now.

        Parameters
        ----------
        adata
            Data that was registered before and may have been changed in place since.
        state_registry
            State of the model, to compare its projection, settings and landmarks as well. If ``False`` is returned,
            ``transfer_field(state_registry, adata)`` repairs the tables.
        own_graph
            As for :meth:`transfer_field`.
        """
        if state_registry is None:
            return graph_is_current(adata, self.settings)
        try:
            settings, landmarks = _plan(state_registry, adata, own_graph)
        except KeyError:  # something named at set-up is gone: whoever repairs the tables will say what
            return False
        return graph_is_current(adata, settings, _projection(state_registry), landmarks)

    def get_summary_stats(self, state_registry: Mapping[str, Any]) -> dict[str, int]:
        """Number of neighbours."""
        return {"n_neighbors": int(state_registry["n_neighbors"])}

    def view_state_registry(self, state_registry: Mapping[str, Any]) -> rich.table.Table:
        """Table of the settings."""
        table = rich.table.Table(title=f"{self.registry_key} State Registry")
        table.add_column("Setting", style="dodger_blue1", no_wrap=True)
        table.add_column("Value", style="green", no_wrap=True)
        settings = asdict(GraphSettings.from_state(state_registry))
        for name, value in {**settings, "n_rep": state_registry["n_rep"]}.items():
            table.add_row(name, str(value))
        return table


MuDataCellGraphField = MuDataWrapper(CellGraphField)
"""The same for one modality of a :class:`~mudata.MuData`."""


def graph_tables(diffusion: bool) -> tuple[tuple[str, str], ...]:
    """Tables of a graph: name in the registry and key of ``obsm`` of each."""
    return GRAPH_TABLES + DIFFUSED_TABLES if diffusion else GRAPH_TABLES


def cell_graph_fields(
    *, mod_key: str | None = None, diffusion: bool = False, **settings: Any
) -> list[BaseAnnDataField]:
    """All fields of the cell graph in the order they must be registered in.

    Parameters
    ----------
    mod_key
        Modality of a :class:`~mudata.MuData` to build the graph in. Default: fields for an AnnData.
    diffusion
        Whether the graph is diffused, and the tables of that are registered.
    **settings
        Further keywords of :class:`CellGraphField`.
    """
    tables = graph_tables(diffusion)
    if mod_key is None:
        return [CellGraphField(diffusion=diffusion, **settings), *(TableField(name, key) for name, key in tables)]
    return [
        MuDataCellGraphField(mod_key=mod_key, diffusion=diffusion, **settings),
        *(MuDataTableField(name, key, mod_key=mod_key) for name, key in tables),
    ]


def _reference_state(adata: AnnData, settings: GraphSettings) -> dict[str, Any]:
    """What later cells need of these: the landmarks, and a mark to know these cells by."""
    batch = None if settings.batch_key is None else adata.obs[settings.batch_key]
    rep = adata.obsm[ADATA_KEYS.GRAPH_REP]
    landmarks = Landmarks.choose(rep, batch, settings.n_neighbors, settings.random_state)
    return {"landmarks": landmarks.to_state(), "source": source_digest(adata, settings)}


def _plan(state: Mapping[str, Any], adata: AnnData, own_graph: bool) -> tuple[GraphSettings, Landmarks | None]:
    """Settings for the neighbours of ``adata``, and the landmarks to find them among; None for the cells of the set-up.

    A foreign graph serves where it is there and the cells are those of the set-up: it knows no neighbours in the
    reference.
    """
    settings = GraphSettings.from_state(state)
    without = replace(settings, neighbors_key=None)
    if settings.neighbors_key is not None and not covers_all_cells(adata, settings.neighbors_key):
        settings = without
    if own_graph or state["source"] == source_digest(adata, settings):
        return settings, None
    return without, Landmarks.from_state(state["landmarks"])


def _projection(state: Mapping[str, Any]) -> Projection | None:
    return None if state["projection"] is None else Projection.from_state(state["projection"])


def _check_target(state: Mapping[str, Any], projection: Projection | None, adata: AnnData) -> None:
    if projection is None:
        rep = adata.obsm.get(state["use_rep"])
        if rep is None:
            raise KeyError(
                f"`use_rep`: the model's cell graph is built on obsm[{state['use_rep']!r}], which the given data lack; found "
                f"{sorted(adata.obsm)}. Compute it with the same model as for the reference, for instance "
                f"adata.obsm[{state['use_rep']!r}] = scvi_model.get_latent_representation(adata)."
            )
        if rep.shape[1] != state["n_rep"]:
            raise ValueError(
                f"obsm[{state['use_rep']!r}]: expected {state['n_rep']} columns as at set-up, found {rep.shape[1]}. "
                "Compute it with the same model as for the reference."
            )
        return
    if adata.n_vars != projection.n_vars:
        raise ValueError(
            f"Expected the {projection.n_vars} genes the model was set up with, found {adata.n_vars}. "
            "Align the data with `prepare_query_anndata` first."
        )
    names = list(adata.var_names[projection.gene_indices].astype(str))
    if names != list(state["gene_names"]):
        if set(state["gene_names"]) <= set(adata.var_names.astype(str)):
            raise ValueError(
                "Expected the genes in the order the model was set up with, found them in another order. "
                "Align the data with `prepare_query_anndata` first."
            )
        logger.warning("Gene names differ from those at set-up; the genes are taken to be the same, in the same order.")
