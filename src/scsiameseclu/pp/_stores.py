"""Read AnnData objects one block of cells at a time from ``.h5ad`` files, zarr stores and collections of AnnData."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scsiameseclu.pp._counts import canonical, get_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


CellStore: TypeAlias = "AnnData | str | PathLike[str]"


@dataclass(frozen=True)
class CellParts:
    """Cells of one or several AnnData, in files or in memory, which are read one block of cells at a time.

    Parameters
    ----------
    parts
        AnnData objects (in memory, backed, or with dask arrays), or groups of open files that contain one AnnData each.
    layer
        Layer with the counts. ``None``: ``X``.
    counts
        Count matrix of every part. A matrix in a file has not been read yet.
    """

    parts: tuple[Any, ...]
    layer: str | None
    counts: tuple[Any, ...]

    @classmethod
    def open(cls, store: CellStore | Sequence[CellStore], files: ExitStack, layer: str | None = None) -> CellParts:
        """Open the files of cells.

        Parameters
        ----------
        store
            An AnnData, the path of an ``.h5ad`` file, of a zarr store or of a zarr group of several AnnData; or a list
            of these.
        files
            Stack that closes the opened files at its end.
        layer
            Layer with the counts. ``None``: ``X``.

        Raises
        ------
        FileNotFoundError
            If a path does not exist.
        KeyError
            If a part lacks the layer.
        NotImplementedError
            If the counts of a part are stored by columns (CSC).
        ValueError
            If there is no store, or a store contains no AnnData.
        """
        stores = [store] if isinstance(store, AnnData | str | PathLike) else list(store)
        parts: list[Any] = []
        for each in stores:
            parts += [each] if isinstance(each, AnnData) else open_parts(Path(each), files)
        if not parts:
            raise ValueError("Expected at least one store of cells, found none.")
        return cls(tuple(parts), layer, tuple(_counts(part, layer) for part in parts))

    @property
    def sizes(self) -> list[int]:
        """Number of cells of every part."""
        return [int(matrix.shape[0]) for matrix in self.counts]

    def read(self, rows: slice, columns: Sequence[str] = (), reps: Sequence[str] = ()) -> Iterator[AnnData]:
        """Read a block of cells.

        Parameters
        ----------
        rows
            Rows of the block. The rows of all parts are numbered consecutively.
        columns, reps
            Columns of ``obs`` and entries of ``obsm`` to read. If a part lacks a column or entry, its AnnData has none.

        Yields
        ------
        AnnData
            Cells in memory, one AnnData for every part that has cells in the block.
        """
        start = 0
        for part, counts, size in zip(self.parts, self.counts, self.sizes, strict=True):
            own = slice(max(rows.start - start, 0), min(rows.stop - start, size))
            if own.start < own.stop:
                yield self._read_part(part, counts, own, columns, reps)
            start += size

    def _read_part(self, part: Any, counts: Any, rows: slice, columns: Sequence[str], reps: Sequence[str]) -> AnnData:
        block = counts[rows]
        block = block.compute() if hasattr(block, "compute") else block
        obs = pd.DataFrame(
            {name: _column(part, name, rows) for name in columns if name in _slot(part, "obs")},
            index=pd.Index(np.asarray(_names(part)[rows], dtype=object)).astype(str),
        )
        tables = {name: np.asarray(_slot(part, "obsm")[name][rows]) for name in reps if name in _slot(part, "obsm")}
        cells = AnnData(obs=obs, var=pd.DataFrame(index=_genes(part)), obsm=tables)
        block = canonical(block) if sparse.issparse(block) else np.asarray(block)
        if self.layer is None:
            cells.X = block
        else:
            cells.layers[self.layer] = block
        return cells


def open_parts(path: Path, files: ExitStack) -> Iterator[Any]:
    """Yield the groups of a file or store that contain an AnnData each. ``files`` closes the opened file at its end.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If there is no AnnData.
    """
    if not path.exists():
        raise FileNotFoundError(f"Expected an .h5ad file or a zarr store, found nothing at {str(path)!r}.")
    group = files.enter_context(h5py.File(path, "r")) if path.is_file() else _open_store(path)
    members = [group] if _holds_anndata(group) else [group[key] for key in sorted(group.keys(), key=_natural)]
    found = [member for member in members if _holds_anndata(member)]
    if not found:
        raise ValueError(f"Expected an AnnData or a collection of AnnData, found none in {str(path)!r}.")
    yield from found


def _open_store(path: Path) -> zarr.Group:
    try:
        return zarr.open_group(path, mode="r")
    except zarr.errors.GroupNotFoundError as error:
        raise ValueError(
            f"Expected an .h5ad file or a zarr store, found a folder of another kind at {str(path)!r}."
        ) from error


def _holds_anndata(group: Any) -> bool:
    return isinstance(group, h5py.Group | zarr.Group) and group.attrs.get("encoding-type") == "anndata"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that orders numbers in names by value: ``dataset_10`` comes after ``dataset_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def stored_counts(part: Any, layer: str | None) -> Any:
    """Count matrix of a part in a file. The matrix is not read yet.

    Raises
    ------
    KeyError
        If the part lacks the layer.
    NotImplementedError
        If the counts are stored by columns (CSC).
    """
    place = "X" if layer is None else f"layers/{layer}"
    if place not in part:
        available = list(part["layers"]) if "layers" in part else []
        raise KeyError(f"Expected counts in {place!r}, found none in {part.name!r}. Layers: {available}.")
    element = part[place]
    if not isinstance(element, h5py.Group | zarr.Group):
        return element
    stored = anndata.io.sparse_dataset(element)
    if isinstance(stored, CSCDataset) or not isinstance(stored, CSRDataset):
        raise NotImplementedError(f"Expected counts stored by rows (CSR or dense), found CSC in {part.name!r}.")
    return stored


def _slot(part: Any, name: str) -> Any:
    """``obs`` or ``obsm`` of a part."""
    return getattr(part, name) if isinstance(part, AnnData) else part[name] if name in part else {}


def _names(part: Any) -> Any:
    """Names of the cells of a part. Names in a file are not read yet."""
    if isinstance(part, AnnData):
        return part.obs_names
    obs = part["obs"]
    names = obs[obs.attrs["_index"]]
    if isinstance(names, h5py.Group | zarr.Group):  # pandas 3 stores values and a mask; names are never masked
        names = names["values"]
    return names.asstr() if isinstance(names, h5py.Dataset) else names


def _genes(part: Any) -> pd.Index:
    return part.var_names if isinstance(part, AnnData) else anndata.io.read_elem(part["var"]).index


def _counts(part: Any, layer: str | None) -> Any:
    return get_counts(part, layer) if isinstance(part, AnnData) else stored_counts(part, layer)


def _column(part: Any, name: str, rows: slice) -> Any:
    """Some rows of a column of ``obs``."""
    if isinstance(part, AnnData):
        return part.obs[name].to_numpy()[rows]
    element = part["obs"][name]
    kind = element.attrs.get("encoding-type")
    if kind == "categorical":
        categories = anndata.io.read_elem(element["categories"])
        return pd.Categorical.from_codes(np.asarray(element["codes"][rows]), categories=categories)
    if kind == "array":
        return np.asarray(element[rows])
    return anndata.io.read_elem(element)[rows]
