"""Set-up on a collection of files that does not fit into memory."""

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

from anndata import AnnData

from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.pp import read_mapped, write_mapped


class CollectionMixin(ModelProtocol):
    """Counts that are copied to memory-mapped files."""

    @classmethod
    def setup_mapped(
        cls,
        collection_path: str | PathLike[str],
        directory: str | PathLike[str] | None = None,
        genes: Sequence[str] | None = None,
        rebuild: bool = True,
        **setup_kwargs: Any,
    ) -> AnnData:
        """Set up an annbatch collection, a zarr store or an ``.h5ad`` file without reading it into memory.

        Training looks up neighbours all over the data, where annbatch's loader reads in sequence. So the counts are
        copied, in sequence, to files whose rows are looked up by memory mapping (:func:`scsiameseclu.pp.write_mapped`).

        Parameters
        ----------
        collection_path
            The collection: a zarr group that holds one AnnData, or several with the same genes.
        directory
            Folder for the copy; by default ``collection_path`` with ``.mapped`` added.
        genes
            Names of the genes to keep, about 2,000 highly variable ones; all by default.
        rebuild
            Copy again what an earlier call copied to ``directory``. With False it is opened as it is, and ``genes`` is
            not used.
        **setup_kwargs
            Arguments of :meth:`setup_anndata`.

        Returns
        -------
        The AnnData, set up: ``SCSiameseClu(adata)`` comes next.

        Raises
        ------
        FileExistsError, FileNotFoundError, KeyError, NotImplementedError, ValueError
            As :func:`scsiameseclu.pp.write_mapped`, :func:`scsiameseclu.pp.read_mapped` and :meth:`setup_anndata`.
        """
        layer = setup_kwargs.pop("layer", None)  # becomes X of the copy
        folder = f"{str(collection_path).rstrip('/')}.mapped" if directory is None else directory
        if rebuild:
            adata = write_mapped(collection_path, folder, layer=layer, genes=genes, overwrite=True)
        else:
            adata = read_mapped(folder)
        cls.setup_anndata(adata, **setup_kwargs)
        return adata

    @classmethod
    def setup_annbatch(cls, *args: Any, **kwargs: Any) -> AnnData:
        """Set up the cells of a collection: the former name of :meth:`setup_mapped`.

        .. deprecated:: 0.1
            In scvi-tools a method of this name makes a datamodule, which this model cannot train on.
        """
        warnings.warn(
            "SCSiameseClu.setup_annbatch is called setup_mapped now, because a method of the old name makes a "
            "datamodule in scvi-tools. Version 0.2 removes the old name; call SCSiameseClu.setup_mapped with the same "
            "arguments.",
            FutureWarning,
            stacklevel=2,
        )
        return cls.setup_mapped(*args, **kwargs)
