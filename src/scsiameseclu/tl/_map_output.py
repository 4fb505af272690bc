"""Write the results of many cells to a zarr store, chunk by chunk."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from scsiameseclu._keys import confidence_key, latent_key, out_of_reference_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROGRESS = "progress.jsonl"
_NAMES = "cell"


@dataclass(frozen=True)
class MapOutput:
    """Results of many cells in a zarr store. An incomplete store has another name.

    Until all chunks are written, the name of the store is ``{folder}.partial``. The incomplete store contains a file
    with one line for the job and one line for each complete chunk. If a process is killed, the next process reads this
    file and continues. The chunks of cells are also the chunks of the zarr arrays, so several processes can write at
    the same time.

    Parameters
    ----------
    folder
        Path of the complete store.
    n_obs, n_latent
        Number of cells, and number of dimensions of the embedding.
    chunk_size
        Number of cells per chunk.
    key
        Name of the results.
    categories
        All possible labels.
    """

    folder: Path
    n_obs: int
    n_latent: int
    chunk_size: int
    key: str
    categories: Sequence[str]

    @property
    def partial(self) -> Path:
        """Path of the incomplete store."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    def rows(self, chunk: int) -> slice:
        """Rows of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.n_obs))

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n_obs // self.chunk_size)

    def resume(self, job: Mapping[str, Any], *, anew_if_other: bool = False) -> list[dict[str, Any]]:
        """Create the incomplete store, or continue with the incomplete store of an earlier process.

        Parameters
        ----------
        job
            Everything that the results depend on, as values that JSON can hold.
        anew_if_other
            Whether to replace the incomplete store of another job.

        Returns
        -------
        list of dict
            Records of the complete chunks.

        Raises
        ------
        ValueError
            If there is an incomplete store of another job, and ``anew_if_other=False``.
        """
        progress = self.partial / _PROGRESS
        lines = progress.read_text(encoding="utf-8").splitlines(keepends=True) if progress.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be incomplete
        known = json.loads(json.dumps(job))
        is_other = bool(whole) and whole[0] != known
        if not whole or (is_other and anew_if_other):
            shutil.rmtree(self.partial, ignore_errors=True)
            self._create()
            self._append(job)
            return []
        if is_other:
            differing = sorted(name for name in known if known[name] != whole[0].get(name))
            raise ValueError(
                f"Expected an interrupted run with the same arguments in {str(self.partial)!r}, found a run with other "
                f"values of {', '.join(differing)}. Repeat the interrupted call, or start again with overwrite=True."
            )
        if not lines[-1].endswith("\n"):
            progress.write_text("".join(lines[:-1]), encoding="utf-8")
        return whole[1:]

    def write(self, start: int, cells: AnnData) -> None:
        """Write the results of ``cells``. The first of these cells has the row number ``start`` in the store."""
        group = zarr.open_group(self.partial, mode="r+")
        rows = slice(start, start + cells.n_obs)
        codes = pd.Index(self.categories).get_indexer(cells.obs[self.key].astype(str))
        self._array(group, f"obs/{_NAMES}")[rows] = cells.obs_names.to_numpy(dtype=object)
        self._array(group, f"obs/{self.key}/codes")[rows] = codes
        for name in (confidence_key(self.key), out_of_reference_key(self.key)):
            # A model without landmarks computes no out-of-reference score, so the column is missing.
            self._array(group, f"obs/{name}")[rows] = cells.obs[name].to_numpy() if name in cells.obs else np.nan
        self._array(group, f"obsm/{latent_key(self.key)}")[rows] = cells.obsm[latent_key(self.key)]

    def complete(self, facts: Mapping[str, Any]) -> None:
        """Record that the chunk number ``facts["chunk"]`` is complete."""
        self._append(facts)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write ``record`` to ``uns``, and rename the complete store to its final name."""
        group = zarr.open_group(self.partial, mode="r+")
        anndata.io.write_elem(group["uns"], self.key, dict(record))
        old = self.folder.with_name(f"{self.folder.name}.old")
        if self.folder.exists():  # an older store, which is replaced
            os.replace(self.folder, old)
        os.replace(self.partial, self.folder)
        (self.folder / _PROGRESS).unlink()
        shutil.rmtree(old, ignore_errors=True)

    def _create(self) -> None:
        """Create the incomplete store: let anndata write an AnnData of one chunk, and then enlarge its arrays."""
        n_rows = min(self.chunk_size, self.n_obs)
        labels = pd.Categorical.from_codes(np.zeros(n_rows, dtype=np.int16), categories=list(self.categories))
        numbers = {
            name: np.zeros(n_rows, np.float32) for name in (confidence_key(self.key), out_of_reference_key(self.key))
        }
        # The dtype is given, because anndata writes the default strings of pandas 3 as a group of two arrays.
        names = pd.Index(np.full(n_rows, "", dtype=object), dtype=object, name=_NAMES)
        group = zarr.open_group(self.partial, mode="w")
        # Shards are switched off: a shard holds several chunks in one file, and two processes must not write to the
        # same file.
        whole: dict[str, Any] = {"shards": None} if getattr(group, "metadata", None) is not None else {}
        anndata.io.write_elem(group, "/", AnnData(shape=(n_rows, 0)), dataset_kwargs=whole)
        chunks = {"chunks": (self.chunk_size,), **whole}
        anndata.io.write_elem(
            group, "obs", pd.DataFrame({self.key: labels, **numbers}, index=names), dataset_kwargs=chunks
        )
        table = np.zeros((n_rows, self.n_latent), dtype=np.float32)
        chunks = {"chunks": (self.chunk_size, self.n_latent), **whole}
        anndata.io.write_elem(group["obsm"], latent_key(self.key), table, dataset_kwargs=chunks)
        for name in (_NAMES, f"{self.key}/codes", *numbers):
            self._array(group, f"obs/{name}").resize((self.n_obs,))
        self._array(group, f"obsm/{latent_key(self.key)}").resize((self.n_obs, self.n_latent))

    @staticmethod
    def _array(group: zarr.Group, name: str) -> Any:
        return group[name]

    def _append(self, record: Mapping[str, Any]) -> None:
        with (self.partial / _PROGRESS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
