"""Denoised expression."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from scsiameseclu import _compat
from scsiameseclu.model._setup import check_finite
from scsiameseclu.module import SiameseModule


class ExpressionMixin:
    """Expression decoded from the embedding."""

    module: SiameseModule

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[Any] | Any | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        batch_size: int | None = None,
        return_numpy: bool = False,
    ) -> NDArray[np.float32] | pd.DataFrame:
        """Decode expression, with the meaning of scvi-tools' method of the same name.

        Parameters
        ----------
        adata
            Data to decode; those of the model by default.
        indices
            Rows, or a boolean mask; all by default.
        transform_batch
            Batch category, or several to average over, that every cell is decoded as; its own by default.
        gene_list
            Genes to return; all by default.
        library_size
            Total every cell is scaled to, or ``"latent"`` for the cell's own library size (or its size factor,
            in the unit in which the median ratio of size factor and library size is 1).
        batch_size
            Cells per batch; ``scvi.settings.batch_size`` by default.
        return_numpy
            Return an array instead of a :class:`pandas.DataFrame`.

        Returns
        -------
        Decoded expression ``(n, n_genes)``, indexed by ``obs_names`` and gene names. With ``library_size=1`` the values
        are proportions: over all genes they sum to 1 per cell.

        Raises
        ------
        KeyError
            If a gene of ``gene_list`` is unknown.
        ValueError
            If a batch is unknown, ``library_size`` is not positive, or the model was trained without reconstruction.
        """
        if self.module.loss_weights.reconstruction == 0.0:
            raise ValueError("Expected a model trained with a reconstruction loss, found its weight 0.")
        if library_size != "latent" and not float(library_size) > 0.0:
            raise ValueError(f"Expected a positive library_size or 'latent', found {library_size!r}.")
        adata, rows = self._cells(adata, indices)  # type: ignore[attr-defined]
        rna = self._rna(adata)  # type: ignore[attr-defined]
        genes = _gene_positions(rna, gene_list)
        codes = self._transform_codes(transform_batch)
        self.module.eval()
        blocks = []
        loader = self._make_data_loader(adata, indices=rows, batch_size=batch_size)  # type: ignore[attr-defined]
        for tensors in loader:
            per_batch = [self._decode(tensors, code, library_size)[:, genes] for code in codes]
            blocks.append(torch.stack(per_batch).mean(dim=0).cpu().numpy())
        expression = np.concatenate(blocks) if blocks else np.zeros((0, len(genes)), dtype=np.float32)
        check_finite(expression, adata.obs_names[rows], "decoded expression")
        if return_numpy:
            return expression
        return pd.DataFrame(expression, index=adata.obs_names[rows], columns=rna.var_names[genes])

    def _decode(
        self, tensors: dict[str, torch.Tensor], batch: int | None, library_size: float | Literal["latent"]
    ) -> torch.Tensor:
        """Decoded expression of one mini-batch, ``(batch, n_genes)``."""
        _, outputs = self.module.forward(tensors, generative_kwargs={"transform_batch": batch}, compute_loss=False)
        if library_size == "latent":
            return outputs["px"].get_normalized("mu")
        return outputs["px"].get_normalized("scale") * float(library_size)

    def _transform_codes(self, transform_batch: Sequence[Any] | Any | None) -> list[int] | list[None]:
        if transform_batch is None:
            return [None]
        several = isinstance(transform_batch, list | tuple | np.ndarray | pd.Index)
        wanted = list(transform_batch) if several else [transform_batch]
        return _compat.batch_codes(self.registry, wanted)  # type: ignore[attr-defined]


def _gene_positions(adata: AnnData, gene_list: Sequence[str] | None) -> NDArray[np.int64]:
    """Columns of the genes, in the order asked for."""
    if gene_list is None:
        return np.arange(adata.n_vars)
    missing = [gene for gene in gene_list if gene not in adata.var_names]
    if missing:
        raise KeyError(f"`gene_list`: expected names from adata.var_names, found {missing[:5]} not among them.")
    return np.concatenate([np.flatnonzero(adata.var_names == gene) for gene in gene_list])
