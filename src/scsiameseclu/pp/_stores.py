"""AnnData objects in files, read a block of cells at a time: ``.h5ad`` files, zarr stores, collections of them."""

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
    """Cells of one or several AnnData, in files or in memory, as one long table of which blocks are read.

    Parameters
    ----------
    parts
        AnnData objects (in memory, backed, or of dask arrays), or groups of open files that hold one each.
    layer
        Layer with the counts; ``X`` by default.
    counts
        Count matrix of every part, not read yet where it is in a file.
    """

    parts: tuple[Any, ...]
    layer: str | None
    counts: tuple[Any, ...]

    @classmethod
    def open(cls, store: CellStore | Sequence[CellStore], files: ExitStack, layer: str | None = None) -> CellParts:
        """Open files, which stay open until ``files`` are closed.

        Parameters
        ----------
        store
            AnnData, path of an ``.h5ad`` file, of a zarr store or of a zarr group of several AnnData; or several of
            these.
        files
            Takes the open files.
        layer
            Layer with the counts; ``X`` by default.

        Raises
        ------
        FileNotFoundError
            If there is nothing at a path.
        KeyError
            If a part lacks the layer.
        NotImplementedError
            If the counts of a part are stored by columns (CSC).
        ValueError
            If there is no store, or one holds no AnnData.
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
        """Read a block of cells: one AnnData in memory for every part that it lies in.

        Parameters
        ----------
        rows
            First and last row of the block, in the long table.
        columns, reps
            What to read of ``obs`` and ``obsm``. What a part lacks is left out.
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
    """Groups of one source that hold an AnnData each, open until ``files`` are closed."""
    if not path.exists():
        raise FileNotFoundError(f"Expected an .h5ad file or a zarr store, found nothing at {str(path)!r}.")
    group = files.enter_context(h5py.File(path, "r")) if path.is_file() else _open_store(path)
    members = [group] if _holds_anndata(group) else [group[key] for key in sorted(group.keys(), key=_natural)]
    found = [member for member in members if _holds_anndata(member)]
    if not found:
        raise ValueError(f"Expected an AnnData or a collection of them, found none in {str(path)!r}.")
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
    """Sort key that puts ``dataset_10`` after ``dataset_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def stored_counts(part: Any, layer: str | None) -> Any:
    """The count matrix of a part, not read yet."""
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
    """Names of the cells of a part, not read yet where they are in a file."""
    if isinstance(part, AnnData):
        return part.obs_names
    obs = part["obs"]
    names = obs[obs.attrs["_index"]]
    if isinstance(names, h5py.Group | zarr.Group):  # strings of pandas 3: values, and a mask that no name needs
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
