"""Mini-batches that carry the neighbour block of their cells."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnTorchDataset
from scvi.utils import attrdict
from torch.utils.data import Dataset

from scsiameseclu import _compat
from scsiameseclu._keys import ADATA_KEYS, NEIGHBOR_BLOCKS, SIAMESE_KEYS
from scsiameseclu.data._device import DeviceData
from scsiameseclu.data._fields import CellGraphField
from scsiameseclu.data._rows import RowReader, row_numbers, row_reader
from scsiameseclu.pp._stored_graph import write_graph, write_scanpy_graph
from scsiameseclu.reference import CellBlocks

_INDEX_KEYS = tuple(index_key for index_key, _ in NEIGHBOR_BLOCKS)
_KNN_BLOCK = {SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_WEIGHT}
_DIFFUSED_BLOCK = {SIAMESE_KEYS.DIFFUSED_INDEX, SIAMESE_KEYS.DIFFUSED_WEIGHT}


def view_keys(manager: AnnDataManager, view: Literal["first", "second"]) -> list[str]:
    """Registered keys that one view of a cell is made of: all but the labels and the neighbour block it does not read.

    Parameters
    ----------
    manager
        Manager of the data.
    view
        ``"first"``: with the kNN block, as for embedding a cell. ``"second"``: as for a partner, with the diffused
        block if the graph was set up with diffusion, otherwise with the kNN block.
    """
    is_diffused = SIAMESE_KEYS.DIFFUSED_INDEX in manager.data_registry
    unused = _KNN_BLOCK if view == "second" and is_diffused else _DIFFUSED_BLOCK
    return [key for key in manager.data_registry if key not in {REGISTRY_KEYS.LABELS_KEY, *unused}]


class NeighborDataset(AnnTorchDataset):
    """Rows of an AnnData plus, for every row, the representation of its graph neighbours.

    Besides the registered tensors a mini-batch of ``B`` cells has

    * ``SIAMESE_KEYS.NEIGHBOR_REP``, and ``DIFFUSED_REP`` if the graph was set up with diffusion: float32 ``(B, k, d)``,
      looked up with the index tables (an index of ``n_obs`` or more means a landmark of the reference), and
    * ``SIAMESE_KEYS.CELL_INDEX``: int64 ``(B, 1)``, the row numbers of the cells.

    The look-up is one fancy index into an in-memory table, so the block costs about as much as reading the rows.

    Parameters
    ----------
    adata_manager
        Manager of the AnnData, with the cell graph registered.
    getitem_tensors
        Keys to load, or a mapping from key to dtype; everything by default. Index tables are always int64: float32,
        the default of scvi-tools for keys it does not know, is exact only up to 2**24 rows.
    load_sparse_tensor
        As in :class:`scvi.data.AnnTorchDataset`.

    Notes
    -----
    While the manager holds its data on a device (:meth:`NeighborDataManager.on_device`), all of this are tensors there.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        getitem_tensors: list[str] | dict[str, type] | None = None,
        load_sparse_tensor: bool = False,
    ) -> None:
        super().__init__(adata_manager, getitem_tensors, load_sparse_tensor)
        self.keys_and_dtypes = {
            key: np.int64 if key in _INDEX_KEYS else dtype
            for key, dtype in self.keys_and_dtypes.items()  # type: ignore[has-type]
        }

    def __getitem__(self, indexes: int | list[int] | slice | torch.Tensor | NDArray[Any]) -> dict[str, Any]:
        """Load the rows ``indexes`` and their neighbour blocks.

        Arrays in memory and HDF5 files are read here, one vectorised look-up each; everything else (dask, or sparse
        tensors) by scvi-tools.
        """
        held: DeviceData | None = self.adata_manager.device_data
        if isinstance(indexes, torch.Tensor):
            # Row numbers that are on the device need not pass by the host.
            return self[indexes.tolist()] if held is None else held.batch(indexes, self.keys_and_dtypes)
        rows = row_numbers(indexes, len(self))
        if held is not None:
            return held.batch(rows, self.keys_and_dtypes)
        readers = self._readers
        batch = super().__getitem__(indexes) if readers is None else {key: read(rows) for key, read in readers.items()}
        batch[SIAMESE_KEYS.CELL_INDEX] = rows[:, None]
        for index_key, rep_key in NEIGHBOR_BLOCKS:
            if index_key in batch:
                batch[rep_key] = self._neighbor_rep(batch[index_key])
        return batch

    def _neighbor_rep(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Representation of neighbours: of cells below ``n_obs``, of landmarks of the reference from there on."""
        is_cell = index < len(self)
        if is_cell.all():
            return self._representation[index]
        block = np.empty((*index.shape, self._representation.shape[1]), dtype=np.float32)
        block[is_cell] = self._representation[index[is_cell]]
        block[~is_cell] = self._landmark_rep[index[~is_cell] - len(self)]
        return block

    @property
    def _landmark_rep(self) -> NDArray[np.float32]:
        """Representation of the landmarks, ``(n_landmarks, d)``."""
        return self.adata_manager.blocks.landmark_rep

    @property
    def _readers(self) -> dict[str, RowReader] | None:
        """A reader for each key; None if scvi-tools has to read."""
        if not hasattr(self, "_row_readers"):
            readers = {key: row_reader(self.data[key], dtype) for key, dtype in self.keys_and_dtypes.items()}
            known = {key: reader for key, reader in readers.items() if reader is not None}
            usable = len(known) == len(readers) and not self.load_sparse_tensor
            if not usable and self.adata_manager.adata.isbacked:
                # scvi-tools would sort the rows it is asked for, and so give cells the data of others.
                raise NotImplementedError(
                    "Expected backed counts as CSR or dense, read as dense tensors; found "
                    f"{sorted(set(readers) - set(known)) or 'load_sparse_tensor=True'}. Write the counts as CSR, or "
                    "call adata.to_memory()."
                )
            self._row_readers = known if usable else None
        return self._row_readers

    @property
    def _representation(self) -> NDArray[np.float32]:
        """Representation of all cells, ``(n_obs, d)``."""
        return self.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)


class NeighborDataManager(AnnDataManager):
    """An :class:`scvi.data.AnnDataManager` whose data sets are :class:`NeighborDataset`.

    Everything in scvi-tools that reads data (training, inference, transfer to other AnnData objects) asks the manager
    for a data set, so this one override brings the neighbour block everywhere.

    What a model reads of the cells besides their counts is kept here, in ``blocks``, and nowhere in the data: models on
    one AnnData do not see each other's. ``is_transferred`` says whether the set-up is that of other data (loading,
    query).
    """

    adata: Any
    blocks: CellBlocks
    is_transferred: bool = False
    device_data: DeviceData | None = None

    def register_fields(
        self, adata: Any, source_registry: dict[str, Any] | None = None, **transfer_kwargs: Any
    ) -> None:
        """Register the data; arguments as in :meth:`scvi.data.AnnDataManager.register_fields`."""
        super().register_fields(adata, source_registry, **transfer_kwargs)
        if not hasattr(self, "blocks"):  # otherwise the same data are registered again
            self.is_transferred = source_registry is not None
        self._transferred_with = transfer_kwargs
        if self._graph.blocks is None:
            raise RuntimeError("Expected the blocks of registered cells, found none; this is a bug.")
        self.blocks, self._graph.blocks = self._graph.blocks, None

    @property
    def _graph(self) -> CellGraphField:
        return next(field for field in self.fields if isinstance(field, CellGraphField))

    @property
    def reference_state(self) -> dict[str, Any]:
        """State of the reference in the registry."""
        return _compat.field_state(self.registry, SIAMESE_KEYS.CELL_GRAPH)

    def validate(self) -> None:
        """Register the columns of the data again if another model did so since; the blocks are kept."""
        self._graph.kept = self.reference_state, self.blocks
        try:
            super().validate()
        finally:
            self._graph.kept = None

    def is_current(self, rows: NDArray[np.int64] | None = None) -> bool:
        """Whether cells are as they were when they were registered; all, or only these rows, are looked at."""
        rows = None if rows is None else np.unique(rows)
        return self.is_same(self.adata, rows)

    def is_same(self, adata: Any, rows: NDArray[np.int64] | None = None) -> bool:
        """Whether other data hold the same cells; all, or only these rows in ascending order, are looked at."""
        return self.blocks.match(self._graph.source, adata, self.reference_state, rows)

    def renew(self, *, as_reference: bool) -> None:
        """Register data that have changed in place.

        Parameters
        ----------
        as_reference
            Make the cells, as they are now, the reference; otherwise they find their neighbours in the reference as it
            was.
        """
        registry = deepcopy(self.registry)
        if as_reference:
            state = _compat.field_state(registry, SIAMESE_KEYS.CELL_GRAPH)
            del state["landmarks"], state["source"]
        adata, self.adata = self.adata, None
        self.register_fields(adata, registry, **self._transferred_with)

    def write_graph(self) -> None:
        """Write the graph of the cells of a reference into the data, unless it is there already."""
        if self.blocks.built is None:
            return
        settings, graph = self.blocks.built
        if isinstance(self.adata, AnnData):
            write_graph(self.adata, graph, settings, self.blocks.digest)
        else:
            self.adata.obsm[ADATA_KEYS.GRAPH_REP] = graph.rep
            write_scanpy_graph(self.adata, graph.graph, settings)

    @property
    def data_registry(self) -> Any:
        """Where registered data are; those of the blocks are not in the data, but looked up by the same names."""
        of_blocks = {key: {"attr_name": "blocks", "attr_key": key} for key in self.blocks.tables}
        return attrdict({**super().data_registry.to_dict(), **of_blocks})

    def get_from_registry(self, registry_key: str) -> Any:
        """Look up registered data, or what belongs to the blocks of the cells."""
        table = self.blocks.tables.get(registry_key)
        return super().get_from_registry(registry_key) if table is None else table

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """Hold the data on a device meanwhile, so that batches are formed there; they must be in memory and fit.

        Nothing is done if they are held already.

        Worth it where the device waits for batches: on a GPU. Two processes cannot share it, nor can workers of a
        loader.

        Raises
        ------
        NotImplementedError
            When the first batch is asked for, if the data are not in memory.
        """
        if self.device_data is not None:  # in the middle of a training
            yield
            return
        dataset = NeighborDataset(self)
        self.device_data = DeviceData(self, device, np.concatenate([dataset._representation, dataset._landmark_rep]))
        try:
            yield
        finally:
            self.device_data = None

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: list[str] | dict[str, type] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Dataset[dict[str, Any]]:
        """Create the data set; arguments as in :meth:`scvi.data.AnnDataManager.create_torch_dataset`."""
        dataset = NeighborDataset(self, data_and_attributes, load_sparse_tensor)
        return dataset if indices is None else RowSubset(dataset, row_numbers(np.asarray(indices), len(dataset)))


class RowSubset(Dataset[dict[str, Any]]):
    """Rows of a data set, looked up all at once where :class:`torch.utils.data.Subset` looks up one by one."""

    def __init__(self, dataset: NeighborDataset, indices: NDArray[np.int64]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indexes: int | list[int] | slice) -> dict[str, Any]:
        """Load the rows ``indices[indexes]``."""
        return self.dataset[self.indices[indexes]]
