"""Data with more genes than a model has, or with its genes in another order."""

from typing import Any
from weakref import ref

import pandas as pd
from anndata import AnnData

from scsiameseclu import _compat
from scsiameseclu.model._gene_names import check_same_genes
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._setup import COVARIATE_KEYS
from scsiameseclu.pp._genes import columns_of, copy_of_genes


class OwnGenesMixin(ModelProtocol):
    """Copies of data with additional or reordered genes. A copy has the genes of the model in the model's order.

    The model keeps a copy as long as the original exists, so that neighbours are searched only once.
    """

    _copies: dict[int, tuple[ref[AnnData], AnnData]]

    def _keep_copy(self, adata: AnnData, cells: AnnData) -> None:
        """Let the model use ``cells``, a copy that it knows, whenever the user passes ``adata``."""
        self._copies[id(adata)] = (ref(adata), cells)

    def _with_own_genes(self, adata: AnnData) -> AnnData:
        """Return data with the genes of the model: ``adata`` itself, or a copy if the genes differ.

        Raises
        ------
        ValueError
            If a gene of the model is missing, or the data cannot be reordered.
        """
        names = self.get_var_names()
        if isinstance(names, dict) or not isinstance(adata, AnnData) or adata.var_names.equals(pd.Index(names)):
            return adata
        columns = None if adata.isbacked else columns_of(adata.var_names, pd.Index(names))
        if columns is None:
            check_same_genes(adata.var_names, pd.Index(names))
            return adata
        arguments = _compat.setup_call(self.registry_)[1]
        cells = copy_of_genes(adata, columns, *(arguments.get(key) for key in ("layer", "use_rep", "neighbors_key")))
        self._forget_copies()
        _, known = self._copies.get(id(adata), (None, None))
        if known is not None and self._is_as_known(cells, known, arguments):
            return known
        self._forget(known)
        self._keep_copy(adata, cells)
        return cells

    def _is_as_known(self, cells: AnnData, known: AnnData, arguments: dict[str, Any]) -> bool:
        """Whether a new copy equals the copy that the model already knows."""
        manager = self.get_anndata_manager(known)
        columns = [name for key in COVARIATE_KEYS for name in arguments.get(key) or ()]
        return (
            manager is not None
            and set(columns) <= set(cells.obs)
            and cells.obs[columns].equals(known.obs[columns])
            and manager.is_same(cells)
        )

    def _originals(self) -> list[AnnData]:
        """Data of the user of which ``self.adata`` is a copy, if the data still exist and have the same cells."""
        found = [original() for original, cells in self._copies.values() if cells is self.adata]
        return [each for each in found if each is not None and each.obs_names.equals(self.adata.obs_names)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copies out of a pickle, because a pickle does not hold their originals."""
        return {**self.__dict__, "_copies": {}}

    def _forget_copies(self) -> None:
        """Drop copies whose originals no longer exist."""
        for key, (original, cells) in list(self._copies.items()):
            if original() is None:
                del self._copies[key]
                self._forget(cells)

    def _forget(self, cells: AnnData | None) -> None:
        if cells is not None and cells is not self.adata:
            _compat.forget(self, cells)
