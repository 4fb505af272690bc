"""Record of the proteins that were measured in each batch of a reference."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scsiameseclu.reference._sources import Cells

logger = logging.getLogger(__name__)

MIN_CELLS_UNMEASURED = 20
"""Smallest number of cells of a batch in which a protein that is always 0 counts as not measured."""


@dataclass(frozen=True, eq=False)
class MeasuredProteins:
    """Record of the proteins that were measured in each batch of a reference.

    Antibody panels differ between batches, and a protein outside the panel of a batch is often stored as 0 in all cells
    of the batch. The record is made once, from the cells of the reference. In a batch that is new to the model, every
    value other than NaN counts as measured, because the result for a cell must not depend on the other cells of the
    query.

    Parameters
    ----------
    batches
        Names of the batches. A single empty name if there are no batches.
    measured
        Whether a protein was measured in a batch, bool, ``(n_batches, n_proteins)``.
    """

    batches: tuple[str, ...]
    measured: NDArray[np.bool_]

    @classmethod
    def of(cls, values: NDArray[np.float32], batch: pd.Series | None) -> MeasuredProteins:
        """Find the measured proteins from values ``(n_obs, n_proteins)``.

        A protein that is 0 in all cells of a batch of at least 20 cells counts as not measured in this batch.
        """
        names, codes = _batches(batch, len(values))
        measured = np.ones((len(names), values.shape[1]), dtype=bool)
        for code in range(len(names)):
            rows = codes == code
            if rows.sum() >= MIN_CELLS_UNMEASURED:
                measured[code] = np.nan_to_num(values[rows]).any(axis=0)
        if not measured.all():
            logger.info(
                "%d protein(s) are 0 in all cells of a batch, and count as not measured in this batch.",
                (~measured).sum(),
            )
        return cls(tuple(names), measured)

    def applied(self, cells: Cells) -> Cells:
        """Set proteins that were not measured in a batch of the reference to NaN in the cells of this batch."""
        if cells.proteins is None:
            return cells
        names, codes = _batches(cells.batch, len(cells.names))
        known = pd.Index(self.batches).get_indexer(names)[codes]
        blank = ~self.measured[known] & (known >= 0)[:, None]
        values = np.where(blank, np.float32(np.nan), cells.proteins.values)
        return replace(cells, proteins=replace(cells.proteins, values=values))

    def to_state(self) -> dict[str, Any]:
        """Plain dictionary for a registry."""
        return {"batches": list(self.batches), "measured": self.measured}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MeasuredProteins:
        """Inverse of :meth:`to_state`."""
        return cls(tuple(map(str, state["batches"])), np.asarray(state["measured"], dtype=bool))


def _batches(batch: pd.Series | None, n_obs: int) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the batches, and the number of the batch of each cell."""
    if batch is None:
        return [""], np.zeros(n_obs, dtype=np.int64)
    codes, names = pd.factorize(np.array([str(name) for name in batch.to_numpy()], dtype=object), sort=True)
    return list(map(str, names)), codes.astype(np.int64)
