"""Cells with an uncertain cluster."""

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
    """Selection of cells with an uncertain cluster."""

    @with_shared_descriptions
    def get_uncertain_cells(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        max_confidence: float = 0.5,
        min_out_of_reference: float | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """List cells whose cluster is uncertain and, on request, cells that are unlike the reference.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        max_confidence
            Upper limit of the probability. A cell is listed if the probability of its cluster is below the limit.
        min_out_of_reference
            Lower limit of the score of :meth:`get_out_of_reference_score`, such as 0.95. A cell is also listed if its
            score is above the limit. With ``None`` the score is not used.
        %(param_batch_size)s

        Returns
        -------
        One row per listed cell, indexed by ``obs_names``, the least certain cell first, with the columns

        * ``cluster``, ``confidence``: the most probable cluster (categorical) and its probability;
        * ``runner_up``, ``runner_up_probability``: the second most probable cluster (categorical) and its probability,
          missing and 0 for a model with one cluster;
        * ``out_of_reference``: the score, only if ``min_out_of_reference`` is given.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet, or under the conditions of :meth:`get_out_of_reference_score`.
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
        # With a single cluster, a column of zeros stands in for the runner-up.
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
