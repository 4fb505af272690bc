"""Proteins and the joint cell graph of a MuData in the registry of scvi-tools."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField

from scsiameseclu._compat import MuDataTableField
from scsiameseclu._keys import ADATA_KEYS, GRAPH_VERSION, SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField, graph_tables
from scsiameseclu.data._proteins import blank_unmeasured, read_proteins
from scsiameseclu.pp._counts import check_counts, get_counts, name_order, totals
from scsiameseclu.pp._joint import JointProjection, ProteinScaling
from scsiameseclu.pp._landmark_blocks import landmark_blocks, write_landmark_blocks
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._neighbors import GraphSettings, build_graph, check_rep, has_wanted_diffusion, write_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_PROTEIN_TABLES = (
    (SIAMESE_KEYS.PROTEIN, ADATA_KEYS.PROTEIN),
    (SIAMESE_KEYS.PROTEIN_REP, ADATA_KEYS.PROTEIN_REP),
)


@dataclass(frozen=True)
class JointSource:
    """Where things are in a MuData: modalities (None: the MuData itself) and the layer of the proteins."""

    rna: str | None = "rna"
    protein: str | None = "protein"
    protein_layer: str | None = None
    batch: str | None = None
    size_factor: str | None = None


@dataclass(frozen=True, eq=False)
class JointData:
    """What the graph of a MuData is built from, read once."""

    counts: Any
    genes: list[str]
    values: NDArray[np.float32]  # (n_obs, n_proteins), NaN where not measured
    proteins: list[str]
    protein_counts: bool | None  # None: no value was measured
    sizes: NDArray[np.float64] | None
    batch: pd.Series | None


class JointGraphField(CellGraphField):
    """Standardises the proteins and builds the joint cell graph at set-up, and again for every other MuData.

    The counterpart of :class:`~scsiameseclu.data._fields.CellGraphField` for a :class:`~mudata.MuData`, with its tables
    in the MuData's own ``obsm``, ``obsp`` and ``uns``. The graph's space is that of
    :class:`~scsiameseclu.pp._joint.JointProjection`, or ``obsm[use_rep]`` of the MuData.

    Parameters
    ----------
    registry_key
        Name in the registry.
    source
        Modalities, and the layer of the proteins.
    protein_weight
        Share of the proteins in the total variance of the joint space.
    **settings
        Keywords of :class:`~scsiameseclu.data._fields.CellGraphField`; ``layer`` is that of the counts.
    """

    def __init__(
        self,
        registry_key: str = SIAMESE_KEYS.CELL_GRAPH,
        *,
        source: JointSource,
        protein_weight: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(registry_key, **settings)
        self.source = source
        self.protein_weight = protein_weight

    def validate_field(self, mdata: MuData) -> None:
        """Refuse counts that are negative, NaN or infinite."""
        rna = mdata[self.source.rna]
        check_counts(get_counts(rna, self.settings.layer), rna.obs_names, rna.var_names, non_integer="ignore")

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Scale the proteins, build the graph (or keep the stored one if it is current); return the state."""
        self.validate_field(mdata)
        data = self._read(mdata)
        projection = _stored(mdata)
        if projection is None or not self._is_built(mdata, data, projection):
            if data.protein_counts is None:
                raise ValueError(
                    "Expected protein values to set up on, found only NaN. Use setup_anndata for RNA alone."
                )
            scaling = ProteinScaling.fit(data.values, data.proteins, data.protein_counts)
            projection = JointProjection(None, scaling)
            if self.settings.use_rep is None:
                projection = JointProjection.fit(
                    data.counts,
                    data.values,
                    scaling,
                    protein_weight=self.protein_weight,
                    size_factors=data.sizes,
                    batch=data.batch,
                    n_pcs=self.settings.n_pcs,
                    random_state=self.settings.random_state,
                    gene_order=name_order(data.genes),
                )
            self._write(mdata, data, projection)
        return {
            "version": GRAPH_VERSION,
            **asdict(self.settings),
            "n_rep": int(mdata.obsm[ADATA_KEYS.GRAPH_REP].shape[1]),
            "projection": None,
            "gene_names": data.genes,
            "protein_weight": self.protein_weight,
            "joint": projection.to_state(),
            **self._reference_state(mdata, data),
        }

    def transfer_field(  # type: ignore[override]
        self, state_registry: dict[str, Any], mdata_target: MuData, own_graph: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Give ``mdata_target`` its neighbours in the reference, unless it has exactly those already.

        ``own_graph`` as for :meth:`~scsiameseclu.data._fields.CellGraphField.transfer_field`.

        Raises
        ------
        KeyError
            If ``use_rep`` or another named slot is missing in the target.
        ValueError
            If genes or proteins differ, the values are not valid, or normalised where they were counts (or the
            reverse).
        """
        self.validate_field(mdata_target)
        self._take_over(state_registry)
        data = self._read(mdata_target)
        projection = JointProjection.from_state(state_registry["joint"])
        _check_target(state_registry, projection.protein, data)
        landmarks = self._landmarks(state_registry, mdata_target, data, own_graph)
        if self._is_built(mdata_target, data, projection, landmarks):
            return dict(state_registry)
        if landmarks is None:
            logger.info("Building the joint cell graph of %d cells.", mdata_target.n_obs)
        else:
            logger.info("Finding the neighbours of %d cells among %d landmarks.", mdata_target.n_obs, len(landmarks))
        self._write(mdata_target, data, projection, int(state_registry["n_rep"]), landmarks)
        own_state = self._reference_state(mdata_target, data) if own_graph else {}
        return {**state_registry, **own_state}

    def is_current(
        self, mdata: MuData, state_registry: Mapping[str, Any] | None = None, own_graph: bool = False
    ) -> bool:
        """Whether the tables in ``mdata`` belong to its cells and data as they are now."""
        projection, landmarks, data = _stored(mdata), None, self._read(mdata)
        if state_registry is not None:
            self._take_over(state_registry)
            projection = JointProjection.from_state(state_registry["joint"])
            landmarks = self._landmarks(state_registry, mdata, data, own_graph)
        return projection is not None and self._is_built(mdata, data, projection, landmarks)

    def _reference_state(self, mdata: MuData, data: JointData) -> dict[str, Any]:
        """What later cells need of these: the landmarks, and a mark to know these cells by."""
        rep = mdata.obsm[ADATA_KEYS.GRAPH_REP]
        landmarks = Landmarks.choose(rep, data.batch, self.settings.n_neighbors, self.settings.random_state)
        return {"landmarks": landmarks.to_state(), "source": self._source_digest(mdata, data)}

    def _landmarks(self, state: Mapping[str, Any], mdata: MuData, data: JointData, own_graph: bool) -> Landmarks | None:
        """Landmarks to find the neighbours of cells among; None for the cells of the set-up."""
        if own_graph or state["source"] == self._source_digest(mdata, data):
            return None
        return Landmarks.from_state(state["landmarks"])

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """Settings of the state in place of those of this object (the seed may differ by now)."""
        self.settings = GraphSettings.from_state(state)

    def _read(self, mdata: MuData) -> JointData:
        rna, protein = mdata[self.source.rna], mdata[self.source.protein]
        sizes = None
        if self.settings.size_factor_key is not None:
            sizes = _container(mdata, self.source.size_factor).obs[self.settings.size_factor_key].to_numpy(np.float64)
        batch = None
        if self.settings.batch_key is not None:
            column = _container(mdata, self.source.batch).obs[self.settings.batch_key]
            batch = pd.Series(column.to_numpy(), index=mdata.obs_names)
        values, counts = read_proteins(protein, self.source.protein_layer)
        blank_unmeasured(values, batch)
        return JointData(
            get_counts(rna, self.settings.layer),
            list(rna.var_names.astype(str)),
            values,
            list(protein.var_names.astype(str)),
            counts,
            sizes,
            batch,
        )

    def _write(
        self,
        mdata: MuData,
        data: JointData,
        projection: JointProjection,
        n_rep: int | None = None,
        landmarks: Landmarks | None = None,
    ) -> None:
        settings = self.settings
        if settings.use_rep is None:
            rep = projection.transform(data.counts, data.values, data.sizes)
        else:
            rep = _rep(mdata, settings.use_rep, n_rep)
        # The builders of one modality do the rest on an AnnData that has nothing but the representation.
        obs = pd.DataFrame(index=mdata.obs_names)
        if data.batch is not None:
            obs["batch"] = data.batch
        cells = AnnData(obs=obs, obsm={ADATA_KEYS.GRAPH_REP: rep})
        of_cells = replace(
            settings,
            use_rep=ADATA_KEYS.GRAPH_REP,
            layer=None,
            size_factor_key=None,
            batch_key=None if data.batch is None else "batch",
        )
        if landmarks is None:
            write_graph(cells, build_graph(cells, of_cells), of_cells)
            for key in (ADATA_KEYS.CONNECTIVITIES, ADATA_KEYS.DISTANCES):
                mdata.obsp[key] = cells.obsp[key]
        else:
            write_landmark_blocks(cells, landmark_blocks(cells, of_cells, landmarks), of_cells, landmarks, None)
        for _, key in graph_tables(diffusion=True):
            mdata.obsm.pop(key, None)
            if key in cells.obsm:
                table = cells.obsm[key]
                # MuData that do not pull columns from their modalities can neither copy nor read tables of integers
                # (mudata 0.3).
                mdata.obsm[key] = table.astype(np.float64) if table.dtype.kind == "i" else table
        mdata.obsm[ADATA_KEYS.PROTEIN] = data.values
        mdata.obsm[ADATA_KEYS.PROTEIN_REP] = projection.protein.transform(data.values)
        record = cells.uns[ADATA_KEYS.NEIGHBORS]
        record["settings"] = {name: value for name, value in asdict(settings).items() if value is not None}
        record["settings"]["protein_weight"] = self.protein_weight
        record["joint"] = projection.to_state()
        record["fingerprint"] = self._fingerprint(mdata, data, projection, landmarks)
        mdata.uns[ADATA_KEYS.NEIGHBORS] = record

    def _is_built(
        self, mdata: MuData, data: JointData, projection: JointProjection, landmarks: Landmarks | None = None
    ) -> bool:
        """Whether the tables stored in ``mdata`` are those of ``data``, ``projection`` and ``landmarks``."""
        if any(key not in mdata.obsm for _, key in (*graph_tables(diffusion=False), *_PROTEIN_TABLES)):
            return False
        if not has_wanted_diffusion(mdata, self.settings):
            return False
        if mdata.obsm[ADATA_KEYS.NEIGHBOR_INDEX].shape[1] != self.settings.n_neighbors:
            return False
        expected = self._fingerprint(mdata, data, projection, landmarks)
        return bool(mdata.uns.get(ADATA_KEYS.NEIGHBORS, {}).get("fingerprint") == expected)

    def _fingerprint(
        self, mdata: MuData, data: JointData, projection: JointProjection, landmarks: Landmarks | None
    ) -> str:
        """SHA-1 of everything the stored tables depend on, and of some of them."""
        state = hashlib.sha1(self._source_digest(mdata, data).encode(), usedforsecurity=False)
        for key, dtype in ((ADATA_KEYS.GRAPH_REP, np.float32), (ADATA_KEYS.NEIGHBOR_INDEX, np.int64)):
            state.update(np.ascontiguousarray(mdata.obsm[key], dtype=dtype).tobytes())
        state.update(projection.digest.encode())
        state.update(b"" if landmarks is None else landmarks.digest.encode())
        return state.hexdigest()

    def _source_digest(self, mdata: MuData, data: JointData) -> str:
        """SHA-1 of what the tables are built from: tells the cells of a reference from any others."""
        state = hashlib.sha1(usedforsecurity=False)
        settings = (self.settings.of_neighbors(), asdict(self.source), self.protein_weight)
        state.update(repr((GRAPH_VERSION, mdata.n_obs, settings)).encode())
        for names in (mdata.obs_names.astype(str), data.genes, data.proteins):
            state.update("\0".join(names).encode())
        state.update(data.values.tobytes())
        for sums in totals(data.counts):
            state.update(sums.tobytes())
        if self.settings.use_rep is not None:
            state.update(_rep(mdata, self.settings.use_rep).tobytes())
        if data.sizes is not None:
            state.update(data.sizes.tobytes())
        if data.batch is not None:
            state.update("\0".join(map(str, data.batch)).encode())
        return state.hexdigest()


def joint_graph_fields(*, diffusion: bool = False, **settings: Any) -> list[BaseAnnDataField]:
    """All fields of the proteins and the joint graph, in the order they must be registered in.

    Parameters
    ----------
    diffusion
        Whether the graph is diffused, and the tables of that are registered.
    **settings
        Further keywords of :class:`JointGraphField`.
    """
    tables = (*graph_tables(diffusion), *_PROTEIN_TABLES)
    return [
        JointGraphField(diffusion=diffusion, **settings),
        *(MuDataTableField(name, key, mod_key=None) for name, key in tables),
    ]


def _check_target(state: Mapping[str, Any], scaling: ProteinScaling, data: JointData) -> None:
    for what, known, found in (
        ("genes", list(state["gene_names"]), data.genes),
        ("proteins", list(scaling.names), data.proteins),
    ):
        if known != found:
            raise ValueError(
                f"Expected the {len(known)} {what} the model was set up with, in their order, found {len(found)} {what} that "
                "differ. Align the data with `prepare_query_mudata` first."
            )
    if data.protein_counts is not None and scaling.counts != data.protein_counts:
        kinds = {True: "counts", False: "normalised values"}
        raise ValueError(
            f"Expected proteins as {kinds[scaling.counts]}, as at set-up, found {kinds[data.protein_counts]}."
        )


def _stored(mdata: MuData) -> JointProjection | None:
    state = mdata.uns.get(ADATA_KEYS.NEIGHBORS, {}).get("joint")
    return None if state is None else JointProjection.from_state(state)


def _container(mdata: MuData, modality: str | None) -> Any:
    return mdata if modality is None else mdata[modality]


def _rep(mdata: MuData, use_rep: str, n_rep: int | None = None) -> NDArray[np.float32]:
    if use_rep not in mdata.obsm:
        raise KeyError(
            f"`use_rep`: expected a key of mdata.obsm, found {use_rep!r}. Available: {list(mdata.obsm)}. Compute it with the "
            "same model as for the reference."
        )
    rep = np.ascontiguousarray(mdata.obsm[use_rep], dtype=np.float32)
    if n_rep is not None and rep.shape[1] != n_rep:
        raise ValueError(f"obsm[{use_rep!r}]: expected {n_rep} columns as at set-up, found {rep.shape[1]}.")
    check_rep(rep, use_rep, mdata.obs_names)
    return rep
