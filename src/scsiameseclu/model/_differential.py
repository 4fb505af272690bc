"""Differential expression between groups of cells: the method of scvi-tools on decoded expression of this model."""

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
from scsiameseclu._keys import TARGET_SUM
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.pp._counts import row_chunks

CLUSTERS = "siamese_clusters"


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
        r"""Compare decoded expression between groups of cells, like the method of the same name in scvi-tools.

        The method draws random pairs of cells, one cell from each group, and compares decoded expression within each
        pair. The embedding of this model has no posterior. The probabilities therefore describe how the cells of the
        groups differ, and leave out the uncertainty about a single cell. Decoded expression varies less than counts,
        so the probabilities tend to be high. Clusters that were found in the same expression data differ by
        construction. Use the probabilities to rank genes, not to test whether clusters exist.

        Parameters
        ----------
        adata
            Cells to compare. By default the cells of the model. The method does not change them.
        groupby
            Column of ``obs`` with the groups. With ``None``, the groups are the clusters of the model.
        group1
            Groups to compare with ``group2``, one after the other. By default every group.
        group2
            Group to compare with. By default all cells outside the group of ``group1``.
        idx1, idx2
            Cells to compare, in place of groups: row numbers, a boolean mask or a query of ``obs``. By default ``idx2``
            is all cells outside ``idx1``.
        mode
            ``"vanilla"``: compute the Bayes factor of expression being higher in one group. ``"change"``: compute the
            probability of a log2 fold change of at least ``delta``.
        delta
            Smallest log2 fold change of interest, for ``mode="change"``.
        %(param_batch_size)s
        all_stats
            Add means of the raw counts, and shares of cells with a count.
        batch_correction
            Decode every cell as if it came from each batch, or from the batches ``batchid1`` and ``batchid2``. By
            default every cell is decoded in its own batch.
        batchid1, batchid2
            Batches in which the cells of the first and the second group are decoded, for ``batch_correction=True``.
        fdr_target
            Expected share of false discoveries among the genes marked as differentially expressed, for
            ``mode="change"``.
        silent
            Show no progress bar.
        **kwargs
            Further arguments of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`.

        Returns
        -------
        One row per gene and comparison, with the columns of scvi-tools. ``mode="vanilla"`` gives, among others,
        ``proba_m1``, ``bayes_factor``, ``scale1`` and ``scale2``. ``mode="change"`` gives, among others, ``proba_de``,
        ``lfc_mean`` and ``is_de_fdr_0.05``. Both modes give ``comparison``, ``group1`` and ``group2``. ``all_stats``
        adds ``raw_mean1``, ``non_zeros_proportion1`` and ``raw_normalized_mean1`` (per 10,000 counts), and the same
        three columns for the second group.

        Raises
        ------
        KeyError
            If ``obs`` has no column ``groupby``.
        ValueError
            If a group does not exist or has no cells, there is only one group, or the model was trained without
            reconstruction.
        RuntimeError
            If no groups are given and the model has no clusters yet.

        Notes
        -----
        Sources: Lopez et al., Nature Methods 15:1053 (2018); Boyeau et al., PNAS 120:e2209124120 (2023). The cells are
        drawn from numpy's random generator. Set ``scvi.settings.seed`` to get the same result again.
        """
        self._check_decoder()
        given = self.adata if adata is None else adata
        adata = self._validate_anndata(adata)

        def expression(
            cells: AnnData, indices: NDArray[np.int64], transform_batch: Any, n_samples_overall: int
        ) -> NDArray[np.float32]:
            """Decoded expression of cells drawn with replacement. Each drawn cell is decoded once."""
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
        """Give the name of the column with the groups.

        Clusters of the model are in ``adata.obs`` only while the ``with`` block runs. ``obs`` is the table of the data
        that the user passed. ``adata`` may be a copy of these data.
        """
        if groupby is not None and groupby not in obs:
            raise KeyError(f"`groupby`: expected a column of adata.obs, found {groupby!r}. Available: {list(obs)}.")
        # The columns are added to and removed from the existing table. Assigning a table to adata.obs would copy it.
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
    """Mask of the cells that a query of ``obs`` finds. Row numbers and masks are returned unchanged."""
    return obs.index.isin(obs.query(chosen).index) if isinstance(chosen, str) else chosen


def _check_groups(column: pd.Series, group1: Sequence[str] | str | None, group2: str | None) -> None:
    """Refuse groups without a cell. Without this check the error message would come from deep inside scvi-tools."""
    wanted = [] if group1 is None else [group1] if isinstance(group1, str) else list(group1)
    present = column.dropna().unique().tolist()
    if unknown := [group for group in [*wanted, *([] if group2 is None else [group2])] if group not in present]:
        raise ValueError(f"obs[{column.name!r}]: expected groups among {present}, found {unknown}.")


def raw_statistics(
    manager: AnnDataManager, first: NDArray[Any], second: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Summarise the raw counts of two groups of cells, gene by gene.

    Parameters
    ----------
    manager
        Data manager of a model.
    first, second
        Row numbers or masks of the cells of the two groups.

    Returns
    -------
    Arrays of float64, shape ``(n_vars,)``, by name. The names are those of scvi-tools: the mean count (``raw_mean``),
    the share of cells with a count (``non_zeros_proportion``) and the mean per 10,000 counts
    (``raw_normalized_mean``), each followed by the number of the group, 1 or 2.
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
        sums[2] += (of_groups * (TARGET_SUM / np.maximum(per_cell, 1.0))) @ block
        block.data = (block.data > 0).astype(np.float64)
        sums[1] += of_groups @ block
    means = sums / members.sum(axis=0)[None, :, None]
    names = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
    return {f"{name}{group + 1}": means[i, group] for i, name in enumerate(names) for group in (0, 1)}
