"""Set-up on a collection of files that does not fit into memory."""

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

from anndata import AnnData

from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.pp import read_mapped, write_mapped


class CollectionMixin(ModelProtocol):
    """Set-up on counts that are copied to memory-mapped files."""

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

        Training needs random access to the rows of neighbouring cells. The loader of annbatch reads cells in sequence
        only. The counts are therefore copied to files whose rows are read by memory mapping
        (:func:`scsiameseclu.pp.write_mapped`).

        Parameters
        ----------
        collection_path
            Path of an annbatch collection, a zarr store or an ``.h5ad`` file. A zarr group may hold one AnnData, or
            several AnnData with the same genes.
        directory
            Folder for the copy. By default the name is ``collection_path`` with ``.mapped`` added.
        genes
            Names of the genes to keep, for example about 2,000 highly variable genes. By default all genes are kept.
        rebuild
            If True, copy the counts and replace an earlier copy in ``directory``. If False, open the earlier copy as it
            is and ignore ``genes``.
        **setup_kwargs
            Arguments of :meth:`setup_anndata`.

        Returns
        -------
        The AnnData after set-up, ready for ``SCSiameseClu(adata)``.

        Raises
        ------
        FileExistsError, FileNotFoundError, KeyError, NotImplementedError, ValueError
            Under the conditions of :func:`scsiameseclu.pp.write_mapped`, :func:`scsiameseclu.pp.read_mapped` and
            :meth:`setup_anndata`.
        """
        layer = setup_kwargs.pop("layer", None)  # this layer becomes X of the copy
        folder = f"{str(collection_path).rstrip('/')}.mapped" if directory is None else directory
        if rebuild:
            adata = write_mapped(collection_path, folder, layer=layer, genes=genes, overwrite=True)
        else:
            adata = read_mapped(folder)
        cls.setup_anndata(adata, **setup_kwargs)
        return adata

    @classmethod
    def setup_annbatch(cls, *args: Any, **kwargs: Any) -> AnnData:
        """Set up a collection of cells under the old name of :meth:`setup_mapped`.

        .. deprecated:: 0.1
            Call :meth:`setup_mapped`. In scvi-tools a method named ``setup_annbatch`` makes a datamodule, and this
            model cannot train on a datamodule.
        """
        warnings.warn(
            "SCSiameseClu.setup_annbatch is called setup_mapped now, because a method of the old name makes a "
            "datamodule in scvi-tools. Version 0.2 removes the old name; call SCSiameseClu.setup_mapped with the same "
            "arguments.",
            FutureWarning,
            stacklevel=2,
        )
        return cls.setup_mapped(*args, **kwargs)
