"""Embedding of cells, their clusters, and the summary of the clusters."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import settings

from scsiameseclu import _compat
from scsiameseclu._copied_results import copy_results
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import DEFAULT_KEY, UNASSIGNED, check_key_added, confidence_key, latent_key, probs_key
from scsiameseclu.data._device import fits_on
from scsiameseclu.data._loader import view_keys
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._setup import check_finite, check_kind
from scsiameseclu.pp._threads import within_thread_limit
from scsiameseclu.train._first_partition import head_of
from scsiameseclu.train._schedule import MAX_BATCH


class PredictionMixin(ModelProtocol):
    """Embeddings and clusters of cells from a trained model."""

    def _check_clusters(self) -> None:
        """Refuse to predict before the clusters exist."""
        if self.module.head is None or not self.module.head.is_initialised:
            raise RuntimeError("Expected a trained model, found one without clusters; call model.train() first.")

    def _rows(self, adata: AnnData, indices: Sequence[int] | Sequence[bool] | None) -> NDArray[np.int64]:
        """Row numbers of the cells that ``indices`` selects: row numbers, a boolean mask, or None for all cells."""
        if indices is None:
            return np.arange(adata.n_obs)
        rows = np.asarray(indices)
        if rows.size and rows.dtype.kind not in "biu":
            raise TypeError(
                f"Expected whole row numbers or a boolean mask as indices, found values of type {rows.dtype} such as "
                f"{rows.ravel()[0]!r}. Pass integers, for instance np.flatnonzero(condition)."
            )
        if rows.dtype == bool:
            if rows.shape != (adata.n_obs,):
                raise ValueError(f"Expected a mask of {adata.n_obs} cells, found shape {rows.shape}.")
            return np.flatnonzero(rows)
        rows = rows.astype(np.int64).ravel()
        if rows.size and (rows.min() < -adata.n_obs or rows.max() >= adata.n_obs):
            raise IndexError(f"Expected indices within {adata.n_obs} cells, found {rows.min()} to {rows.max()}.")
        return rows % adata.n_obs

    def _cells(
        self, adata: AnnData | None, indices: Sequence[int] | Sequence[bool] | None
    ) -> tuple[AnnData, NDArray[np.int64]]:
        """Validated data and the row numbers of the selected cells.

        Data that the model already knows are checked for changes, but only in the selected rows.
        """
        if adata is not None:
            check_kind(adata)
            adata = self._with_own_genes(adata)
        is_known = adata is None or _compat.is_registered(self, adata)
        adata = self._validate_anndata(adata)
        rows = self._rows(adata, indices)
        if is_known:  # unknown data were read just now and cannot have changed
            self._renew_if_changed(adata, None if indices is None else rows)
        return adata, rows

    @within_thread_limit()
    @torch.inference_mode()
    def _embed(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> tuple[AnnData, NDArray[np.int64], NDArray[np.float32]]:
        """Embed cells. Return the validated data, the row numbers and the embedding, which is finite."""
        adata, rows = self._cells(adata, indices)
        latent = np.empty((len(rows), self.module.n_latent), dtype=np.float32)
        for block, z in self._embedded(adata, rows, batch_size):
            latent[block] = z.cpu().numpy()
        check_finite(latent, adata.obs_names[rows], "embedding")
        return adata, rows, latent

    @within_thread_limit()
    @torch.inference_mode()
    def _infer(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> tuple[AnnData, NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Embed cells and assign the cells to clusters.

        Return the results of :meth:`_embed` and finite cluster probabilities ``(n, n_clusters)``.
        """
        adata, rows = self._cells(adata, indices)
        head = head_of(self.module)
        latent = np.empty((len(rows), self.module.n_latent), dtype=np.float32)
        probs = np.empty((len(rows), head.n_clusters), dtype=np.float32)
        for block, z in self._embedded(adata, rows, batch_size):
            latent[block] = z.cpu().numpy()
            probs[block] = head(z).softmax(dim=1).cpu().numpy()
        check_finite(latent, adata.obs_names[rows], "embedding")
        check_finite(probs, adata.obs_names[rows], "cluster probabilities")
        return adata, rows, latent, probs

    def _embedded(
        self, adata: AnnData, rows: NDArray[np.int64], batch_size: int | None
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Embed the cells in mini-batches. Each mini-batch comes with its slice of ``rows``."""
        self.module.eval()
        start = 0
        for tensors in self._batches(adata, rows, batch_size):
            z = self.module.inference(**self.module._get_inference_input(tensors))["z"]
            yield slice(start, start + len(z)), z
            start += len(z)

    def _batches(self, adata: AnnData, rows: NDArray[np.int64], batch_size: int | None) -> Iterator[dict[str, Any]]:
        """Mini-batches with the tensors that the embedding of the cells needs.

        The batches are formed on the GPU if the module is on the GPU and the data fit into its memory.
        """
        manager = self.get_anndata_manager(adata, required=True)
        device = self.module.device
        if batch_size is None:
            batch_size = max(settings.batch_size, MAX_BATCH if device.type == "cuda" else 0)
        # Copying all data to the GPU takes longer than it saves if only a few cells are embedded.
        held = 2 * len(rows) > adata.n_obs and not settings.dl_num_workers and fits_on(device, manager)
        with manager.on_device(device) if held else nullcontext():
            yield from self._make_data_loader(
                adata, indices=rows, batch_size=batch_size, data_and_attributes=view_keys(manager, "first")
            )

    @with_shared_descriptions
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Embed cells.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_batch_size_on_gpu)s

        Returns
        -------
        Embedding, float32 ``(n, n_latent)``.

        Raises
        ------
        RuntimeError
            If the model was not trained.
        """
        if self.module.head is None or not self.module.head.is_initialised:
            self._check_if_trained()
        return self._embed(adata, indices, batch_size)[2]

    @overload
    def predict(
        self,
        adata: Any = ...,
        indices: Any = ...,
        soft: Literal[False] = ...,
        batch_size: Any = ...,
        *,
        min_confidence: float | None = ...,
        max_out_of_reference: float | None = ...,
        unassigned_label: str = ...,
    ) -> pd.Series: ...
    @overload
    def predict(
        self,
        adata: Any = ...,
        indices: Any = ...,
        *,
        soft: Literal[True],
        batch_size: Any = ...,
        min_confidence: float | None = ...,
        max_out_of_reference: float | None = ...,
        unassigned_label: str = ...,
    ) -> pd.DataFrame: ...
    @overload
    def predict(
        self,
        adata: Any,
        indices: Any,
        soft: bool,
        batch_size: Any = ...,
        *,
        min_confidence: float | None = ...,
        max_out_of_reference: float | None = ...,
        unassigned_label: str = ...,
    ) -> pd.Series | pd.DataFrame: ...
    @with_shared_descriptions
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        *,
        min_confidence: float | None = None,
        max_out_of_reference: float | None = None,
        unassigned_label: str = UNASSIGNED,
    ) -> pd.Series | pd.DataFrame:
        """Assign cells to clusters.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        soft
            Return cluster probabilities instead of labels.
        %(param_batch_size_on_gpu)s
        min_confidence
            Limit for the highest cluster probability of a cell, such as 0.5. Cells below the limit are unassigned. By
            default all cells are assigned.
        max_out_of_reference
            Limit for the score of :meth:`get_out_of_reference_score`, such as 0.95. Cells above the limit are
            unassigned. By default all cells are assigned.
        unassigned_label
            Label of unassigned cells. The label is the last category, and exists only if one of the limits is given.

        Returns
        -------
        With ``soft=False``, a categorical :class:`pandas.Series` of strings with one category per cluster. The category
        ``"0"`` is the largest cluster of the training cells, unless :meth:`rename` gave other names. With
        ``soft=True``, a :class:`pandas.DataFrame` ``(n, n_clusters)`` of probabilities, where each row sums to 1. Both
        are indexed by ``obs_names``.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        ValueError
            If a limit is outside [0, 1] or given with ``soft=True``, or ``unassigned_label`` is the name of a cluster.
        """
        self._check_clusters()
        limits = {"min_confidence": min_confidence, "max_out_of_reference": max_out_of_reference}
        self._check_limits(limits, soft, unassigned_label)
        adata, rows, latent, probs = self._infer(adata, indices, batch_size)
        names = adata.obs_names[rows]
        if soft:
            return pd.DataFrame(probs, index=names, columns=self._cluster_names())
        labels = self._labels(probs)
        if min_confidence is not None or max_out_of_reference is not None:
            labels = labels.add_categories([unassigned_label])
            unsure = np.zeros(len(rows), dtype=bool)
            if min_confidence is not None:
                unsure |= probs.max(axis=1) < min_confidence
            if max_out_of_reference is not None:
                unsure |= self._novelty(latent) > max_out_of_reference
            labels[unsure] = unassigned_label
        return pd.Series(labels, index=names, name=DEFAULT_KEY)

    def _check_limits(self, limits: dict[str, float | None], soft: bool, unassigned_label: str) -> None:
        """Refuse limits outside [0, 1], limits with ``soft=True``, and a label that is the name of a cluster."""
        given = {name: value for name, value in limits.items() if value is not None}
        for name, value in given.items():
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}`: expected a number between 0 and 1, found {value}.")
        if given and soft:
            raise ValueError(
                f"Expected soft=False with {', '.join(given)}, found soft=True: probabilities leave no cell unassigned."
            )
        if given and unassigned_label in self._cluster_names():
            raise ValueError(
                f"`unassigned_label`: expected a name that no cluster has, found {unassigned_label!r}. Choose another."
            )

    def _labels(self, probs: NDArray[np.float32]) -> pd.Categorical:
        return pd.Categorical.from_codes(probs.argmax(axis=1), categories=self._cluster_names())

    @with_shared_descriptions
    def get_cluster_summary(self, adata: AnnData | None = None, batch_size: int | None = None) -> pd.DataFrame:
        """Describe the clusters by their sizes and by how surely the cells are assigned to them.

        Parameters
        ----------
        %(param_adata)s
        %(param_batch_size_on_gpu)s

        Returns
        -------
        One row per cluster, indexed by the name of the cluster, with the columns

        * ``size``: number of assigned cells;
        * ``proportion``: share of all cells that are assigned to the cluster;
        * ``mean_confidence``, ``min_confidence``: mean and minimum probability of the cluster among its assigned cells,
          NaN for a cluster without cells;
        * ``soft_proportion``: mean probability of the cluster over all cells;
        * ``marginal``: share of the cells that the optimal-transport target gave the cluster in training.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        """
        self._check_clusters()
        _, _, _, probs = self._infer(adata, None, batch_size)
        frame = pd.DataFrame({"cluster": self._labels(probs), "confidence": probs.max(axis=1)})
        groups = frame.groupby("cluster", observed=False)["confidence"]
        size = groups.size()
        summary = pd.DataFrame(
            {
                "size": size,
                "proportion": size / max(len(frame), 1),
                "mean_confidence": groups.mean(),
                "min_confidence": groups.min(),
            }
        )
        summary["soft_proportion"] = probs.mean(axis=0)
        summary["marginal"] = head_of(self.module).marginals.cpu().numpy()
        summary.index = pd.Index(self._cluster_names(), name="cluster")
        return summary

    @with_shared_descriptions
    def write_to_adata(
        self, adata: AnnData | None = None, key_added: str = DEFAULT_KEY, batch_size: int | None = None
    ) -> None:
        """Write embedding and clusters into an AnnData.

        Parameters
        ----------
        adata
            Data to annotate. The data may have additional genes, or the genes in another order. By default the method
            writes to the data of the model. If :func:`scsiameseclu.tl.cluster` or :meth:`load` made these data as a
            copy, the method also writes to the original, provided that the original still has the same cells.
        key_added
            Key of the labels in ``obs``. The keys of the other results are derived from this key.
        %(param_batch_size_on_gpu)s

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        ValueError
            If files cannot hold ``key_added`` (an empty key, a key with ``"/"``, or ``"_index"``), or the key already
            names something other than earlier results.

        Notes
        -----
        The method writes

        * ``obs[key_added]``: cluster of each cell, categorical of strings, without categories of empty clusters;
        * ``obs[f"{key_added}_confidence"]``: probability of the assigned cluster, float32. The probability says how
          sure the model is of the cluster. It does not say that the cluster is one cell type;
        * ``obsm[f"{key_added}_probs"]``: cluster probabilities, float32 ``(n_obs, n_clusters)``;
        * ``obsm[f"X_{key_added}"]``: embedding, float32 ``(n_obs, n_latent)``;
        * ``uns[key_added]``: settings under ``"params"``, and quality numbers;
        * the cell graph, as :func:`scsiameseclu.pp.neighbor_graph` writes it, if ``adata`` holds the cells of the
          reference.
        """
        self._check_clusters()
        targets = [self.adata, *self._originals()] if adata is None else [adata]
        for target in targets:
            check_key_added(target, key_added)
        adata, _, latent, probs = self._infer(adata, None, batch_size)
        labels = self._labels(probs).remove_unused_categories()
        confidence = probs.max(axis=1)
        adata.obs[key_added] = labels
        adata.obs[confidence_key(key_added)] = confidence
        adata.obsm[probs_key(key_added)] = probs
        adata.obsm[latent_key(key_added)] = latent
        adata.uns[key_added] = {
            "params": self._params(),
            "n_clusters": len(labels.categories),
            "mean_confidence": float(confidence.mean()),
            **self._quality(),
        }
        self.get_anndata_manager(adata, required=True).write_graph()
        for target in targets:
            if target is not adata:
                copy_results(adata, target, key_added)
