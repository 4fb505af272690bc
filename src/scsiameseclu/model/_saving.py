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
        """Save the model.

        Weights and arrays are written to ``model.safetensors``, all other content to ``model.json``, and the digests of
        all files to ``manifest.json``. If saving fails or is interrupted, the folder still holds either the complete
        old model or the complete new model. A model can also be saved during training.

        Parameters
        ----------
        dir_path
            Folder to write to.
        prefix
            Text in front of the names of the files. With prefixes, one folder can hold several models.
        overwrite
            Write to a folder that is not empty. Files of this model are replaced, other files are kept.
        save_anndata
            Also write the data, to ``adata.h5ad`` or ``mdata.h5mu``.
        also_scvi_tools
            Also write ``model.pt``, the file that functions of scvi-tools read. This file is a pickle, and :meth:`load`
            does not read it.
        landmarks
            Largest number of landmarks to write. A landmark is a cell of the reference, stored as its principal
            components (or other representation), batch and embedding, without counts. By default all landmarks are
            written, up to 20,000. With fewer landmarks, the neighbours of new cells are farther away than the
            neighbours in training, and the out-of-reference score recognises fewer foreign cells. With 0 landmarks,
            new cells have no neighbours, and :meth:`get_out_of_reference_score` is not available.
        **anndata_write_kwargs
            Arguments of :meth:`anndata.AnnData.write_h5ad`, for ``save_anndata=True``.

        Raises
        ------
        OSError
            If the disk is full. The former content of the folder is kept.
        RuntimeError
            If another process keeps writing to this folder.
        TypeError
            If the model has an attribute that cannot be stored, or if there are ``anndata_write_kwargs`` without
            ``save_anndata=True``.
        ValueError
            If the folder is not empty and ``overwrite`` is False, a weight is not finite, there are no data to save, or
            ``landmarks`` is negative, or above 0 but not above the number of neighbours of a cell.
        """
        self._record_n_clusters()
        self._refresh_reference()
        folder, prefix = Path(dir_path), prefix or ""
        finish(folder)
        if folder.is_file():
            raise ValueError(
                f"Expected the name of a folder, found that {str(folder)!r} is a file. Name another folder."
            )
        if content(folder) and not overwrite:
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
        """Load a saved model. Code in the files is never run.

        Parameters
        ----------
        %(param_dir_path)s
        adata
            Data of the model. By default the data saved with the model. ``False`` loads the model without data. The
            AnnData may have additional genes, or the genes in another order, like the AnnData that was passed to
            :func:`scsiameseclu.tl.cluster`. The model then works on a copy with its own genes, and does not change the
            AnnData.
        %(param_device)s
        %(param_prefix)s
        allow_pickle
            Read ``model.pt``, the file of scvi-tools and of early versions of this package, if the folder holds no
            other model. This file is a pickle, and a pickle can name functions to call. Only functions that build
            tensors, arrays and tables are called, and a file that names other functions is refused. Nevertheless, read
            such files only if you trust their source.

        Raises
        ------
        OSError
            If a file cannot be read.
        ValueError
            If there is no model, the files are damaged, incomplete or from a newer version, the model is of another
            class, the only file is a ``model.pt`` and ``allow_pickle`` is False, or the data in the folder were not
            saved with the model and hold other cells than the model was trained on.
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
        model, unlisted = cls._checked(saved), False
        if adata is None:
            adata = saved.data()
            if adata is None:
                logger.warning("No data are saved with the model in %s: the model is loaded without data.", dir_path)
            elif not saved.lists_data:
                unlisted = True
        if adata is not None and adata is not False:
            with search_on(accelerator), saved.of_other_cells(unlisted):
                cells = _with_genes_of(adata, saved.var_names)
                model = cls._restored(saved, cells)
                if unlisted and not (model.is_query_ or model.adata_manager.blocks.are_reference):
                    raise ValueError("the cells have other names or counts than the model was trained on")
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
        """Build the model without data. Any failure here means that the files are damaged."""
        try:
            check_graph(saved.attributes["registry_"])
            with torch.random.fork_rng(devices=[]):
                return cls._restored(saved, None)
        except MALFORMED as error:
            raise saved.unusable(error) from error

    @classmethod
    def _restored(cls, saved: SavedModel, adata: AnnData | MuData | None) -> Self:
        """Build the model from its saved content, and set up the data if there are any."""
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
        """Return the registry of a saved model, which records the set-up of its data.

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
        """Refuse the conversion, because no model of this class exists in the format of scvi-tools before 0.15.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("Expected a model saved by this package, which needs no conversion: use load.")

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the genes, or names of the variables of every modality.

        A model without data returns the names that were saved with the model.
        """
        if self.adata is None and self._saved_var_names is not None:
            return self._saved_var_names
        return super().get_var_names(legacy_mudata_format)  # type: ignore[safe-super]


def _with_genes_of(data: AnnData | MuData, names: Any) -> AnnData | MuData:
    """Return data with the genes of a saved model in the order of the model.

    The result is ``data`` itself if the genes fit already, and otherwise a copy.

    Raises
    ------
    ValueError
        If the data lack genes of the model.
    """
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
