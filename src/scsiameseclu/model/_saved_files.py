"""Content of the files of a saved model: weights, gene names, attributes, and the data saved with the model."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scsiameseclu import _compat
from scsiameseclu._atomic import finish
from scsiameseclu._file_format import MALFORMED, MANIFEST, Manifest, read_state, reason, write_state
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu._torch_file import read_torch_file
from scsiameseclu.pp._graph_input import GraphSettings
from scsiameseclu.pp._joint import JointProjection
from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.pp._projection import Projection
from scsiameseclu.train._resume import fill_history, history_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from mudata import MuData

__all__ = ["DATA_FILES", "SCVI_FILE", "SavedModel", "check_graph"]

SCVI_FILE = "model.pt"
"""Name of the file of a model in the format of scvi-tools, which is a pickle."""

DATA_FILES = {"setup_anndata": "adata.h5ad", "setup_mudata": "mdata.h5mu"}
"""Name of the file of the data saved with a model, by the method that set up the data. scvi-tools uses these names."""

logger = logging.getLogger(__name__)


@dataclass
class SavedModel:
    """The content of the files of a model.

    Parameters
    ----------
    path
        Main file of the model. Error messages name this file.
    weights
        Weights and buffers of the module.
    var_names
        Names of the genes, or of the variables of every modality.
    attributes
        Attributes of the model whose names end in ``_``.
    manifest
        Manifest of the files. None for a file of scvi-tools.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    var_names: NDArray[Any] | dict[str, NDArray[Any]]
    attributes: dict[str, Any]
    manifest: Manifest | None = None

    @classmethod
    def of(cls, model: Any) -> SavedModel:
        """Collect the content to save from a model."""
        return cls(Path(), dict(model.module.state_dict()), model.get_var_names(), _compat.stored_attributes(model))

    def write(self, folder: Path, prefix: str, beside: Sequence[str]) -> None:
        """Write the files of the model and a manifest.

        Parameters
        ----------
        folder
            Folder to write to.
        prefix
            Beginning of the names of the files.
        beside
            Names of other files in the folder, which the manifest lists as well.

        Raises
        ------
        TypeError
            If an attribute is of a type that cannot be stored.
        ValueError
            If a weight is NaN or infinite.
        """
        _check_finite(self.weights, "to save")
        attributes = {**self.attributes, "history_": history_state(self.attributes.get("history_") or {})}
        state = {"weights": self.weights, "var_names": self.var_names, "attributes": attributes}
        write_state(folder, state, prefix, beside)

    @classmethod
    def read(cls, folder: Path, prefix: str = "", allow_pickle: bool = False) -> SavedModel:
        """Read and check the files of a model. Code in the files is never run.

        Parameters
        ----------
        folder
            Folder of the model.
        prefix
            Beginning of the names of the files.
        allow_pickle
            Read the ``model.pt`` of scvi-tools if the folder holds no other model.

        Raises
        ------
        OSError
            If a file cannot be read.
        ValueError
            If there is no model, its files are damaged, incomplete or from a newer version, or the only file is a
            ``model.pt`` and ``allow_pickle`` is False.
        """
        finish(folder)
        finish(folder.parent)  # the command line writes the model as one of several results in this folder
        path, old = folder / (prefix + MANIFEST), folder / (prefix + SCVI_FILE)
        if path.is_file():
            manifest = Manifest.read(folder, prefix)
            return cls._checked(path, read_state(manifest), manifest)
        if not old.is_file():
            found = sorted(each.name for each in folder.glob(f"*{MANIFEST}")) if folder.is_dir() else []
            raise ValueError(
                f"Expected a saved model, found no {path.name} in {str(folder)!r}"
                + (
                    f"; there is {', '.join(found)}: pass the beginning of this name as prefix."
                    if found
                    else ". Name the folder of a model."
                )
            )
        if not allow_pickle:
            raise ValueError(
                f"Expected {path.name} in {str(folder)!r}, found only {old.name}, the file of scvi-tools and of early "
                "versions. This file is a pickle, which can be made to run any code. If you trust its source, read the "
                "file once with SCSiameseClu.load(folder, allow_pickle=True), and save the model again."
            )
        stored = read_torch_file(old, _compat.pickled_types())
        try:
            attributes = {**stored["attr_dict"]}
            attributes["history_"] = history_state(attributes.get("history_") or {})
            weights = {key: value for key, value in stored["model_state_dict"].items() if key != "pyro_param_store"}
            state = {"weights": weights, "var_names": stored["var_names"], "attributes": attributes}
        except MALFORMED as error:
            raise _not_a_model(old, error) from error
        return cls._checked(old, state, None)

    @classmethod
    def _checked(cls, path: Path, state: Any, manifest: Manifest | None) -> SavedModel:
        """Check that the content describes a model of this package, and return the content."""
        try:
            attributes = dict(state["attributes"])
            history: dict[str, pd.DataFrame] = {}
            fill_history(history, attributes.get("history_", {}))
            model = cls(path, dict(state["weights"]), state["var_names"], {**attributes, "history_": history}, manifest)
            method, arguments = _compat.setup_call(model.attributes["registry_"])
            if method not in DATA_FILES or not arguments:
                raise ValueError(f"the set-up {method!r}")
            names = model.var_names.values() if isinstance(model.var_names, dict) else [model.var_names]
            if not all(isinstance(each, np.ndarray) and each.ndim == 1 for each in names):
                raise TypeError("names of genes that are not a list")
            if not all(isinstance(each, torch.Tensor) for each in model.weights.values()):
                raise TypeError("weights that are not tensors")
            if any(not name.endswith("_") or name.startswith("_") for name in model.attributes):
                raise ValueError("attributes of other names")
        except MALFORMED as error:
            raise _not_a_model(path, error) from error
        _check_finite(model.weights, f"in {str(path)!r}")
        return model

    def unusable(self, error: Exception) -> ValueError:
        """Make the error to raise if no model can be built from the content."""
        return _not_a_model(self.path, error)

    def data(self) -> AnnData | MuData | None:
        """Read the data saved with the model. The result is None if no data were saved.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, or is not the file that was saved with the model.
        """
        path = self._data_path()
        if self.manifest is not None and self.lists_data:
            path = self.manifest.check(DATA_FILES[self._method])
        elif not path.exists():
            return None
        elif self.manifest is not None:
            logger.warning("%s was not written together with the model, and cannot be checked for damage.", path)
        return mudata.read(path) if self._method == "setup_mudata" else anndata.read_h5ad(path)

    @property
    def lists_data(self) -> bool:
        """Whether data were saved with the model. True for a file of scvi-tools, which lists no data."""
        return self.manifest is None or self.manifest.lists(DATA_FILES[self._method])

    @contextmanager
    def of_other_cells(self, unlisted: bool) -> Iterator[None]:
        """Say in errors of this block that data beside the model were not saved with the model, if ``unlisted``."""
        try:
            yield
        except (KeyError, ValueError) as error:
            if not unlisted:
                raise
            raise ValueError(
                f"Expected the data of the model in {str(self._data_path())!r}, found a file that was not saved with "
                f"the model and does not fit ({reason(error)}). Name the data with load(..., adata=adata), load the "
                "model without data with adata=False, or remove the file."
            ) from error

    @property
    def _method(self) -> str:
        return _compat.setup_call(self.attributes["registry_"])[0]

    def _data_path(self) -> Path:
        prefix = self.path.name.removesuffix(SCVI_FILE if self.manifest is None else MANIFEST)
        return self.path.with_name(prefix + DATA_FILES[self._method])


def check_graph(registry: dict[str, Any]) -> None:
    """Raise an error (of any class) if a registry lacks data that new cells need to find their neighbours."""
    state = _compat.field_state(registry, SIAMESE_KEYS.CELL_GRAPH)
    GraphSettings.from_state(state)
    landmarks = Landmarks.from_state(state["landmarks"])
    if landmarks.rep.ndim != 2 or landmarks.rep.shape != (len(landmarks.batch), state["n_rep"]):
        raise ValueError(f"landmarks of shape {landmarks.rep.shape}")
    if not np.isfinite(landmarks.rep).all():
        raise ValueError("landmarks that are not finite")
    if state["projection"] is not None:
        Projection.from_state(state["projection"])
    if "joint" in state:
        JointProjection.from_state(state["joint"])


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    bad = [key for key, value in weights.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise ValueError(
            f"Expected finite weights {where}, found NaN or infinite ones in {len(bad)} tensors, {', '.join(bad[:3])}. "
            "Train the model again."
        )


def _not_a_model(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a model of scsiameseclu in {str(path)!r}, found something else ({reason(error)}). Name the folder "
        "of a model that was saved with model.save."
    )
