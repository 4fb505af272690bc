"""The only place that touches names scvi-tools keeps to itself."""

from inspect import signature
from typing import Any

import pandas as pd
import rich.pretty  # noqa: F401 - scvi-tools shows a set-up with it and leaves the import to others
import torch
from anndata import AnnData
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
from scvi.module.base import BaseModuleClass

__all__ = [
    "batch_codes",
    "field_state",
    "forget_borrowed_identity",
    "freeze_as_query",
    "is_registered",
    "pad_and_sort",
    "setup_call",
    "training_device",
]


def forget_borrowed_identity(cls: type[BaseModelClass], adata: AnnData) -> None:
    """Drop the identity a copy shares with its original.

    A copy carries the original's identifier in ``uns``. Setting the copy up would then take the original's place in the
    class-wide store, and the original would be refused as "a copy" afterwards.
    """
    owner = cls._setup_adata_manager_store.get(adata.uns.get(_SCVI_UUID_KEY))
    if owner is not None and owner.adata is not adata:
        del adata.uns[_SCVI_UUID_KEY]


def is_registered(model: BaseModelClass, adata: AnnData) -> bool:
    """Whether a model has met these very data; unlike the look-up of scvi-tools, it does not register copies of them."""
    managers = type(model)._per_instance_manager_store.get(model.id, {})
    manager = managers.get(adata.uns.get(_SCVI_UUID_KEY))
    return manager is not None and manager.adata is adata


def field_state(registry: dict[str, Any], key: str) -> dict[str, Any]:
    """State that a field left in a registry; empty if there is no such field."""
    return registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_STATE_REGISTRY_KEY, {})


def setup_call(registry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the set-up method that a registry comes from."""
    return registry.get(_SETUP_METHOD_NAME, "setup_anndata"), dict(registry.get(_SETUP_ARGS_KEY) or {})


def freeze_as_query(module: BaseModuleClass, **options: bool) -> None:
    """Freeze the weights of a module as :meth:`scvi.model.base.ArchesMixin.load_query_data` does with these options."""
    accepted = signature(_set_params_online_update).parameters
    defaults = signature(ArchesMixin.load_query_data).parameters
    named = {name: options.get(name, defaults[name].default) for name in accepted if name != "module"}
    _set_params_online_update(module, **named)


def pad_and_sort(adata: AnnData, names: pd.Index) -> AnnData:
    """An AnnData with these genes in this order, missing ones 0; the one given if it has no gene missing, changed in place."""
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


def training_device(accelerator: str, devices: int | list[int] | str) -> tuple[str, torch.device]:
    """Kind of device and first device that scvi-tools would train on."""
    kind, _, device = parse_device_args(accelerator, devices, return_device="torch")
    return str(kind), device
