"""Differential expression between groups of cells, by the machinery of scvi-tools on our decoder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.pp._counts import row_chunks

CLUSTERS = "siamese_clusters"
_TARGET_SUM = 1e4


class DifferentialExpressionMixin(ModelProtocol):
    """Differential expression with scvi-tools' arguments and columns."""

    @with_shared_descriptions
    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: Sequence[str] | str | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | Sequence[bool] | str | None = None,
        idx2: Sequence[int] | Sequence[bool] | str | None = None,
        mode: Literal["vanilla", "change"] = "vanilla",
        delta: float = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        r"""Compare decoded expression between groups of cells, with the meaning of scvi-tools' method of the same name.

        Pairs of cells, one of each group, are drawn at random, and decoded expression is compared within the pairs. An
        embedding of this model has no posterior: probabilities say how cells of the groups differ, without what is
        uncertain about a single cell. Decoded expression varies less than counts, so that they are high. Groups that
        were found in the same expression differ by construction; order genes by the probabilities, and do not test with
        them whether clusters exist.

        Parameters
        ----------
        adata
            Cells to compare; the model's own by default. Nothing is written to them.
        groupby
            Column of ``obs`` with the groups. ``None``: the clusters of the model.
        group1, group2
            Groups to compare: every group of ``group1``, all by default, with ``group2``, the rest by default.
        idx1, idx2
            Instead of groups: rows, boolean masks or queries of ``obs``; ``idx2`` is the rest by default.
        mode
            ``"vanilla"``: the Bayes factor of expression being higher in one group. ``"change"``: the probability of a
            log2 fold change of at least ``delta``.
        delta
            Smallest change of interest, for ``mode="change"``.
        %(param_batch_size)s
        all_stats
            Add means and shares of the raw counts.
        batch_correction
            Decode every cell as of all batches (or the batches ``batchid1`` and ``batchid2``) instead of its own.
        batchid1, batchid2
            Batches to decode each of the groups as, with ``batch_correction``.
        fdr_target
            Expected share of false discoveries among the genes marked, for ``mode="change"``.
        silent
            Show no progress bar.
        **kwargs
            Further arguments of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`.

        Returns
        -------
        One row per gene and comparison, with the columns of scvi-tools, among them ``proba_m1``, ``bayes_factor``,
        ``scale1`` and ``scale2`` (``"vanilla"``) or ``proba_de``, ``lfc_mean`` and ``is_de_fdr_0.05`` (``"change"``);
        ``comparison``, ``group1`` and ``group2``; and, with ``all_stats``, ``raw_mean1``, ``non_zeros_proportion1``,
        ``raw_normalized_mean1`` (per 10,000 counts) and the same of the second group.

        Raises
        ------
        KeyError
            If ``obs`` has no column ``groupby``.
        ValueError
            If a group does not exist or has no cells, there is only one, or the model was trained without
            reconstruction.
        RuntimeError
            If the model has no clusters yet and no groups are given.

        Notes
        -----
        Lopez et al., Nature Methods 15:1053 (2018); Boyeau et al., PNAS 120:e2209124120 (2023). Cells are drawn from
        numpy's generator: set ``scvi.settings.seed`` to repeat a result.
        """
        self._check_decoder()
        given = self.adata if adata is None else adata
        adata = self._validate_anndata(adata)

        def expression(
            cells: AnnData, indices: NDArray[np.int64], transform_batch: Any, n_samples_overall: int
        ) -> NDArray[np.float32]:
            """Decoded expression of cells drawn with replacement, each decoded once."""
            drawn, places = np.unique(np.random.choice(indices, n_samples_overall), return_inverse=True)
            decoded = self.get_normalized_expression(
                cells, drawn, transform_batch, batch_size=batch_size, return_numpy=True
            )
            return decoded[places]

        idx1, idx2 = (_rows_of(given.obs, chosen) for chosen in (idx1, idx2))
        if "subset_idx" in kwargs:
            kwargs["subset_idx"] = _rows_of(given.obs, kwargs["subset_idx"])
        with self._grouped(adata, given.obs, groupby, idx1) as column:
            if idx1 is None:
                _check_groups(adata.obs[column], group1, group2)
            return _compat.compare_expression(
                self.get_anndata_manager(adata, required=True),
                expression,
                groupby=column,
                group1=group1,
                group2=group2,
                idx1=idx1,
                idx2=idx2,
                all_stats=all_stats,
                all_stats_fn=raw_statistics,
                col_names=self._rna(adata).var_names,
                mode=mode,
                batchid1=batchid1,
                batchid2=batchid2,
                delta=delta,
                batch_correction=batch_correction,
                fdr=fdr_target,
                silent=silent,
                **kwargs,
            )

    @contextmanager
    def _grouped(self, adata: AnnData, obs: pd.DataFrame, groupby: str | None, idx1: Any) -> Iterator[str | None]:
        """Column with the groups. The clusters of the model are in ``obs`` only while the block runs.

        ``obs`` is the table of the data as they were given, of which ``adata`` may be a copy.
        """
        if groupby is not None and groupby not in obs:
            raise KeyError(f"`groupby`: expected a column of adata.obs, found {groupby!r}. Available: {list(obs)}.")
        # Columns come and go in the table of the user: AnnData would copy a table that is put back.
        before, of_copy = set(adata.obs), None
        try:
            if groupby is None and idx1 is None:
                groupby = CLUSTERS
                adata.obs[CLUSTERS] = self.predict(adata).array
            elif groupby is not None and obs is not adata.obs:
                of_copy = adata.obs.get(groupby)
                adata.obs[groupby] = obs[groupby].array
            yield groupby
        finally:
            adata.obs.drop(columns=[name for name in adata.obs if name not in before], inplace=True)
            if of_copy is not None:
                adata.obs[groupby] = of_copy


