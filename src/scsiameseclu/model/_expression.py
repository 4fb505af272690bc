"""Decoded expression and the distribution of the counts of every cell."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from sparse import GCXS, concatenate

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.model._differential import DifferentialExpressionMixin
from scsiameseclu.model._setup import check_finite
from scsiameseclu.pp._threads import within_thread_limit


class ExpressionMixin(DifferentialExpressionMixin):
    """Expression decoded from the embedding, and the likelihood of the counts."""

    @within_thread_limit()
    @torch.inference_mode()
    @with_shared_descriptions
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
        """Decode the expression of cells, like the method of the same name in scvi-tools.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_transform_batch)s
        %(param_gene_list)s
        library_size
            Total to which every cell is scaled. ``"latent"`` scales each cell to its own library size. If the model was
            set up with size factors, ``"latent"`` uses the size factors, scaled so that the median ratio of size factor
            and library size is 1.
        %(param_batch_size)s
        %(param_return_numpy)s

        Returns
        -------
        Decoded expression, float32 ``(n, n_genes)``, indexed by ``obs_names`` and gene names. With ``library_size=1``
        the values are proportions, which sum to 1 over all genes of a cell.

        Raises
        ------
        KeyError
            If a gene of ``gene_list`` is unknown.
        ValueError
            If a batch is unknown, ``library_size`` is not positive, or the model was trained without reconstruction.
        """
        self._check_decoder()
        if library_size != "latent" and not float(library_size) > 0.0:
            raise ValueError(f"Expected a positive library_size or 'latent', found {library_size!r}.")
        adata, rows = self._cells(adata, indices)
        rna = self._rna(adata)
        genes = _gene_positions(rna, gene_list)
        codes = self._transform_codes(transform_batch)
        self.module.eval()
        blocks = []
        loader = self._make_data_loader(adata, indices=rows, batch_size=batch_size)
        for tensors in loader:
            per_batch = [self._decode(tensors, code, library_size)[:, genes] for code in codes]
            blocks.append(torch.stack(per_batch).mean(dim=0).cpu().numpy())
        expression = np.concatenate(blocks) if blocks else np.zeros((0, len(genes)), dtype=np.float32)
        check_finite(expression, adata.obs_names[rows], "decoded expression")
        if return_numpy:
            return expression
        return pd.DataFrame(expression, index=adata.obs_names[rows], columns=rna.var_names[genes])

    @within_thread_limit()
    @torch.inference_mode()
    @with_shared_descriptions
    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Parameters of the count distribution of every cell, like the method of the same name in scvi-tools.

        The embedding is deterministic. There is therefore one set of parameters per cell and no argument ``n_samples``.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_batch_size)s

        Returns
        -------
        Arrays of float32, shape ``(n, n_genes)``, by name. ``"mean"`` is always present. ``"dispersions"`` (the inverse
        dispersion theta) is absent for ``gene_likelihood="poisson"``. ``"dropout"`` (the probability of an extra zero)
        is present only for ``gene_likelihood="zinb"``.

        Raises
        ------
        ValueError
            If the model was trained without reconstruction, or no cell is selected.
        """
        likelihood = self.module.decoder.gene_likelihood
        attributes = {"mean": "mu" if likelihood != "poisson" else "rate"}
        if likelihood != "poisson":
            attributes["dispersions"] = "theta"
        if likelihood == "zinb":
            attributes["dropout"] = "zi_probs"
        adata, rows = self._cells_to_decode(adata, indices)
        blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in attributes}
        for _, px in self._count_models(adata, rows, batch_size):
            for name, attribute in attributes.items():
                values = getattr(px, attribute).expand(len(px.scale), -1)  # repeat a dispersion per gene for all cells
                blocks[name].append(values.cpu().numpy().astype(np.float32))
        return {name: np.concatenate(parts) for name, parts in blocks.items()}

    @within_thread_limit()
    @torch.inference_mode()
    @with_shared_descriptions
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
    ) -> dict[str, float] | dict[str, NDArray[np.float32]]:
        """Negative log-likelihood of the counts given the embedding, summed over genes. Lower is better.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_batch_size)s
        return_mean
            Return the mean over cells instead of one value per cell.

        Returns
        -------
        ``{"reconstruction_loss": ...}`` with a number, or with float32 ``(n,)`` if ``return_mean`` is False. The unit
        is nats.

        Raises
        ------
        ValueError
            If the model was trained without reconstruction, or no cell is selected.
        """
        adata, rows = self._cells_to_decode(adata, indices)
        blocks = [
            -px.log_prob(tensors[REGISTRY_KEYS.X_KEY].to(self.module.device)).sum(dim=1).cpu().numpy()
            for tensors, px in self._count_models(adata, rows, batch_size)
        ]
        errors = np.concatenate(blocks)
        if return_mean:
            return {"reconstruction_loss": float(errors.mean())}
        return {"reconstruction_loss": errors}

    @within_thread_limit()
    @torch.inference_mode()
    @with_shared_descriptions
    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> GCXS:
        """Draw counts from the count distribution of every cell, like the method of the same name in scvi-tools.

        The embedding is deterministic. The draws of one cell differ only by the noise of the counts.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        n_samples
            Number of draws per cell.
        %(param_gene_list)s
        %(param_batch_size)s

        Returns
        -------
        Sparse counts, shape ``(n, n_genes)`` for one draw and ``(n, n_genes, n_samples)`` for several draws.

        Raises
        ------
        KeyError
            If a gene of ``gene_list`` is unknown.
        ValueError
            If the model was trained without reconstruction, no cell is selected, or ``n_samples`` is below 1.
        """
        if n_samples < 1:
            raise ValueError(f"`n_samples`: expected at least 1, found {n_samples}.")
        adata, rows = self._cells_to_decode(adata, indices)
        genes = _gene_positions(self._rna(adata), gene_list)
        blocks = []
        for _, px in self._count_models(adata, rows, batch_size):
            drawn = px.sample((n_samples,))[:, :, genes].permute(1, 2, 0).cpu().numpy()
            blocks.append(GCXS.from_numpy(drawn[..., 0] if n_samples == 1 else drawn))
        return concatenate(blocks, axis=0)

    def _check_decoder(self) -> None:
        """Refuse a decoder that no loss has trained."""
        if self.module.loss_weights.reconstruction == 0.0:
            raise ValueError("Expected a model trained with a reconstruction loss, found its weight 0.")

    def _cells_to_decode(
        self, adata: AnnData | None, indices: Sequence[int] | None
    ) -> tuple[AnnData, NDArray[np.int64]]:
        """Validated data and row numbers of the cells to decode.

        Raises
        ------
        ValueError
            If the model was trained without reconstruction, or no cell is selected.
        """
        self._check_decoder()
        adata, rows = self._cells(adata, indices)
        if len(rows) == 0:
            raise ValueError("`indices`: expected at least one cell, found none.")
        return adata, rows

    def _count_models(
        self, adata: AnnData, rows: NDArray[np.int64], batch_size: int | None
    ) -> Iterator[tuple[dict[str, torch.Tensor], Any]]:
        """Mini-batches, each with the distribution of the counts of its cells over all genes."""
        self.module.eval()
        loader = self._make_data_loader(adata, indices=rows, batch_size=batch_size)
        for tensors in loader:
            yield tensors, self.module.forward(tensors, compute_loss=False)[1]["px"]

    def _decode(
        self, tensors: dict[str, torch.Tensor], batch: int | None, library_size: float | Literal["latent"]
    ) -> torch.Tensor:
        """Decoded expression of one mini-batch, ``(batch, n_genes)``."""
        _, outputs = self.module.forward(tensors, generative_kwargs={"transform_batch": batch}, compute_loss=False)
        if library_size == "latent":
            return outputs["px"].get_normalized("mu")
        return outputs["px"].get_normalized("scale") * float(library_size)

    def _transform_codes(self, transform_batch: Sequence[Any] | Any | None) -> list[int] | list[None]:
        """Codes of the batches to decode every cell in. ``[None]`` stands for the cell's own batch."""
        if transform_batch is None:
            return [None]
        several = isinstance(transform_batch, list | tuple | np.ndarray | pd.Index)
        wanted = list(transform_batch) if several else [transform_batch]
        return _compat.batch_codes(self.registry, wanted)


def _gene_positions(adata: AnnData, gene_list: Sequence[str] | None) -> NDArray[np.int64]:
    """Column numbers of the genes in ``gene_list``, in the order of the list. By default all columns."""
    if gene_list is None:
        return np.arange(adata.n_vars)
    missing = [gene for gene in gene_list if gene not in adata.var_names]
    if missing:
        raise KeyError(
            f"`gene_list`: expected names among the {adata.n_vars} genes of the model (model.get_var_names()), found "
            f"{missing[:5]}. tl.cluster trains on the highly variable genes; n_top_genes=None takes all."
        )
    return np.concatenate([np.flatnonzero(adata.var_names == gene) for gene in gene_list])
