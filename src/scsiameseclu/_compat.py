"""The only file that uses private names of scvi-tools."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from threading import get_ident
from typing import Any

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401 - scvi-tools uses rich.pretty to show a set-up, but does not import it
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data._constants import (
    _FIELD_REGISTRIES_KEY,
    _SCVI_UUID_KEY,
    _SETUP_ARGS_KEY,
    _SETUP_METHOD_NAME,
    _STATE_REGISTRY_KEY,
)
from scvi.model._utils import parse_device_args
from scvi.model.base import ArchesMixin, BaseModelClass
from scvi.model.base._archesmixin import _pad_and_sort_query_anndata, _set_params_online_update
from scvi.model.base._de_core import _de_core
from scvi.model.base._save_load import _initialize_model
from scvi.module.base import BaseModuleClass

__all__ = [
    "batch_codes",
    "compare_expression",
    "field_state",
    "forget",
    "forget_borrowed_identity",
    "freeze_as_query",
    "initialised",
    "is_registered",
    "no_word_on_genes",
    "pad_and_sort",
    "parse_device_args",
    "pickled_types",
    "setup_call",
    "stored_attributes",
]


def forget_borrowed_identity(cls: type[BaseModelClass], adata: AnnData) -> None:
    """Delete the scvi-tools identifier of an AnnData that is a copy of a registered AnnData.

    A copy carries the identifier of the original in ``uns``. Setting up the copy would replace the original in the
    class-wide store of scvi-tools, which would afterwards refuse the original as "a copy".
    """
    owner = cls._setup_adata_manager_store.get(adata.uns.get(_SCVI_UUID_KEY))
    if owner is not None and owner.adata is not adata:
        del adata.uns[_SCVI_UUID_KEY]


def is_registered(model: BaseModelClass, adata: AnnData) -> bool:
    """Whether this very AnnData object is registered with a model.

    Unlike the look-up of scvi-tools, this function does not register copies.
    """
    managers = type(model)._per_instance_manager_store.get(model.id, {})
    manager = managers.get(adata.uns.get(_SCVI_UUID_KEY))
    return manager is not None and manager.adata is adata


def forget(model: BaseModelClass, adata: AnnData) -> None:
    """Remove an AnnData from the registered data of a model."""
    type(model)._per_instance_manager_store.get(model.id, {}).pop(adata.uns.get(_SCVI_UUID_KEY), None)


def field_state(registry: dict[str, Any], key: str) -> dict[str, Any]:
    """State that a field stored in a registry. The dictionary is empty if there is no such field."""
    return registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_STATE_REGISTRY_KEY, {})


def setup_call(registry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the set-up method that created a registry."""
    return registry.get(_SETUP_METHOD_NAME, "setup_anndata"), dict(registry.get(_SETUP_ARGS_KEY) or {})


def freeze_as_query(module: BaseModuleClass, **options: bool) -> None:
    """Freeze the weights of a module as :meth:`scvi.model.base.ArchesMixin.load_query_data` does with these options."""
    accepted = signature(_set_params_online_update).parameters
    defaults = signature(ArchesMixin.load_query_data).parameters
    named = {name: options.get(name, defaults[name].default) for name in accepted if name != "module"}
    _set_params_online_update(module, **named)


@contextmanager
def no_word_on_genes() -> Iterator[None]:
    """Keep scvi-tools from logging, in the present thread, how many genes of the model a query has."""
    thread = get_ident()

    def is_other(record: logging.LogRecord) -> bool:
        return record.thread != thread or "reference vars" not in record.getMessage()

    logger = logging.getLogger(_pad_and_sort_query_anndata.__module__)
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def pad_and_sort(adata: AnnData, names: pd.Index) -> AnnData:
    """Return an AnnData with the genes ``names`` in this order. The counts of missing genes are 0.

    If no gene is missing, ``adata`` itself is changed and returned.
    """
    return _pad_and_sort_query_anndata(adata, names, inplace=False)


def batch_codes(registry: dict[str, Any], batches: list[Any]) -> list[int]:
    """Integer codes of batch categories.

    Raises
    ------
    ValueError
        If a category is unknown.
    """
    known = list(field_state(registry, "batch")["categorical_mapping"])
    unknown = [batch for batch in batches if batch not in known]
    if unknown:
        raise ValueError(f"`transform_batch`: expected categories among {known}, found {unknown}.")
    return [known.index(batch) for batch in batches]


def stored_attributes(model: BaseModelClass) -> dict[str, Any]:
    """Attributes of a model that are saved with the model. Their names end in ``_``."""
    return {name: value for name, value in model._get_user_attributes() if name.endswith("_")}


def initialised(cls: type[BaseModelClass], adata: Any, registry: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Create a model from its saved attributes. With ``adata=None``, the model has no data."""
    return _initialize_model(cls, adata, registry, attributes, None)


def compare_expression(manager: AnnDataManager, expression: Callable[..., Any], **arguments: Any) -> pd.DataFrame:
    """Run the differential expression test of scvi-tools on samples of expression.

    The function writes temporary columns to ``obs`` of the data.
    """
    return _de_core(adata_manager=manager, model_fn=expression, representation_fn=None, **arguments)


def pickled_types() -> list[Any]:
    """Classes and functions that build the values in a ``model.pt`` of scvi-tools.

    The values are numpy arrays and the tables of pandas 2 and 3.
    """
    internals = pd._libs
    manager = pd.DataFrame()._mgr
    new_index = pd.Index([0]).__reduce__()[0]
    named = {
        "collections.defaultdict": _plain_dict,  # the restricted unpickler cannot fill a defaultdict
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],  # name in files written with numpy 1
        "pandas.DataFrame": pd.DataFrame,
        "pandas.core.frame.DataFrame": pd.DataFrame,
        "pandas.Index": pd.Index,
        "pandas.core.indexes.base.Index": pd.Index,
        "pandas.RangeIndex": pd.RangeIndex,
        "pandas.core.indexes.range.RangeIndex": pd.RangeIndex,
        "pandas.core.indexes.base._new_Index": new_index,
        "pandas.core.internals.managers.BlockManager": type(manager),
        "pandas._libs.internals._unpickle_block": internals.internals._unpickle_block,
        "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": internals.arrays.__pyx_unpickle_NDArrayBacked,
        "pandas.StringDtype": pd.StringDtype,
        "pandas.arrays.StringArray": pd.arrays.StringArray,
    }
    numpy_types = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgOSUMm"]
    plain = [np.ndarray, np.dtype, np.empty(0).__reduce__()[0], *numpy_types, dict, bytes, slice]
    return [*plain, *((value, name) for name, value in named.items())]


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}
