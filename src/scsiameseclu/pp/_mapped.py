"""Counts of many files as one memory-mapped matrix, whose rows are looked up as fast as in memory."""

from __future__ import annotations

import json
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
from anndata import AnnData
from anndata.abc import CSRDataset
from scipy import sparse

from scsiameseclu._atomic import content, finish, replaced_entries
from scsiameseclu.pp._counts import row_chunks
from scsiameseclu.pp._stores import open_parts, stored_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

_MANIFEST = "manifest.json"
_ANNOTATION = "annotation.h5ad"
_FILES = {_MANIFEST, _ANNOTATION, "data.bin", "indices.bin", "indptr.bin"}
_FORMAT = 1


def write_mapped(
    sources: str | PathLike[str] | Sequence[str | PathLike[str]],
    directory: str | PathLike[str],
    *,
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> AnnData:
    """Copy counts, block by block, into files that are read by memory mapping, and open them.

    Training looks up single rows all over the data, which compressed files (HDF5, zarr) and loaders that read in
    sequence are slow at. Copied once to plain CSR files, rows are found at once, and the operating system keeps in
    memory what fits.

    Parameters
    ----------
    sources
        What to copy, in this order: ``.h5ad`` files, zarr stores, or zarr groups of several AnnData, as annbatch's
        collections are (their parts in the order of the number in their name). All need the same genes in the same
        order.
    directory
        Folder to write to, new or empty.
    layer
        Layer with the counts; ``X`` by default.
    genes
        Names of the genes to keep, in the order wanted; all by default.
    overwrite
        Replace data that this function wrote to ``directory`` before. They are kept until the new ones are complete, so
        that the disk needs room for both.

    Returns
    -------
    The data as :func:`read_mapped` opens them.

    Raises
    ------
    FileExistsError
        If ``directory`` has content, other than what may be replaced.
    FileNotFoundError
        If a source does not exist.
    KeyError
        If a source lacks the layer, or genes asked for.
    NotImplementedError
        If counts are stored by columns (CSC).
    ValueError
        If there is no source, a source holds no AnnData, or their genes differ.

    Notes
    -----
    Peak memory is one block of 4,096 cells and the annotation (``obs``, ``var``). On disk a count takes its own size
    and four bytes (eight from 2**31 counts on) for its column.
    """
    paths = [sources] if isinstance(sources, str | PathLike) else list(sources)
    folder = Path(directory)
    _check_folder(folder, overwrite)
    with ExitStack() as files:
        parts = [part for path in paths for part in open_parts(Path(path), files)]
        if not parts:
            raise ValueError("Expected at least one source, found none.")
        annotation = _annotation(parts)
        columns = _columns(annotation, genes)
        counts = [stored_counts(part, layer) for part in parts]
        with replaced_entries(folder) as new:
            _check_folder(folder, overwrite)  # again: what a killed process had completed has come to its place by now
            manifest = _write_counts(counts, columns, new)
            annotation[:, slice(None) if columns is None else columns].copy().write_h5ad(new / _ANNOTATION)
            (new / _MANIFEST).write_text(json.dumps(manifest))
    return read_mapped(folder)


def read_mapped(directory: str | PathLike[str]) -> AnnData:
    """Open data written by :func:`write_mapped`.

    Parameters
    ----------
    directory
        The folder.

    Returns
    -------
    An AnnData like one in memory, except that the counts in ``X`` (CSR) stay on disk until they are used, and cannot be
    written to. ``adata.copy()`` and subsets copy into memory.

    Raises
    ------
    FileNotFoundError
        If the folder has no complete data.
    ValueError
        If it was written by a later version in another format.
    """
    folder = Path(directory)
    finish(folder)
    if not (folder / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"Expected a folder completed by write_mapped, found no {_MANIFEST} in {str(folder)!r}. Delete what is "
            "there and write it again."
        )
    manifest = json.loads((folder / _MANIFEST).read_text())
    if manifest["format"] != _FORMAT:
        raise ValueError(f"Expected format {_FORMAT}, found {manifest['format']} in {str(folder)!r}.")
    data, indices, indptr = (_mapped(folder / f"{name}.bin", manifest[name]) for name in ("data", "indices", "indptr"))
    adata = anndata.read_h5ad(folder / _ANNOTATION)
    adata.X = sparse.csr_matrix((data, indices, indptr), shape=adata.shape, copy=False)
    return adata


def _check_folder(folder: Path, overwrite: bool) -> None:
    names = content(folder)
    found = names - _FILES if overwrite else names
    if found:
        raise FileExistsError(
            f"Expected a new or empty folder to write to, found {sorted(found)[:5]} in {str(folder)!r}. Name another "
            "folder, open finished data with read_mapped, or replace them (and nothing else) with overwrite=True."
        )


def _mapped(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def _annotation(parts: list[Any]) -> AnnData:
    """Cells and genes of all parts, without counts; categories are united."""
    frames = [(anndata.io.read_elem(part["obs"]), anndata.io.read_elem(part["var"])) for part in parts]
    genes = frames[0][1].index
    for position, (_, var) in enumerate(frames):
        if not var.index.equals(genes):
            raise ValueError(
                f"Expected the same genes in the same order everywhere, found others in part {position} "
                f"({len(var)} instead of {len(genes)}, or another order). Align the files first."
            )
    if len(frames) == 1:
        return AnnData(obs=frames[0][0], var=frames[0][1])
    return anndata.concat([AnnData(obs=obs, var=var) for obs, var in frames], join="outer", merge="first")


def _columns(annotation: AnnData, genes: Sequence[str] | None) -> NDArray[np.int64] | None:
    if genes is None:
        return None
    columns = annotation.var_names.get_indexer(list(genes)) if annotation.var_names.is_unique else None
    if columns is None:
        raise ValueError("Expected unique gene names to choose genes by, found duplicates.")
    if (columns < 0).any():
        missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
        raise KeyError(f"`genes`: {len(missing)} are not in the data, such as {missing[:5]}.")
    return columns.astype(np.int64)


def _write_counts(counts: list[Any], columns: NDArray[np.int64] | None, folder: Path) -> dict[str, Any]:
    """Append all blocks to the files of one CSR matrix; returns the types of its three arrays."""
    dtype = np.result_type(*(matrix.dtype for matrix in counts))
    # scipy wants the column numbers and the row pointers in one type, and would copy what is not.
    n_values = sum(_most_values(matrix) for matrix in counts)
    integer = np.dtype(np.int32 if n_values <= np.iinfo(np.int32).max else np.int64)
    while (wider := _append_blocks(counts, columns, folder, dtype, integer)) != dtype:
        dtype = wider
    return {"format": _FORMAT, "data": dtype.str, "indices": integer.str, "indptr": integer.str}


def _append_blocks(
    counts: list[Any], columns: NDArray[np.int64] | None, folder: Path, dtype: np.dtype[Any], integer: np.dtype[Any]
) -> np.dtype[Any]:
    """Write the three files; returns the type of the values, another one if the files have to be written again.

    The parts of an entry may add up to more than a narrow integer type holds.
    """
    end = 0
    with (folder / "data.bin").open("wb") as data, (folder / "indices.bin").open("wb") as indices:
        with (folder / "indptr.bin").open("wb") as indptr:
            np.zeros(1, dtype=integer).tofile(indptr)
            for matrix in counts:
                for _, block in row_chunks(matrix):
                    kept = sparse.csr_matrix(block)
                    if columns is not None:
                        kept = kept[:, columns]
                        kept.sort_indices()
                    values = kept.data.astype(dtype, copy=False)
                    if kept.data.dtype.itemsize > dtype.itemsize and not np.array_equal(values, kept.data):
                        return np.result_type(dtype, kept.data.dtype)
                    values.tofile(data)
                    kept.indices.astype(integer, copy=False).tofile(indices)
                    (kept.indptr[1:].astype(integer) + integer.type(end)).tofile(indptr)
                    end += kept.nnz
    return dtype


def _most_values(matrix: Any) -> int:
    """Upper bound of the number of stored values."""
    return int(matrix.group["data"].shape[0]) if isinstance(matrix, CSRDataset) else int(np.prod(matrix.shape))
