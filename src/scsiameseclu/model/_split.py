"""Which cells train, as settings of the training have to know it before it starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from scvi import settings


@dataclass(frozen=True)
class Split:
    """Numbers of cells that train and that are held out.

    Attributes
    ----------
    n_train, n_held_out
        Cells that train, cells held out for validation.
    external
        Rows that train, are held out, and are left over, if they were given.
    batch_size, drop_last
        Of a datamodule that was given; None otherwise.
    """

    n_train: int
    n_held_out: int
    external: list[NDArray[np.int64]] | None = None
    batch_size: int | None = None
    drop_last: bool | None = None

    @classmethod
    def of(
        cls,
        n_obs: int,
        train_size: float,
        validation_size: float | None,
        split_options: Mapping[str, Any],
        datamodule: Any = None,
    ) -> Self:
        """Work out the split from the arguments of a training.

        Raises
        ------
        ValueError
            If a share is not between 0 and 1, or ``external_indexing`` is not up to three arrays of rows of the data.
        """
        if datamodule is not None:
            size = datamodule.data_loader_kwargs.get("batch_size") or settings.batch_size
            return cls(datamodule.n_train, datamodule.n_val, None, size, bool(datamodule.drop_last))
        if split_options.get("external_indexing") is not None:
            external = _rows(split_options["external_indexing"], n_obs)
            return cls(len(external[0]), len(external[1]), external)
        if not 0.0 < train_size <= 1.0:
            raise ValueError(f"Expected train_size above 0 and at most 1, found {train_size}.")
        n_train = math.ceil(train_size * n_obs)
        n_held_out = n_obs - n_train if validation_size is None else math.floor(n_obs * validation_size)
        return cls(n_train, n_held_out)

    def check_held_out(self, users: list[str]) -> None:
        """Refuse a split without cells held out where something needs them.

        Raises
        ------
        ValueError
            If there are none.
        """
        if users and self.n_held_out == 0:
            raise ValueError(
                f"Expected cells held out for validation, which {' and '.join(users)} need(s), found none. Pass "
                "train_size=0.9, or another value below 1, or rows as the second array of external_indexing."
            )

    def check_batches(self, batch_size: int, drop_last: bool | int) -> None:
        """Refuse settings that leave no batch to train on.

        Raises
        ------
        ValueError
            If there would be none, or ``batch_size`` is not a whole number of at least 1.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"Expected batch_size as a whole number of at least 1, found {batch_size!r}.")
        if self.batch_size is not None and self.drop_last is not None:
            batch_size, drop_last = self.batch_size, self.drop_last
        if self.n_train == 0 or (drop_last and self.n_train < batch_size):
            raise ValueError(
                f"Expected at least one whole batch of {batch_size} training cells with drop_last, found "
                f"{self.n_train} training cells. Lower batch_size, let more cells train, or leave out drop_last."
            )


def validation_users(
    early_stopping: bool, plan_options: Mapping[str, Any], trainer_options: Mapping[str, Any]
) -> list[str]:
    """Arguments of a training that need cells held out."""
    callbacks = trainer_options.get("callbacks") or []
    users = {
        "early_stopping": early_stopping,
        "check_val_every_n_epoch": trainer_options.get("check_val_every_n_epoch") is not None,
        "reduce_lr_on_plateau": plan_options.get("reduce_lr_on_plateau", False),
        "learning_rate_monitor": trainer_options.get("learning_rate_monitor", False),
        "enable_checkpointing": trainer_options.get("enable_checkpointing", False),
        "a checkpoint callback": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    }
    return [name for name, used in users.items() if used]


def plain_number(value: Any) -> Any:
    """Turn a number of numpy into one of Python, which Lightning insists on and saved files keep; all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def plain_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same for the values of a mapping."""
    return {name: plain_number(value) for name, value in options.items()}


def _rows(external: Any, n_obs: int) -> list[NDArray[np.int64]]:
    """Three arrays of rows: to train on, held out, left over."""
    parts = list(external)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"Expected external_indexing with arrays of rows to train on, hold out and leave over, found {len(parts)}."
        )
    rows = [np.zeros(0, dtype=np.int64) if part is None else np.asarray(part).ravel() for part in parts]
    rows = [np.flatnonzero(part) if part.dtype == bool else part.astype(np.int64) for part in rows]
    rows += [np.zeros(0, dtype=np.int64)] * (3 - len(rows))
    given = np.concatenate(rows)
    if given.size and (given.min() < 0 or given.max() >= n_obs):
        raise ValueError(f"Expected rows of {n_obs} cells in external_indexing, found {given.min()} to {given.max()}.")
    if len(np.unique(given)) < len(given):
        raise ValueError("Expected every row once in external_indexing, found some more than once.")
    left = np.setdiff1d(np.arange(n_obs), given)
    rows[2] = np.concatenate([rows[2], left])  # rows that are not named are left over
    return rows
