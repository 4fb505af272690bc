"""How the cell graph enters the registry of scvi-tools."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import rich.table
from scvi.data.fields import BaseAnnDataField

from scsiameseclu._keys import ADATA_KEYS, SIAMESE_KEYS
from scsiameseclu.pp._graph_input import GraphSettings, resolve_seed
from scsiameseclu.reference._blocks import CellBlocks, Source, meet, set_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


class CellGraphField(BaseAnnDataField):
    """Registry field that builds the cell graph at set-up, and finds the neighbours of later cells in the reference.

    The cells of the set-up are the reference. The state of the field in the registry is the state of the reference
    (:func:`~scsiameseclu.reference._blocks.set_up`). Nothing is written into the data. The tables that a model reads
    (neighbours, edge weights, representation) are kept in ``blocks``, from which
    :class:`~scsiameseclu.data._loader.NeighborDataManager` takes them.

    Parameters
    ----------
    source
        Reader of the cells.
    n_neighbors, use_rep, neighbors_key, layer, batch_key, size_factor_key, n_pcs, random_state, diffusion
        As for :func:`scsiameseclu.pp.neighbor_graph`.
    """

    def __init__(
        self,
        source: Source,
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
        self.source = source
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
        self.blocks: CellBlocks | None = None
        self.kept: tuple[dict[str, Any], CellBlocks] | None = None

    @property
    def registry_key(self) -> str:
        """Name of the field in the registry."""
        return SIAMESE_KEYS.CELL_GRAPH

    @property
    def attr_name(self) -> str:
        """Attribute of the AnnData that holds the record of a written graph."""
        return "uns"

    @property
    def attr_key(self) -> str:
        """Key of the record of a written graph."""
        return ADATA_KEYS.NEIGHBORS

    @property
    def is_empty(self) -> bool:
        """Always ``False``: every model has a graph."""
        return False

    def get_data_registry(self) -> dict[str, Any]:
        """Return an empty dictionary, because the field has no array in the data."""
        return {}

    def validate_field(self, adata: AnnData | MuData) -> None:
        """Do nothing, because the data are checked while they are read."""

    def register_field(self, adata: AnnData | MuData) -> dict[str, Any]:
        """Build the cell graph, make the cells the reference, and return the state to store with a model.

        Raises
        ------
        KeyError
            If a column or an array that the settings name is missing.
        ValueError
            If counts, proteins or representation are not valid.
        """
        return self._take(self.kept or set_up(self.source, adata, self.settings))

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData | MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """Find the neighbours of cells in the reference, and return the state of the reference.

        Parameters
        ----------
        state_registry
            State of the reference. Without ``"landmarks"``, the cells become the cells of the reference.
        adata_target
            Cells to find the neighbours of.
        **kwargs
            Ignored.

        Raises
        ------
        KeyError
            If ``use_rep``, ``batch_key`` or another column or array that the settings name is missing.
        ValueError
            If counts are not valid, genes or proteins differ, or the representation has another width.
        """
        return self._take(self.kept or meet(self.source, adata_target, state_registry))

    def _take(self, made: tuple[dict[str, Any], CellBlocks]) -> dict[str, Any]:
        state, self.blocks = made
        return state

    def get_summary_stats(self, state_registry: Mapping[str, Any]) -> dict[str, int]:
        """Number of neighbours, number of dimensions of the representation, and number of proteins (if any)."""
        stats = {
            "n_neighbors": int(state_registry["n_neighbors"]),
            f"n_{SIAMESE_KEYS.GRAPH_REP}": int(state_registry["n_rep"]),
        }
        if "joint" in state_registry:
            stats[f"n_{SIAMESE_KEYS.PROTEIN}"] = len(state_registry["joint"]["protein"]["names"])
        return stats

    def view_state_registry(self, state_registry: Mapping[str, Any]) -> rich.table.Table:
        """Table of the settings of the cell graph."""
        table = rich.table.Table(title=f"{self.registry_key} State Registry")
        table.add_column("Setting", style="dodger_blue1", no_wrap=True)
        table.add_column("Value", style="green", no_wrap=True)
        settings = asdict(GraphSettings.from_state(state_registry))
        for name, value in {**settings, "n_rep": state_registry["n_rep"]}.items():
            table.add_row(name, str(value))
        return table
