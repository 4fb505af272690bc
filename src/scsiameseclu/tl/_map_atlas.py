"""Map any number of cells in files to a trained model, and write the results to a file."""

from __future__ import annotations

import gc
import hashlib
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.utils import track

from scsiameseclu import _compat
from scsiameseclu._atomic import locked
from scsiameseclu._keys import DEFAULT_KEY, MAX_OUT_OF_REFERENCE, UNASSIGNED, check_key, confidence_key
from scsiameseclu.pp._stores import CellParts, CellStore
from scsiameseclu.tl._map import check_limits, map_cells
from scsiameseclu.tl._map_output import MapOutput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scsiameseclu.model import SCSiameseClu

__all__ = ["map_atlas"]

_COLUMNS = ("batch_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")
_TASKS_PER_WORKER = 2
_ONE_AT_A_TIME = Lock()  # threads of one worker share the model, so they map one chunk at a time


def map_atlas(
    store: CellStore | Sequence[CellStore],
    model: SCSiameseClu | str | PathLike[str],
    out: str | PathLike[str],
    client: Any = None,
    *,
    key_added: str = DEFAULT_KEY,
    chunk_size: int = 16_384,
    max_out_of_reference: float | None = MAX_OUT_OF_REFERENCE,
    min_confidence: float | None = None,
    min_gene_share: float = 0.5,
    accelerator: str = "auto",
    overwrite: bool = False,
    progress_bar: bool = True,
) -> Path:
    """Map a collection of cells of any size to a trained model, chunk by chunk.

    Every chunk is read, mapped as by :func:`map`, and written. Memory does not grow with the number of cells. If the
    process is killed, the same call continues after the last complete chunk.

    Parameters
    ----------
    store
        New cells: an ``.h5ad`` file, a zarr store, a zarr group of several AnnData (such as a collection of annbatch),
        an AnnData (in memory, backed, or with dask arrays), or a list of these. Genes are matched by name.
    model
        Trained model, or the folder of a saved model.
    out
        Path of the zarr store to write. Until the store is complete, its name is ``{out}.partial``.
    client
        :class:`dask.distributed.Client` whose workers map the chunks. The workers must have access to all files,
        including ``out``, under the same paths. ``None``: this process maps the chunks.
    key_added
        Name of the results.
    chunk_size
        Number of cells per chunk.
    max_out_of_reference, min_confidence, min_gene_share, accelerator
        As for :func:`map`.
    overwrite
        Whether to replace a complete store at ``out``, or the incomplete store of an interrupted run with other
        arguments.
    progress_bar
        Whether to show a progress bar.

    Returns
    -------
    pathlib.Path
        Path of the store, which :func:`anndata.read_zarr` and :func:`anndata.experimental.read_lazy` open.

    Raises
    ------
    FileExistsError
        If ``out`` exists and ``overwrite=False``.
    FileNotFoundError
        If a store does not exist.
    KeyError
        If a store lacks a layer, column or representation that the model reads.
    NotImplementedError
        If the model was trained on a MuData, or counts are stored by columns (CSC).
    ValueError
        If ``chunk_size`` is below 1, or an interrupted run had other arguments. Also as :func:`map`.
    RuntimeError
        If another process writes to ``out``. Also as :func:`map`.

    Notes
    -----
    The store is an AnnData without ``X``. Its cells are in the order of ``store``. The AnnData contains

    - ``obs[key_added]``: clusters of the model and ``"unassigned"``, categorical;
    - ``obs[f"{key_added}_confidence"]``: probability of the most probable cluster, float32;
    - ``obs[f"{key_added}_out_of_reference"]``: out-of-reference score, float32;
    - ``obsm[f"X_{key_added}"]``: embedding, float32;
    - ``uns[key_added]``: the limits and the number of unassigned cells.

    The probabilities of the other clusters are not stored.

    Examples
    --------
    >>> scsiameseclu.tl.map_atlas("atlas.zarr", "model", "mapped.zarr")
    >>> cells = anndata.read_zarr("mapped.zarr")
    """
    check_key(key_added)
    if chunk_size < 1:
        raise ValueError(f"`chunk_size`: expected at least 1, found {chunk_size}.")
    if str(out).endswith(".h5ad"):
        raise ValueError(f"`out`: expected the name of a zarr store, such as 'mapped.zarr', found {str(out)!r}.")
    limits = {"max_out_of_reference": max_out_of_reference, "min_confidence": min_confidence}
    check_limits(**limits, min_gene_share=min_gene_share)
    reference = _loaded(model, accelerator)
    if _compat.setup_call(reference.registry)[0] != "setup_anndata":
        raise NotImplementedError(
            "Expected a model of an AnnData, found a model of a MuData. Map cells to a model of a MuData with "
            "SCSiameseClu.load_query_data(mdata, model)."
        )
    options = {**limits, "min_gene_share": min_gene_share, "accelerator": accelerator}
    folder = Path(out).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        parts = CellParts.open(store, files, reference.registry["setup_args"].get("layer"))
        names = [*reference._cluster_names(), UNASSIGNED]
        output = MapOutput(folder, sum(parts.sizes), reference.module.n_latent, chunk_size, key_added, names)
        files.enter_context(locked(folder.with_name(f".{folder.name}.lock"), 0.0))
        if folder.exists() and not overwrite:
            raise FileExistsError(
                f"Expected no file or folder at {str(folder)!r}, found one; choose another name, or pass "
                "overwrite=True to replace the store."
            )
        if output.n_obs == 0:
            raise ValueError("Expected at least one cell to map, found stores without cells.")
        job = {
            **options,
            "model": _digest(reference),
            "chunk_size": chunk_size,
            "key_added": key_added,
            "sizes": parts.sizes,
        }
        done = output.resume(job, anew_if_other=overwrite)
        remaining = sorted(set(range(output.n_chunks)) - {facts["chunk"] for facts in done})
        if client is None:
            mapping = _Mapping(reference, parts, output, options)
            found: Iterator[dict[str, Any]] = (mapping.chunk(number) for number in remaining)
        else:
            folder_of_model = _folder_of(model, folder, files)
            found = _map_on_workers(client, (store, folder_of_model, output, options), remaining)
        description = f"Mapping {output.n_obs - sum(facts['n_cells'] for facts in done):,} cells"
        for facts in track(found, description, disable=not progress_bar, total=len(remaining)):
            output.complete(facts)
            done.append(facts)
        limits = {name: value for name, value in limits.items() if value is not None}
        output.finish(
            {
                "params": {**reference._params(), **limits},
                "n_unassigned": sum(facts["n_unassigned"] for facts in done),
                "mean_confidence": sum(facts["confidence"] for facts in done) / output.n_obs,
            }
        )
    return folder


