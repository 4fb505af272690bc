"""Mini-batches with the neighbour block of their cells: the representations of each cell's graph neighbours."""

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
    """Registered keys that one view of a cell reads. The labels are never among the keys.

    Parameters
    ----------
    manager
        Manager of the data.
    view
        ``"first"``: keys with the kNN block of neighbours, which are also used to embed a cell. ``"second"``: keys with
        the diffused block if the graph was set up with diffusion, otherwise keys with the kNN block.
    """
    is_diffused = SIAMESE_KEYS.DIFFUSED_INDEX in manager.data_registry
    unused = _KNN_BLOCK if view == "second" and is_diffused else _DIFFUSED_BLOCK
    return [key for key in manager.data_registry if key not in {REGISTRY_KEYS.LABELS_KEY, *unused}]


class NeighborDataset(AnnTorchDataset):
    """Rows of an AnnData and, for every row, the representations of its graph neighbours.

    Besides the registered tensors, a mini-batch of ``B`` cells contains

    * ``SIAMESE_KEYS.NEIGHBOR_REP``: representations of the ``k`` neighbours of each cell, float32 ``(B, k, d)``,
    * ``SIAMESE_KEYS.DIFFUSED_REP``: the same for the diffused graph, only if the graph was set up with diffusion,
    * ``SIAMESE_KEYS.CELL_INDEX``: row numbers of the cells, int64 ``(B, 1)``.

    The representations are looked up with the index tables of the graph. An index of ``n_obs`` or more is a landmark of
    the reference. The look-up takes about as long as reading the rows.

    Parameters
    ----------
    adata_manager
        Manager of the AnnData, with the cell graph registered.
    getitem_tensors
        Keys to load, or a mapping from key to dtype. ``None``: all registered keys. Index tables are always int64,
        because float32 (the default of scvi-tools for unknown keys) is exact only up to 2**24 rows.
    load_sparse_tensor
        As in :class:`scvi.data.AnnTorchDataset`.

    Notes
    -----
    While the manager holds its data on a device (:meth:`NeighborDataManager.on_device`), a mini-batch contains tensors
    on this device instead of numpy arrays.
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

        Arrays in memory and HDF5 files are read by this package, with one vectorised look-up each. All other data (dask
        arrays, sparse tensors) are read by scvi-tools.
        """
        held: DeviceData | None = self.adata_manager.device_data
        if isinstance(indexes, torch.Tensor):
            # Row numbers on the device are not copied to the CPU.
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
        """Representation of neighbours. An index below ``n_obs`` is a cell, a larger index a landmark."""
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
        """A reader for each key; None if scvi-tools has to read the data."""
        if not hasattr(self, "_row_readers"):
            readers = {key: row_reader(self.data[key], dtype) for key, dtype in self.keys_and_dtypes.items()}
            known = {key: reader for key, reader in readers.items() if reader is not None}
            usable = len(known) == len(readers) and not self.load_sparse_tensor
            if not usable and self.adata_manager.adata.isbacked:
                # scvi-tools would sort the requested rows, so the cells of a mini-batch would get wrong data.
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

    All parts of scvi-tools that read data (training, inference, transfer to other AnnData objects) ask the manager for
    a data set. So all their mini-batches contain the neighbour block.

    Attributes
    ----------
    blocks
        Neighbours, edge weights and representations of the cells. The tables are kept here and not in the AnnData, so
        several models on one AnnData do not share them.
    is_transferred
        Whether the set-up was made on other data: on the data of a loaded model, or on the reference of a query.
    device_data
        The data on a device, inside of :meth:`on_device` only.
    """

    adata: Any
    blocks: CellBlocks
    is_transferred: bool = False
    device_data: DeviceData | None = None

    def register_fields(
        self, adata: Any, source_registry: dict[str, Any] | None = None, **transfer_kwargs: Any
    ) -> None:
        """Register the data. The arguments are those of :meth:`scvi.data.AnnDataManager.register_fields`."""
        super().register_fields(adata, source_registry, **transfer_kwargs)
        if not hasattr(self, "blocks"):  # with blocks, the same data are registered again, and nothing changes
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
        """Register the columns of the data again if another model has registered the data since. Keep the blocks."""
        self._graph.kept = self.reference_state, self.blocks
        try:
            super().validate()
        finally:
            self._graph.kept = None

    def is_current(self, rows: NDArray[np.int64] | None = None) -> bool:
        """Whether the cells have not changed since they were registered.

        Parameters
        ----------
        rows
            Row numbers of the cells to compare. ``None``: all cells.
        """
        rows = None if rows is None else np.unique(rows)
        return self.is_same(self.adata, rows)

    def is_same(self, adata: Any, rows: NDArray[np.int64] | None = None) -> bool:
        """Whether other data hold the same cells.

        Parameters
        ----------
        adata
            Other data.
        rows
            Row numbers of the cells to compare, in ascending order. ``None``: all cells.
        """
        return self.blocks.match(self._graph.source, adata, self.reference_state, rows)

    def renew(self, *, as_reference: bool) -> None:
        """Register data that have changed in place.

        Parameters
        ----------
        as_reference
            Whether the changed cells become the reference. If ``False``, the reference stays as before, and the changed
            cells find their neighbours in the reference.
        """
        registry = deepcopy(self.registry)
        if as_reference:
            state = _compat.field_state(registry, SIAMESE_KEYS.CELL_GRAPH)
            del state["landmarks"], state["source"]
        adata, self.adata = self.adata, None
        self.register_fields(adata, registry, **self._transferred_with)

    def write_graph(self) -> None:
        """Write the graph of the reference cells into the data, unless the data already contain the graph."""
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
        """Places of the registered data by key, including the keys of the tables in ``blocks``."""
        of_blocks = {key: {"attr_name": "blocks", "attr_key": key} for key in self.blocks.tables}
        return attrdict({**super().data_registry.to_dict(), **of_blocks})

    def get_from_registry(self, registry_key: str) -> Any:
        """Look up registered data, or a table of the blocks of the cells."""
        table = self.blocks.tables.get(registry_key)
        return super().get_from_registry(registry_key) if table is None else table

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """Hold the data on a device during a ``with`` block. Mini-batches are then formed on the device.

        This is faster on a GPU, which would otherwise wait for mini-batches. The data must be in memory and fit on the
        device. Several processes, or the worker processes of a loader, cannot share the data on the device. If the
        data are already on a device, the block changes nothing.

        Parameters
        ----------
        device
            Device to hold the data on.

        Raises
        ------
        NotImplementedError
            When the first mini-batch is loaded, if the data are not in memory.
        """
        if self.device_data is not None:  # called during a training that already holds the data on the device
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
        """Create the data set. The arguments are those of :meth:`scvi.data.AnnDataManager.create_torch_dataset`."""
        dataset = NeighborDataset(self, data_and_attributes, load_sparse_tensor)
        return dataset if indices is None else RowSubset(dataset, row_numbers(np.asarray(indices), len(dataset)))


class RowSubset(Dataset[dict[str, Any]]):
    """Some rows of a data set.

    All rows of a mini-batch are looked up at once, while :class:`torch.utils.data.Subset` looks up row by row.
    """

    def __init__(self, dataset: NeighborDataset, indices: NDArray[np.int64]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indexes: int | list[int] | slice) -> dict[str, Any]:
        """Load the rows ``indices[indexes]``."""
        return self.dataset[self.indices[indexes]]
