"""Plot of the training curves in ``model.history``."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.pl._figure import Drawn, PathOf, finish
from scsiameseclu.pl._input import check_model

__all__ = ["training_curves"]

_SPLITS = ("train", "validation")
# Quantities that scvi-tools logs for variational models. In this model, the quantities are constant or equal to the
# reconstruction loss.
_VARIATIONAL = ("elbo", "kl_global", "kl_local", "reconstruction_loss")


class _HasHistory(Protocol):
    @property
    def history(self) -> Mapping[str, pd.DataFrame] | None: ...


@with_shared_descriptions
def training_curves(
    model: "_HasHistory | Mapping[str, pd.DataFrame]",
    metrics: Sequence[str] | None = None,
    *,
    n_cols: int = 4,
    panel_size: tuple[float, float] = (2.8, 2.1),
    show: bool | None = None,
    save: PathOf | None = None,
    return_fig: bool = False,
) -> Drawn:
    """Draw every logged quantity over the epochs. Training and validation are in the same panel.

    A quantity that is only logged in one phase of the training, such as ``"sinkhorn_marginal_error"``, is drawn over
    the epochs of this phase.

    Parameters
    ----------
    model
        A trained model, or its ``history``: a mapping of names to data frames with one column, indexed by epoch.
    metrics
        Names of the quantities to draw, without ``"_train"`` or ``"_validation"``, in this order. ``None``: all
        quantities except those that only describe variational models (``"elbo"`` and similar).
    n_cols
        Largest number of panels in a row.
    panel_size
        Width and height of one panel, in inches.
    %(param_finish)s

    Returns
    -------
    The figure if ``return_fig``; the axes if ``show=False``; otherwise ``None``. The figure has one panel per quantity.

    Raises
    ------
    TypeError
        If ``model`` is an AnnData or a MuData.
    ValueError
        If there is no history (the model is not trained, or was trained with another logger), or ``n_cols`` is below 1.
    KeyError
        If a name in ``metrics`` was never logged.
    """
    if n_cols < 1:
        raise ValueError(f"Expected n_cols of at least 1, found {n_cols}.")
    check_model(model)
    history = model if isinstance(model, Mapping) else model.history
    if not history and getattr(model, "is_trained", False):
        raise ValueError(
            "Expected a training history, found a model that was trained with a logger which stores no history in the "
            "model. The curves are in the output of this logger, such as the folder of TensorBoard. Train without "
            "logger=..., or pass a history (names to data frames)."
        )
    curves = _collect_curves(history)
    names = [name for name in curves if name not in _VARIATIONAL] if metrics is None else list(metrics)
    unknown = [name for name in names if name not in curves]
    if unknown:
        raise KeyError(f"Expected metrics among {sorted(curves)}, found {unknown}.")

    n_cols = min(n_cols, len(names))
    n_rows = math.ceil(len(names) / n_cols)
    figure, axes = plt.subplots(
        n_rows,
        n_cols,
        figsize=(panel_size[0] * n_cols, panel_size[1] * n_rows),
        squeeze=False,
        layout="constrained",
    )
    for ax, name in zip(axes.flat, names, strict=False):
        _draw_panel(ax, name, curves[name])
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    return finish(figure, list(axes.flat[: len(names)]), show=show, save=save, return_fig=return_fig)


def _collect_curves(history: Mapping[str, pd.DataFrame] | None) -> dict[str, dict[str, pd.Series]]:
    """Group the curves ``<name>_train`` and ``<name>_validation`` under ``<name>``.

    Curves that were logged per step, and curves without values, are left out.
    """
    if not history:
        raise ValueError("Expected a trained model, found no training history: call train() first.")
    curves: dict[str, dict[str, pd.Series]] = {}
    for key, frame in history.items():
        values = pd.to_numeric(frame.iloc[:, 0], errors="coerce").dropna()
        if key.endswith("_step") or values.empty:
            continue
        name, split = key.removesuffix("_epoch"), ""
        if name == "train_loss":  # name of scvi-tools for the training curve of "loss"
            name, split = "loss", "train"
        for suffix in _SPLITS:
            if name.endswith(f"_{suffix}"):
                name, split = name.removesuffix(f"_{suffix}"), suffix
        curves.setdefault(name or key, {})[split] = values
    if not curves:
        raise ValueError("Expected at least one logged quantity, found none in the training history.")
    return curves


def _draw_panel(ax: Axes, name: str, splits: Mapping[str, pd.Series]) -> None:
    for split in sorted(splits, key=lambda split: _SPLITS.index(split) if split in _SPLITS else -1):
        values = splits[split]
        epochs = np.asarray(values.index, dtype=float)
        style = "--" if split == "validation" else "-"
        ax.plot(
            epochs, values.to_numpy(), style, label=split or None, linewidth=1.2, marker="." if len(values) == 1 else ""
        )
    ax.set_title(name.replace("_", " "), fontsize="small")
    ax.set_xlabel("epoch", fontsize="x-small")
    ax.tick_params(labelsize="x-small")
    ax.spines[["top", "right"]].set_visible(False)
    if "validation" in splits:
        ax.legend(fontsize="x-small", frameon=False)
