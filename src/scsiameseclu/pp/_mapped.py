"""Copy the counts of many files to one memory-mapped matrix, whose rows are read nearly as fast as from memory."""

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
    """Copy counts, block by block, to memory-mapped files, and open these files.

    Training reads random rows of the data. Reading random rows from compressed files (HDF5, zarr) is slow. This
    function copies the counts once to plain CSR files, from which single rows are read quickly. The operating system
    keeps as much of the files in memory as fits.

    Parameters
    ----------
    sources
        Sources of the cells, which are copied in this order: ``.h5ad`` files, zarr stores, or zarr groups of several
        AnnData such as the collections of annbatch. The AnnData of a group are sorted by the number in their names. All
        AnnData need the same genes in the same order.
    directory
        Folder to write to. The folder must be new or empty.
    layer
        Layer with the counts. ``None``: ``X``.
    genes
        Names of the genes to keep, in the requested order. ``None``: all genes.
    overwrite
        Whether to replace data that this function wrote to ``directory`` before. The old data are kept until the new
        data are complete, so the disk needs free space for both.

    Returns
    -------
    AnnData
        The data, opened by :func:`read_mapped`.

    Raises
    ------
    FileExistsError
        If ``directory`` contains files that may not be replaced.
    FileNotFoundError
        If a source does not exist.
    KeyError
        If a source lacks the layer or one of the genes.
    NotImplementedError
        If counts are stored by columns (CSC).
    ValueError
        If there is no source, if a source holds no AnnData, or if the genes of the sources differ.

    Notes
    -----
    Peak memory is one block of 4,096 cells and the annotation (``obs``, ``var``). On disk, each stored count takes the
    size of its dtype and four bytes for its column (eight bytes if there are 2**31 or more stored counts).
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
            # Checked again, because complete results of a killed process may have been moved to the folder.
            _check_folder(folder, overwrite)
            manifest = _write_counts(counts, columns, new)
            annotation[:, slice(None) if columns is None else columns].copy().write_h5ad(new / _ANNOTATION)
            (new / _MANIFEST).write_text(json.dumps(manifest))
    return read_mapped(folder)


def read_mapped(directory: str | PathLike[str]) -> AnnData:
    """Open data written by :func:`write_mapped`.

    Parameters
    ----------
    directory
        Folder that :func:`write_mapped` wrote to.

    Returns
    -------
    AnnData
        An AnnData whose counts ``X`` (CSR) stay on disk until they are used. The counts are read-only. ``adata.copy()``
        and subsets copy the counts to memory.

    Raises
    ------
    FileNotFoundError
        If the folder has no complete data.
    ValueError
        If the data were written in another format by a later version.
    """
    folder = Path(directory)
    finish(folder)
    if not (folder / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"Expected a folder completed by write_mapped, found no {_MANIFEST} in {str(folder)!r}. Delete the folder "
            "and write the data again."
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
            f"Expected a new or empty folder to write to, found {sorted(found)[:5]} in {str(folder)!r}. Choose another "
            "folder, open complete data with read_mapped, or replace earlier data of write_mapped with overwrite=True."
        )


def _mapped(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def _annotation(parts: list[Any]) -> AnnData:
    """``obs`` and ``var`` of all parts, without counts. Categories of the parts are united."""
    frames = [(anndata.io.read_elem(part["obs"]), anndata.io.read_elem(part["var"])) for part in parts]
    genes = frames[0][1].index
    for position, (_, var) in enumerate(frames):
        if not var.index.equals(genes):
            raise ValueError(
                f"Expected the same genes in the same order in all sources, found other genes in part {position} "
                f"({len(var)} instead of {len(genes)} genes, or another order). Align the files first."
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
    """Write all blocks to the files of one CSR matrix, and return the dtypes of its three arrays."""
    dtype = np.result_type(*(matrix.dtype for matrix in counts))
    # scipy needs column numbers and row pointers of the same type, and would copy arrays of different types.
    n_values = sum(_most_values(matrix) for matrix in counts)
    integer = np.dtype(np.int32 if n_values <= np.iinfo(np.int32).max else np.int64)
    while (wider := _append_blocks(counts, columns, folder, dtype, integer)) != dtype:
        dtype = wider
    return {"format": _FORMAT, "data": dtype.str, "indices": integer.str, "indptr": integer.str}


def _append_blocks(
    counts: list[Any], columns: NDArray[np.int64] | None, folder: Path, dtype: np.dtype[Any], integer: np.dtype[Any]
) -> np.dtype[Any]:
    """Write the three files, and return the dtype of the values.

    The returned dtype is wider than ``dtype`` if an entry that is stored in parts adds up to more than ``dtype`` can
    hold. The files are then incomplete and have to be written again with the wider dtype.
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
