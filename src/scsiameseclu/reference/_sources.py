"""Readers of the cells of a model: from an AnnData, or from a MuData of RNA and proteins."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu._keys import GRAPH_VERSION
from scsiameseclu.pp._cell_sums import CellSums
from scsiameseclu.pp._counts import as_argument, canonical, get_counts, where_counts_are
from scsiameseclu.pp._graph_input import GraphSettings, check_rep, obs_column, obsm_rep
from scsiameseclu.pp._stored_graph import source_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Proteins:
    """Measured proteins of cells.

    Parameters
    ----------
    values
        Measured values, float32 ``(n_obs, n_proteins)``. NaN means "not measured".
    names
        Names of the proteins, in the order of the columns.
    counts
        Whether the values are counts. ``None`` if no value was measured.
    """

    values: NDArray[np.float32]
    names: list[str]
    counts: bool | None


@dataclass(frozen=True, eq=False)
class Cells:
    """The data of cells that a model uses.

    Parameters
    ----------
    names, genes
        Names of cells and genes.
    counts
        Counts, ``(n_obs, n_genes)``, in memory or on disk.
    sizes
        Size factors, ``(n_obs,)``. With ``None``, the total counts are used.
    batch
        Batch of every cell. ``None`` without batches.
    rep
        Copy of the representation from ``obsm``, float32 ``(n_obs, d)``. ``None`` if the representation is computed
        from the counts.
    advice
        Function that returns a hint where whole numbers are found, and what the user has to type so that these numbers
        are read. The argument is ``True`` for a set-up, and ``False`` for cells that an existing model reads. The
        warning about counts that are not whole numbers uses this hint.
    proteins
        Proteins. ``None`` without proteins.
    """

    names: pd.Index
    genes: pd.Index
    counts: Any
    sizes: NDArray[np.float64] | None
    batch: pd.Series | None
    rep: NDArray[np.float32] | None
    advice: Callable[[bool], str]
    proteins: Proteins | None = None

    def marks(self, rows: NDArray[np.int64] | None, sums: CellSums | None = None) -> dict[str, NDArray[Any]]:
        """Compute summaries of the cells that reveal later changes of the data.

        Parameters
        ----------
        rows
            Row numbers of the cells, ascending. By default all cells.
        sums
            Sums of the counts of these rows, if the sums are known already.

        Returns
        -------
        Arrays with one row per cell, by name.
        """
        sums = CellSums.of(self.counts, rows=rows) if sums is None else sums
        where = slice(None) if rows is None else rows
        found: dict[str, NDArray[Any]] = {"counts": np.stack([sums.per_cell, sums.weighted], axis=1)}
        if self.sizes is not None:
            found["sizes"] = self.sizes[where]
        if self.batch is not None:
            found["batch"] = np.array([str(name) for name in self.batch.to_numpy()[where]], dtype=np.str_)
        if self.rep is not None:
            found["rep"] = self.rep[where]
        if self.proteins is not None:
            found["proteins"] = self.proteins.values[where]
        return found


def _advice(cells: AnnData, name: str, argument: str, layer: str | None, is_set_up: bool) -> str:
    """Hint where whole numbers are found, and what the user has to type, as described in :class:`Cells`."""

    def matrix(layer: str | None) -> str:
        return f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"

    def remedy(found: str | None) -> str:
        return as_argument(found, argument) if is_set_up else f"{matrix(layer)} = {matrix(found)}"

    return where_counts_are(cells, remedy)


class AnnDataSource:
    """Cells of an AnnData."""

    def look_up(self, data: AnnData, settings: GraphSettings) -> Cells:
        """Collect the data that the settings name. The counts are not read yet.

        Raises
        ------
        KeyError, ValueError
            If data are missing or not valid.
        """
        sizes = obs_column(data, settings.size_factor_key)
        rep = None if settings.use_rep is None else np.array(obsm_rep(data, settings.use_rep))
        return Cells(
            names=data.obs_names,
            genes=data.var_names,
            counts=get_counts(data, settings.layer),
            sizes=None if sizes is None else sizes.to_numpy(np.float64),
            batch=obs_column(data, settings.batch_key),
            rep=rep,
            advice=partial(_advice, data, "adata", "layer", settings.layer),
        )

    def digest(self, data: AnnData, cells: Cells, settings: GraphSettings, sums: CellSums) -> str:
        """Digest that identifies these cells (:func:`~scsiameseclu.pp._stored_graph.source_digest`)."""
        return source_digest(data, settings, (sums.per_cell, sums.per_gene))


@dataclass(frozen=True)
class MuDataSource:
    """Cells of a MuData of RNA and proteins.

    Parameters
    ----------
    rna, protein
        Names of the modalities with the RNA and with the proteins.
    protein_layer
        Layer of the proteins. By default ``X``.
    batch, size_factor
        Names of the modalities whose ``obs`` has the batch and the size factors. By default ``obs`` of the MuData.
    protein_weight
        Share of the proteins in the total variance of the joint space.
    """

    rna: str = "rna"
    protein: str = "protein"
    protein_layer: str | None = None
    batch: str | None = None
    size_factor: str | None = None
    protein_weight: float = 0.5

    def look_up(self, data: MuData, settings: GraphSettings) -> Cells:
        """Collect the data that the settings name. The counts are not read yet.

        Raises
        ------
        KeyError, ValueError
            If data are missing or not valid.
        """
        rna, protein = data[self.rna], data[self.protein]
        sizes, batch = None, None
        if settings.size_factor_key is not None:
            sizes = _container(data, self.size_factor).obs[settings.size_factor_key].to_numpy(np.float64)
        if settings.batch_key is not None:
            batch = pd.Series(_container(data, self.batch).obs[settings.batch_key].to_numpy(), index=data.obs_names)
        values, counts = read_proteins(protein, self.protein_layer)
        return Cells(
            names=data.obs_names,
            genes=rna.var_names,
            counts=get_counts(rna, settings.layer),
            sizes=sizes,
            batch=batch,
            rep=None if settings.use_rep is None else _mudata_rep(data, settings.use_rep),
            proteins=Proteins(values, list(protein.var_names.astype(str)), counts),
            advice=partial(_advice, rna, f"mdata[{self.rna!r}]", "rna_layer", settings.layer),
        )

    def digest(self, data: MuData, cells: Cells, settings: GraphSettings, sums: CellSums) -> str:
        """SHA-1 that identifies these cells, in hexadecimal."""
        state = hashlib.sha1(usedforsecurity=False)
        place = {name: value for name, value in asdict(self).items() if name != "protein_weight"}
        state.update(repr((GRAPH_VERSION, data.n_obs, (settings.of_neighbors(), place, self.protein_weight))).encode())
        proteins = cells.proteins
        if proteins is None:
            raise ValueError("Expected cells with proteins, found none; this is a bug.")
        for names in (data.obs_names.astype(str), cells.genes.astype(str), proteins.names):
            state.update("\0".join(names).encode())
        state.update(proteins.values.tobytes())
        for values in (sums.per_cell, sums.per_gene):
            state.update(values.tobytes())
        for array in (cells.rep, cells.sizes):
            if array is not None:
                state.update(array.tobytes())
        if cells.batch is not None:
            state.update("\0".join(map(str, cells.batch)).encode())
        return state.hexdigest()


def read_proteins(protein: AnnData, layer: str | None) -> tuple[NDArray[np.float32], bool | None]:
    """Read proteins from a modality.

    Parameters
    ----------
    protein
        Modality with the proteins. NaN means "not measured".
    layer
        Layer of the proteins. By default ``X``.

    Returns
    -------
    Values as a new dense array, float32 ``(n_obs, n_proteins)``, and whether the values are counts (whole numbers of at
    least 0). The second result is ``None`` if all values are NaN, as in a query with RNA alone.

    Raises
    ------
    ValueError
        If a value is infinite, or all measured values are 0.
    """
    raw = get_counts(protein, layer)
    values = np.array(canonical(raw).toarray() if sparse.issparse(raw) else raw, dtype=np.float32)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ValueError(
            f"Expected finite protein values, or NaN where not measured, found {values[row, column]} in cell "
            f"{protein.obs_names[row]!r}, protein {protein.var_names[column]!r}."
        )
    measured = values[~np.isnan(values)]
    if measured.size == 0:
        return values, None
    if not measured.any():
        raise ValueError("Expected protein values, found only zeros. Check which matrix or layer holds them.")
    return values, bool(measured.min() >= 0 and np.array_equal(measured, np.rint(measured)))


def _container(data: MuData, modality: str | None) -> Any:
    return data if modality is None else data[modality]


def _mudata_rep(data: MuData, use_rep: str) -> NDArray[np.float32]:
    if use_rep not in data.obsm:
        raise KeyError(f"`use_rep`: expected a key of mdata.obsm, found {use_rep!r}. Available: {list(data.obsm)}.")
    rep = np.array(data.obsm[use_rep], dtype=np.float32, order="C")
    check_rep(rep, use_rep, data.obs_names)
    return rep
