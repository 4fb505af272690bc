"""The data of a report, which are read once from a model and its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scsiameseclu._keys import confidence_key, latent_key, out_of_reference_key, stability_key
from scsiameseclu.pp._counts import get_counts, row_chunks

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray

    from scsiameseclu.model import SCSiameseClu

KEY = "cluster"
"""Name of the clusters in the AnnData that pictures and marker genes are computed from."""
UNCERTAIN = 0.5
"""A cell is uncertain if the probability of its cluster is below this value."""
MAX_SHOWN = 20_000
"""Largest number of cells that pictures and marker genes are computed from. More cells are sampled."""


@dataclass(frozen=True)
class Cells:
    """The cells of a report.

    Attributes
    ----------
    obs
        Columns of the user, one row per cell.
    clusters
        Cluster of each cell. Each cluster of the model is a category, even if it has no cells.
    probabilities
        Probabilities of the clusters, float32 ``(n_obs, n_clusters)``.
    n_counts, n_genes
        Total counts of each cell, and number of genes with a count in each cell, ``(n_obs,)``.
    n_vars
        Number of genes of the data.
    out_of_reference
        Out-of-reference score of each cell, ``(n_obs,)``, or ``None`` if the model cannot compute scores.
    cluster_stability
        Stability of the clusters by name, or ``None`` if the stability of these clusters was not measured.
    shown
        Cells that pictures and marker genes are computed from. The AnnData contains counts, the embedding, clusters in
        ``obs["cluster"]``, confidences, and, if available, stability and out-of-reference scores. The AnnData is a copy
        and may be changed.
    """

    obs: pd.DataFrame
    clusters: pd.Categorical
    probabilities: NDArray[np.float32]
    n_counts: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    n_vars: int
    out_of_reference: NDArray[np.float32] | None
    cluster_stability: pd.Series | None
    shown: AnnData

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of each cell's own cluster, float32 ``(n_obs,)``."""
        return self.probabilities.max(axis=1)

    @property
    def names(self) -> list[str]:
        """Name of every cluster."""
        return [str(name) for name in self.clusters.categories]

    @property
    def sizes(self) -> pd.Series:
        """Number of cells of every cluster, by name."""
        return pd.Series(np.bincount(self.clusters.codes, minlength=len(self.names)), index=self.names)


def read_cells(model: SCSiameseClu, adata: AnnData | MuData | None, key: str) -> Cells:
    """Read the cells of a model.

    Parameters
    ----------
    model
        A trained model with its data.
    adata
        The same cells with other genes or columns, which are shown instead of the data of the model. ``None``: the data
        of the model.
    key
        Name of the results in ``obs``, to look up the stability of the clusters.

    Raises
    ------
    ValueError
        If ``adata`` has other cells than the model, or the model has no data.
    """
    own, _, latent, probabilities = model._infer(None, None, None)
    if probabilities is None:
        raise RuntimeError("Expected cluster probabilities, found none; this is a bug.")
    data = own if adata is None else adata
    if not data.obs_names.equals(own.obs_names):
        raise ValueError(
            f"Expected adata with the {own.n_obs} cells of the model in the same order, found {data.n_obs} cells that "
            "differ. Map other cells with tl.map(adata, model), and report the model that tl.map returns."
        )
    setup = model.registry["setup_args"]
    rna, layer = model._rna(data), setup.get("layer", setup.get("rna_layer"))
    counts = get_counts(rna, layer)
    n_counts, n_genes = _depth(counts)
    clusters = model._labels(probabilities)
    stability, cluster_stability = _stability(data, clusters, key)
    rows = np.arange(own.n_obs)
    if len(rows) > MAX_SHOWN:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_SHOWN, replace=False))
    score = _out_of_reference(model, latent)
    of_cells = {KEY: clusters, confidence_key(KEY): probabilities.max(axis=1)}
    of_cells |= {} if stability is None else {stability_key(KEY): stability}
    of_cells |= {} if score is None else {out_of_reference_key(KEY): score}
    shown = AnnData(
        _rows(counts, rows),
        obs=pd.DataFrame(of_cells, index=own.obs_names).iloc[rows],
        var=pd.DataFrame(index=rna.var_names.copy()),
        obsm={latent_key(KEY): latent[rows]},
    )
    shown.obs_names_make_unique()
    shown.var_names_make_unique()
    return Cells(
        data.obs, clusters, probabilities, n_counts, n_genes, rna.n_vars, score, cluster_stability, shown
    )  # fmt: skip


def _depth(counts: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Total counts of each cell, and number of genes with a count in each cell."""
    n_counts, n_genes = np.zeros(counts.shape[0]), np.zeros(counts.shape[0], dtype=np.int64)
    for rows, block in row_chunks(counts):
        n_counts[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        n_genes[rows] = np.asarray((block > 0).sum(axis=1)).ravel()
    return n_counts, n_genes


def _rows(counts: Any, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    blocks = [sparse.csr_matrix(block, dtype=np.float32) for _, block in row_chunks(counts, rows=rows)]
    return sparse.vstack(blocks, format="csr")


def _out_of_reference(model: SCSiameseClu, latent: NDArray[np.float32]) -> NDArray[np.float32] | None:
    try:
        return model._novelty(latent)
    except RuntimeError:  # the model was saved without landmarks, or its weights have changed
        return None


def _stability(
    data: AnnData | MuData, clusters: pd.Categorical, key: str
) -> tuple[NDArray[np.float64] | None, pd.Series | None]:
    """Stability of cells and of clusters that ``tl.stability`` wrote, or None if it judged other clusters."""
    column, record = data.obs.get(stability_key(key)), data.uns.get(stability_key(key))
    judged = data.obs.get(key)
    if column is None or record is None or judged is None:
        return None, None
    if not np.array_equal(np.asarray(judged, dtype=str), np.asarray(clusters, dtype=str)):
        return None, None
    of_clusters = pd.Series(record["cluster_stability"], index=[str(name) for name in record["clusters"]])
    return column.to_numpy(dtype=float), of_clusters