@dataclass(frozen=True)
class _Mapping:
    """Maps chunks of cells of a store, and writes the results."""

    reference: SCSiameseClu
    parts: CellParts
    output: MapOutput
    options: Mapping[str, Any]

    def chunk(self, number: int) -> dict[str, Any]:
        """Map one chunk and write its results.

        Returns
        -------
        dict
            Number of the chunk, numbers of its cells and of its unassigned cells, and sum of the confidences.
        """
        rows, key = self.output.rows(number), self.output.key
        arguments = self.reference.registry["setup_args"]
        named = [arguments.get(name) or [] for name in _COLUMNS]
        columns = [name for each in named for name in ([each] if isinstance(each, str) else each)]
        reps = [arguments["use_rep"]] if arguments.get("use_rep") else []
        start, n_unassigned, confidence = rows.start, 0, 0.0
        # Models contain reference cycles, so their cells would stay in memory until the next garbage collection.
        with _compat.no_word_on_genes(), _new_objects_collected():
            for cells in self.parts.read(rows, columns, reps):
                mapped = map_cells(cells, self.reference, key, **self.options)
                mapped.deregister_manager(mapped.adata)  # otherwise scvi-tools would keep the cells in memory
                del mapped
                self.output.write(start, cells)
                n_unassigned += cells.uns[key]["n_unassigned"]
                confidence += float(cells.obs[confidence_key(key)].to_numpy().sum(dtype=np.float64))
                start += cells.n_obs
        return {"chunk": number, "n_cells": start - rows.start, "n_unassigned": n_unassigned, "confidence": confidence}


@contextmanager
def _new_objects_collected() -> Iterator[None]:
    """Collect the garbage of a ``with`` block at its end. Older objects are not examined, which saves time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _map_on_workers(client: Any, job: tuple[Any, ...], chunks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Let the workers of a dask client map chunks, a few at a time. Yield the result of each chunk when complete."""
    from distributed import as_completed

    waiting = iter(chunks)
    n_tasks = _TASKS_PER_WORKER * max(len(client.scheduler_info()["workers"]), 1)
    running = as_completed([client.submit(_map_chunk, *job, number, pure=False) for number in islice(waiting, n_tasks)])
    for future in running:
        yield future.result()
        for number in islice(waiting, 1):
            running.add(client.submit(_map_chunk, *job, number, pure=False))


def _map_chunk(
    store: CellStore | Sequence[CellStore], model: str, output: MapOutput, options: dict[str, Any], number: int
) -> dict[str, Any]:
    """Map one chunk on a worker."""
    with _ONE_AT_A_TIME, ExitStack() as files:
        reference = _kept(model, options["accelerator"])
        parts = CellParts.open(store, files, reference.registry["setup_args"].get("layer"))
        return _Mapping(reference, parts, output, options).chunk(number)


def _loaded(model: SCSiameseClu | str | PathLike[str], accelerator: str) -> SCSiameseClu:
    from scsiameseclu.model import SCSiameseClu  # imported here, so that importing `tl` does not load the model

    return model if isinstance(model, SCSiameseClu) else SCSiameseClu.load(model, adata=False, accelerator=accelerator)


@lru_cache(maxsize=1)
def _kept(folder: str, accelerator: str) -> SCSiameseClu:
    """Load the model in a folder, once per worker."""
    return _loaded(folder, accelerator)


def _folder_of(model: SCSiameseClu | str | PathLike[str], out: Path, files: ExitStack) -> str:
    """Folder from which workers load the model. A model in memory is saved to a temporary folder beside the results."""
    if isinstance(model, str | PathLike):
        return str(Path(model).absolute())
    folder = out.with_name(f".{out.name}.model")
    model.save(folder, overwrite=True)
    files.callback(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def _digest(model: SCSiameseClu) -> str:
    """SHA-1 of the weights and names of the clusters."""
    state = hashlib.sha1("\0".join(model._cluster_names()).encode(), usedforsecurity=False)
    for name, values in sorted(model.module.state_dict().items()):
        state.update(name.encode())
        state.update(values.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
