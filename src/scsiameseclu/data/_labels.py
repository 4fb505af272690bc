"""Registry field for known labels. The labels are not used by the model and may be missing."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import CategoricalObsField


class LabelsField(CategoricalObsField):
    """A categorical column of ``obs`` in which labels may be missing. Later data may lack the whole column.

    Three kinds of cells get the code -1: cells of data without the column, cells without a label, and cells whose label
    was unknown at set-up. No part of the model reads the codes.
    """

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Convert the labels to integer codes. A missing label gets the code -1."""
        column = None if self.is_default else adata.obs.get(self._original_attr_key)
        if column is None or not column.isna().any():
            return super().register_field(adata)
        labels = column.astype("category").cat
        adata.obs[self.attr_key] = labels.codes
        return {
            self.CATEGORICAL_MAPPING_KEY: labels.categories.to_numpy(copy=True),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }

    def validate_field(self, adata: AnnData) -> None:
        """Accept any AnnData. If the column is missing at set-up, :meth:`register_field` raises an error."""

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Convert the labels to the codes of the categories from set-up. The categories are not changed."""
        if self.is_default:
            return super().transfer_field(state_registry, adata_target, **kwargs)
        known = pd.Index(state_registry[self.CATEGORICAL_MAPPING_KEY]).astype(object)
        codes = np.full(adata_target.n_obs, -1)
        if self._original_attr_key in adata_target.obs:
            codes = known.get_indexer(adata_target.obs[self._original_attr_key].astype(object))
        adata_target.obs[self.attr_key] = codes
        return dict(state_registry)
