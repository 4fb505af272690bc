"""Code that reproduces a model, and the versions of the packages that it was made with."""

from __future__ import annotations

import inspect
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu import _compat
from scsiameseclu.partition._hierarchy import from_state
from scsiameseclu.train import Schedule

if TYPE_CHECKING:
    from scsiameseclu.model import SCSiameseClu

_PACKAGES = ("scsiameseclu", "scvi-tools", "torch", "lightning", "anndata", "scanpy", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source folder that is not installed
            found[name] = "not installed"
    return found


def n_epochs(model: SCSiameseClu) -> int:
    """Number of epochs of the last training."""
    return max((len(frame) for frame in (model.history or {}).values()), default=0)


def code(model: SCSiameseClu) -> str:
    """Python code that reproduces a model from its data, with the same versions of the packages and the same device.

    Arguments with default values are left out. Of the arguments of :meth:`~scsiameseclu.SCSiameseClu.train`, only the
    number of epochs is included, because a model does not store the others.

    Parameters
    ----------
    model
        A trained model of a reference.
    """
    seed = None if model.reference is None else model.reference.seed
    method, setup = _compat.setup_call(model.registry)
    options = {**model.init_params_["non_kwargs"], **model.init_params_["kwargs"].get("module_kwargs", {})}
    options["n_clusters"] = model.n_clusters_requested_
    name = type(model).__name__
    default = Schedule.for_cells(model.adata.n_obs, None).max_epochs
    epochs = n_epochs(model)
    lines = [
        "import scvi",
        f"from scsiameseclu import {name}",
        "",
        *([] if seed is None else [f"scvi.settings.seed = {seed}"]),
        f"{name}.{method}({_arguments('adata', setup, getattr(type(model), method))})",
        f"model = {name}({_arguments('adata', options, type(model).__init__)})",
        f"model.train({'' if epochs == default else f'max_epochs={epochs}'})",
    ]
    return "\n".join(lines)


def changed_since_training(model: SCSiameseClu) -> bool:
    """Whether clusters were merged, split or cut since training."""
    tree = model.cluster_tree_
    if tree is None:
        return False
    return not np.array_equal(np.asarray(tree["current"]), from_state(tree).clusters)


def _arguments(first: str, options: dict[str, Any], function: Any) -> str:
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    given = [f"{name}={value!r}" for name, value in options.items() if name not in defaults or value != defaults[name]]
    return ", ".join([first, *given])