def _rows_of(obs: pd.DataFrame, chosen: Any) -> Any:
    """Mask of the cells that a query of ``obs`` finds; rows and masks as they are."""
    return obs.index.isin(obs.query(chosen).index) if isinstance(chosen, str) else chosen


def _check_groups(column: pd.Series, group1: Sequence[str] | str | None, group2: str | None) -> None:
    """Refuse groups without a cell; comparing with them would fail far away."""
    wanted = [] if group1 is None else [group1] if isinstance(group1, str) else list(group1)
    present = column.dropna().unique().tolist()
    if unknown := [group for group in [*wanted, *([] if group2 is None else [group2])] if group not in present]:
        raise ValueError(f"obs[{column.name!r}]: expected groups among {present}, found {unknown}.")


def raw_statistics(
    manager: AnnDataManager, first: NDArray[Any], second: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Means of counts, shares of cells with a count, and means per 10,000 counts, of two groups of cells.

    Parameters
    ----------
    manager
        Data of a model.
    first, second
        Rows or masks of the groups.

    Returns
    -------
    Names as in scvi-tools: float64 ``(n_vars,)``.
    """
    counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    members = np.zeros((counts.shape[0], 2))
    members[first, 0], members[second, 1] = 1.0, 1.0
    sums = np.zeros((3, 2, counts.shape[1]))
    for rows, chunk in row_chunks(counts):
        block = sparse.csr_matrix(chunk, dtype=np.float64, copy=True)
        of_groups = members[rows].T
        sums[0] += of_groups @ block
        per_cell = np.asarray(block.sum(axis=1)).ravel()
        sums[2] += (of_groups * (_TARGET_SUM / np.maximum(per_cell, 1.0))) @ block
        block.data = (block.data > 0).astype(np.float64)
        sums[1] += of_groups @ block
    means = sums / members.sum(axis=0)[None, :, None]
    names = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
    return {f"{name}{group + 1}": means[i, group] for i, name in enumerate(names) for group in (0, 1)}
