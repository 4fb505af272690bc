"""Embedding, clusters and their summary."""

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
    """What a trained model says about cells."""

    def _check_clusters(self) -> None:
        """Refuse to predict before the clusters exist."""
        if self.module.head is None or not self.module.head.is_initialised:
            raise RuntimeError("Expected a trained model, found one without clusters; call model.train() first.")

    def _rows(self, adata: AnnData, indices: Sequence[int] | Sequence[bool] | None) -> NDArray[np.int64]:
        """Row numbers from indices, a boolean mask, or None for all."""
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
        """Data that the model can read, and the rows asked for. Only the counts of these rows are looked at."""
        if adata is not None:
            check_kind(adata)
            adata = self._with_own_genes(adata)
        is_known = adata is None or _compat.is_registered(self, adata)
        adata = self._validate_anndata(adata)
        rows = self._rows(adata, indices)
        if is_known:  # new data were read just now
            self._renew_if_changed(adata, None if indices is None else rows)
        return adata, rows

    @within_thread_limit()
    @torch.inference_mode()
    def _embed(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> tuple[AnnData, NDArray[np.int64], NDArray[np.float32]]:
        """Embed cells: the validated data, row numbers and the embedding, all of it finite."""
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
        """Embed cells and assign them: as :meth:`_embed`, with finite cluster probabilities."""
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
        """Embedding of the cells batch by batch, with the places of the batch among the rows."""
        self.module.eval()
        start = 0
        for tensors in self._batches(adata, rows, batch_size):
            z = self.module.inference(**self.module._get_inference_input(tensors))["z"]
            yield slice(start, start + len(z)), z
            start += len(z)

    def _batches(self, adata: AnnData, rows: NDArray[np.int64], batch_size: int | None) -> Iterator[dict[str, Any]]:
        """What embedding the cells needs of them, batch by batch.

        Batches are formed on the GPU if the module is there and the data fit.
        """
        manager = self.get_anndata_manager(adata, required=True)
        device = self.module.device
        if batch_size is None:
            batch_size = max(settings.batch_size, MAX_BATCH if device.type == "cuda" else 0)
        # To copy all data for the sake of a few cells does not pay.
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
            Return probabilities instead of labels.
        %(param_batch_size_on_gpu)s
        min_confidence
            Leave cells whose highest probability is below this unassigned. By default all cells are assigned.
        max_out_of_reference
            Leave cells unassigned whose :meth:`get_out_of_reference_score` is above this, such as 0.95. By default all
            cells are assigned.
        unassigned_label
            Category of unassigned cells; it comes last, and is there only if one of the two limits is given.

        Returns
        -------
        ``soft=False``: categorical :class:`pandas.Series` of strings, one category per cluster, ``"0"`` the largest
        cluster of the training cells, or the names given by :meth:`rename`. ``soft=True``: :class:`pandas.DataFrame`
        ``(n, n_clusters)``, rows sum to 1. Both are indexed by ``obs_names``.

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
        """Refuse limits that cannot be meant."""
        given = {name: value for name, value in limits.items() if value is not None}
        for name, value in given.items():
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}`: expected a number between 0 and 1, found {value}.")
        if given and soft:
            raise ValueError(f"Expected soft=False with {', '.join(given)}: probabilities leave no cell unassigned.")
        if given and unassigned_label in self._cluster_names():
            raise ValueError(f"`unassigned_label`: expected another name than a cluster's, found {unassigned_label!r}.")

    def _labels(self, probs: NDArray[np.float32]) -> pd.Categorical:
        return pd.Categorical.from_codes(probs.argmax(axis=1), categories=self._cluster_names())

    @with_shared_descriptions
    def get_cluster_summary(self, adata: AnnData | None = None, batch_size: int | None = None) -> pd.DataFrame:
        """Describe the clusters.

        Parameters
        ----------
        %(param_adata)s
        %(param_batch_size_on_gpu)s

        Returns
        -------
        One row per cluster (index: its name) with ``size`` (cells), ``proportion`` (of the cells),
        ``mean_confidence`` and ``min_confidence`` (probability of the assigned cluster; NaN if empty),
        ``soft_proportion`` (mean probability over all cells) and ``marginal`` (mass the transport target was held to).

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
            Data to annotate, which may have further genes, or the genes in another order. By default the model's own,
            and the data that :func:`scsiameseclu.tl.cluster` or :meth:`load` made a copy of, if they have its cells.
        key_added
            Key of the labels.
        %(param_batch_size_on_gpu)s

        Notes
        -----
        Writes

        * ``obs[key_added]``: categorical of strings, clusters without a cell left out;
        * ``obs[f"{key_added}_confidence"]``: float32, probability of the assigned cluster, which says
          how sure the model is of the cluster, not that the cluster is one cell type;
        * ``obsm[f"{key_added}_probs"]``: float32 ``(n_obs, n_clusters)``;
        * ``obsm[f"X_{key_added}"]``: embedding, float32 ``(n_obs, n_latent)``;
        * ``uns[key_added]``: ``"params"`` and quality numbers, plain scalars;
        * if ``adata`` are the cells of the reference, their graph, as :func:`scsiameseclu.pp.neighbor_graph` does.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        ValueError
            If files cannot hold ``key_added`` (``"/"``, empty, ``"_index"``), or something else than earlier results
            has this name.
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
