"""Split of the cells into training and validation cells, computed before training because settings depend on it."""

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
    """Numbers of training cells and of cells held out for validation.

    Attributes
    ----------
    n_train
        Number of training cells.
    n_held_out
        Number of cells held out for validation.
    external
        Row numbers of the training cells, the held-out cells and the remaining cells, if the user gave a split.
    batch_size, drop_last
        Settings of the datamodule, if the user gave a datamodule. None otherwise.
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
        """Compute the split from the arguments of :meth:`~scsiameseclu.SCSiameseClu.train`.

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
        """Refuse a split without held-out cells if settings of the training need held-out cells.

        Parameters
        ----------
        users
            Names of the settings that need held-out cells.

        Raises
        ------
        ValueError
            If no cell is held out and ``users`` is not empty.
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
            If there would be no batch, or ``batch_size`` is not a whole number of at least 1.
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
    """Names of the arguments of a training that need held-out cells."""
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
    """Turn a numpy number into a Python number. Other values are returned unchanged.

    Lightning does not accept numpy numbers everywhere, and saved files should not hold them.
    """
    return value.item() if isinstance(value, np.generic) else value


def plain_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn numpy numbers among the values of a mapping into Python numbers."""
    return {name: plain_number(value) for name, value in options.items()}


def _rows(external: Any, n_obs: int) -> list[NDArray[np.int64]]:
    """Row numbers of the training cells, the held-out cells and the remaining cells."""
    parts = list(external)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "Expected external_indexing with one to three arrays of rows (training, validation, unused), found "
            f"{len(parts)}."
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
    rows[2] = np.concatenate([rows[2], left])
    return rows
