"""Saving a model, and loading one."""

import logging
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi.data import AnnDataManager

from scsiameseclu import _compat
from scsiameseclu._atomic import content, finish, replaced_entries
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._file_format import MALFORMED
from scsiameseclu.model._gene_names import check_same_genes
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._saved_files import DATA_FILES, SCVI_FILE, SavedModel, check_graph
from scsiameseclu.pp._genes import columns_of
from scsiameseclu.pp._knn import search_on

logger = logging.getLogger(__name__)


class SavingMixin(ModelProtocol):
    """Files of a model: safetensors and JSON, with a manifest."""

    _saved_var_names: NDArray[Any] | dict[str, NDArray[Any]] | None = None

    def save(
        self,
        dir_path: str | PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        also_scvi_tools: bool = False,
        landmarks: int | None = None,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model, also in the middle of a training (checkpoints).

        Weights and arrays are written to ``model.safetensors``, everything else to ``model.json``, and the digests of
        all files to ``manifest.json``. Whatever happens meanwhile, the folder has the whole old model or the whole new
        one, and so has the file with the data.

        Parameters
        ----------
        dir_path
            Folder to write to.
        prefix
            Put before the names of the files, so that several models can be in one folder.
        overwrite
            Write to a folder with content: files of this model are replaced, other files are kept.
        save_anndata
            Write the data as well, to ``adata.h5ad`` or ``mdata.h5mu``.
        also_scvi_tools
            Write ``model.pt`` as well, the file that functions of scvi-tools read. It is a pickle, and :meth:`load`
            does not read it.
        landmarks
            Landmarks to write, at most. A landmark is a cell of the reference: its components (or other
            representation), its batch and its embedding, no counts. All by default, up to 20,000. With fewer,
            neighbours of new cells are farther away than those in training; with 0 new cells have none, and there is no
            :meth:`get_out_of_reference_score`.
        **anndata_write_kwargs
            Arguments of :meth:`anndata.AnnData.write_h5ad`, with ``save_anndata=True``.

        Raises
        ------
        OSError
            If the disk is full; what was there before is kept.
        RuntimeError
            If another process goes on writing to this folder.
        TypeError
            If the model has an attribute that cannot be stored, or there are arguments for data that are not saved.
        ValueError
            If the folder has content and ``overwrite`` is off, a weight is not finite, there are no data to save, or
            ``landmarks`` is negative.
        """
        self._record_n_clusters()
        self._refresh_reference()
        folder, prefix = Path(dir_path), prefix or ""
        finish(folder)
        if folder.is_file() or (content(folder) and not overwrite):
            raise ValueError(
                f"Expected a new or empty folder, found that {str(folder)!r} already exists. Name another one, or "
                "replace the model in a folder with overwrite=True."
            )
        if anndata_write_kwargs and not save_anndata:
            raise TypeError(
                "Expected arguments of AnnData.write_h5ad with save_anndata=True only, found "
                f"{sorted(anndata_write_kwargs)}."
            )
        if save_anndata and self.adata is None:
            raise ValueError("Expected data to save, found a model without; leave out save_anndata.")
        thinned = self._with_landmarks(landmarks)
        with replaced_entries(folder, gone=[prefix + SCVI_FILE]) as new, thinned:
            if also_scvi_tools:
                super().save(str(new), prefix, True)  # type: ignore[safe-super]
            if save_anndata:
                name = DATA_FILES[_compat.setup_call(self.registry_)[0]]
                self.adata.write(new / (prefix + name), **anndata_write_kwargs)
            SavedModel.of(self).write(new, prefix, beside=sorted(path.name for path in new.iterdir()))

    @classmethod
    @with_shared_descriptions
    def load(
        cls,
        dir_path: str | PathLike[str],
        adata: AnnData | MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> Self:
        """Load a saved model. No code that may be in its files is run.

        Parameters
        ----------
        %(param_dir_path)s
        adata
            Data of the model; the data saved with it by default. An AnnData with further genes, or with the genes in
            another order, is not changed: the model works on a copy with its own genes in their order.
            :func:`scsiameseclu.tl.cluster` leaves such data. ``False``: load without data.
        %(param_device)s
        %(param_prefix)s
        allow_pickle
            Read ``model.pt`` where there is nothing else: the file of scvi-tools and of early versions of this package.
            It is a pickle, which is made to be run. Only functions that build tensors, arrays and tables are called,
            and a file that names any other is refused; yet read such files only if you trust who made them.

        Raises
        ------
        OSError
            If a file cannot be read.
        ValueError
            If there is no model, its files are damaged, incomplete or from a newer version, it is a model of another
            class, or a ``model.pt`` that ``allow_pickle`` does not allow.
        """
        _, _, torch_device = _compat.parse_device_args(
            accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
        )
        saved = SavedModel.read(Path(dir_path), prefix or "", allow_pickle)
        found = saved.attributes["registry_"].get("model_name")
        if found != cls.__name__:
            raise ValueError(
                f"Expected a model of class {cls.__name__} in {str(dir_path)!r}, found a different class, {found!r}."
            )
        model = cls._checked(saved)
        if adata is None:
            adata = saved.data()
            if adata is None:
                logger.warning("There are no data beside the model in %s: it is loaded without.", dir_path)
        if adata is not None and adata is not False:
            with search_on(accelerator):
                cells = _with_genes_of(adata, saved.var_names)
                model = cls._restored(saved, cells)
            if cells is not adata:
                model._keep_copy(adata, cells)
        model.to_device(torch_device)
        model.module.eval()
        if model.adata is not None:
            model._validate_anndata(model.adata)
        model._take_over_former()
        model._freeze_again()
        model._know_data()
        return model

    @classmethod
    def _checked(cls, saved: SavedModel) -> Self:
        """The model without data: whatever fails now is the fault of the files."""
        try:
            check_graph(saved.attributes["registry_"])
            with torch.random.fork_rng(devices=[]):
                return cls._restored(saved, None)
        except MALFORMED as error:
            raise saved.unusable(error) from error

    @classmethod
    def _restored(cls, saved: SavedModel, adata: AnnData | MuData | None) -> Self:
        """The model, set up on its data as it was when it was saved, if there are any."""
        attributes = deepcopy(saved.attributes)
        registry = attributes.pop("registry_")
        if adata is not None:
            method, arguments = _compat.setup_call(registry)
            getattr(cls, method)(adata, source_registry=registry, **arguments)
        model: Self = _compat.initialised(cls, adata, registry, attributes)
        model.module.load_state_dict(saved.weights)
        model._saved_var_names = saved.var_names
        return model

    @staticmethod
    @with_shared_descriptions
    def load_registry(dir_path: str | PathLike[str], prefix: str | None = None) -> dict[str, Any]:
        """Registry of a saved model: what set-up recorded about its data.

        Parameters
        ----------
        %(param_dir_path)s
        %(param_prefix)s

        Raises
        ------
        OSError, ValueError
            As :meth:`load`.
        """
        registry: dict[str, Any] = SavedModel.read(Path(dir_path), prefix or "").attributes["registry_"]
        return registry

    @staticmethod
    @with_shared_descriptions
    def view_setup_args(dir_path: str | PathLike[str], prefix: str | None = None) -> None:
        """Print the arguments that the data of a saved model were set up with.

        Parameters
        ----------
        %(param_dir_path)s
        %(param_prefix)s

        Raises
        ------
        OSError, ValueError
            As :meth:`load`.
        """
        AnnDataManager.view_setup_method_args(SavingMixin.load_registry(dir_path, prefix))

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Not available: there are no models of this class in the format of scvi-tools before 0.15, which is a pickle.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("Expected a model that this package has saved, in a format it can load: use load.")

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the genes, or of the variables of every modality; as saved, for a model without data."""
        if self.adata is None and self._saved_var_names is not None:
            return self._saved_var_names
        return super().get_var_names(legacy_mudata_format)  # type: ignore[safe-super]


def _with_genes_of(data: AnnData | MuData, names: Any) -> AnnData | MuData:
    """The data, or a copy with the genes of a saved model in their order, if the data have all of them."""
    if not isinstance(data, AnnData) or isinstance(names, dict):
        return data
    names = pd.Index(names)
    if data.var_names.equals(names):
        return data
    columns = None if data.isbacked else columns_of(data.var_names, names)
    if columns is None:
        check_same_genes(data.var_names, names)
        return data
    logger.info("Taking the %d genes of the model out of %d, in a copy of the data.", len(names), data.n_vars)
    return data[:, columns].copy()
