"""Cells that a trained model is not sure of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.model._protocol import ModelProtocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class UncertainCellsMixin(ModelProtocol):
    """Selection of cells by how sure the model is of them."""

    @with_shared_descriptions
    def get_uncertain_cells(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        max_confidence: float = 0.5,
        min_out_of_reference: float | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Cells between clusters, the least certain first; and, on request, cells unlike the reference.

        Parameters
        ----------
        adata
            Cells to look at; those of the model by default.
        %(param_indices)s
        max_confidence
            Cells whose cluster has a lower probability are returned.
        min_out_of_reference
            Cells with a higher :meth:`get_out_of_reference_score` are returned as well, such as 0.95. ``None``: none.
        %(param_batch_size)s

        Returns
        -------
        One row per cell, indexed by ``obs_names``: ``cluster`` and ``confidence``, the cluster and its probability;
        ``runner_up`` and ``runner_up_probability``, the next one (with one cluster, missing and 0); and
        ``out_of_reference``, if ``min_out_of_reference`` is given. ``cluster`` and ``runner_up`` are categorical.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet, or cannot say how unlike the reference cells are.
        ValueError
            If a limit is outside [0, 1].

        Examples
        --------
        >>> unsure = model.get_uncertain_cells(max_confidence=0.7)
        >>> adata.obs["unsure"] = adata.obs_names.isin(unsure.index)
        >>> unsure.groupby(["cluster", "runner_up"], observed=True).size()
        """
        self._check_clusters()
        for name, limit in (("max_confidence", max_confidence), ("min_out_of_reference", min_out_of_reference)):
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"`{name}`: expected a number between 0 and 1, found {limit}.")
        cells, rows, latent, probs = self._infer(adata, indices, batch_size)
        names = self._cluster_names()
        # A cluster that no cell can be in stands for the runner-up of the only one.
        padded = np.column_stack([probs, np.zeros(len(probs), dtype=probs.dtype)]) if len(names) == 1 else probs
        best, second = np.argsort(-padded, axis=1, kind="stable")[:, :2].T
        each = np.arange(len(probs))
        table = pd.DataFrame(
            {
                "cluster": pd.Categorical.from_codes(best, names),
                "confidence": padded[each, best],
                "runner_up": pd.Categorical.from_codes(np.where(second < len(names), second, -1), names),
                "runner_up_probability": padded[each, second],
            },
            index=cells.obs_names[rows],
        )
        chosen = padded[each, best] < max_confidence
        if min_out_of_reference is not None:
            table["out_of_reference"] = self._novelty(latent)
            chosen |= table["out_of_reference"].to_numpy() > min_out_of_reference
        return table[chosen].sort_values("confidence", kind="stable")
