"""Stability of clusters and cells over runs with different seeds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from scsiameseclu._keys import DEFAULT_KEY, check_key, consensus_key, probs_key, stability_key
from scsiameseclu.metrics._matching import contingency, match_groups
from scsiameseclu.tl._cluster import cluster
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["StabilityResult", "stability"]

logger = logging.getLogger(__name__)
_RUN_KEY = "siamese_clu_run"


@dataclass(frozen=True)
class StabilityResult:
    """Result of :func:`stability`.

    Attributes
    ----------
    labels
        Clusters of every run, categorical ``(n_obs, n_runs)``. Each cluster of a run has the name of the judged cluster
        that it was matched to. The value is missing for clusters that were not matched.
    ari
        Adjusted Rand index of every pair of runs, ``(n_runs, n_runs)``.
    cluster_stability
        Stability of each judged cluster, in ``[0, 1]``: the mean over the runs of its best Jaccard index. The index
        contains the names of the clusters.
    cell_stability
        Stability of each cell, in ``[0, 1]``: the share of runs in which the cell is in its judged cluster. The index
        is ``obs_names``.
    cell_means
        Mean of ``cell_stability`` over the cells of each judged cluster. The index contains the names of the clusters.
    consensus
        Judged cluster with the highest mean probability over the runs, categorical. The index is ``obs_names``.
    central_run
        Name of the run with the highest mean ARI to the other runs.
    """

    labels: pd.DataFrame
    ari: pd.DataFrame
    cluster_stability: pd.Series
    cell_stability: pd.Series
    cell_means: pd.Series
    consensus: pd.Series
    central_run: str


def stability(
    adata: AnnData,
    n_clusters: int | Literal["auto"] = "auto",
    seeds: Iterable[int] = range(5),
    *,
    key: str = DEFAULT_KEY,
    labels: pd.DataFrame | None = None,
    write_consensus: bool = False,
    **cluster_kwargs: Any,
) -> StabilityResult:
    r"""Judge the stability of clusters and cells by runs with different seeds. Known labels of cells are not used.

    The clusters in ``obs[key]`` are judged. If there is no such column, the clusters of the most central run are judged
    and written to ``obs[key]``. The most central run is the run with the highest mean ARI to the other runs. The
    clusters of every run are matched to the judged clusters one to one, so that they have the most cells in common
    (Hungarian method).

    * The stability of a cell is the share of runs in which the cell is in the same cluster.
    * The stability of a cluster :math:`C` is :math:`\operatorname{mean}_r \max_{D \in r} |C \cap D| / |C \cup D|`, the
      mean over the runs :math:`r` of the best Jaccard index with a cluster :math:`D` of the run. Hennig (2007) calls a
      cluster with a stability below 0.6 doubtful, and below 0.5 dissolved.

    A run is not compared with itself if its own clusters are judged. Memory grows with the number of cells times the
    number of clusters.

    Parameters
    ----------
    adata
        Cells with raw counts, as for :func:`~scsiameseclu.tl.cluster`. With ``labels``, counts are not needed.
    n_clusters
        Number of clusters of every run. ``"auto"``: each run estimates its own number of clusters.
    seeds
        Seeds of the runs, at least two. ``scvi.settings.seed`` is restored afterwards.
    key
        Column of ``obs`` with the clusters to judge. The names of the results begin with ``key``.
    labels
        Clusters of existing runs, one column per run, indexed by ``obs_names``. With ``labels``, nothing is trained,
        and ``n_clusters`` and ``seeds`` are ignored. ``None``: the runs are trained.
    write_consensus
        Whether to write the consensus clusters into ``obs``.
    **cluster_kwargs
        Further arguments of :func:`~scsiameseclu.tl.cluster` for every run, except ``key_added``.

    Returns
    -------
    StabilityResult
        Agreement of the runs, stability of clusters and cells, and consensus clusters.

    Raises
    ------
    ValueError
        If there are fewer than two different runs, or if ``labels`` or ``obs[key]`` have missing values or belong to
        other cells. Also as :func:`~scsiameseclu.tl.cluster`.
    TypeError
        If ``adata`` is not an AnnData, or ``key_added`` is given.

    Notes
    -----
    The function writes

    - ``obs[f"{key}_stability"]``: stability of the cells, float32;
    - ``uns[f"{key}_stability"]``: ``"params"``; ``"ari"``, float64 ``(n_runs, n_runs)``; ``"clusters"``, the names of
      the judged clusters; and ``"cluster_stability"``, float64 ``(n_clusters,)``;
    - ``obs[f"{key}_consensus"]``: consensus clusters, categorical, with ``write_consensus=True``.

    Source: Hennig, Cluster-wise assessment of cluster stability, Computational Statistics & Data Analysis 52:258
    (2007). Hennig resamples the cells. This function changes the seed instead.

    Examples
    --------
    >>> model = scsiameseclu.tl.cluster(adata, n_clusters=8)
    >>> result = scsiameseclu.tl.stability(adata, n_clusters=8, seeds=range(1, 4))
    >>> result.cluster_stability
    """
    check_anndata(adata, "cluster a MuData once per seed, and pass the AnnData of one modality with labels=...")
    if "key_added" in cluster_kwargs:
        raise TypeError("Expected no argument key_added, found one; name the column of the clusters with `key`.")
    check_key(key, "key")
    if labels is None:
        runs, names, probs = _train(adata, n_clusters, list(seeds), cluster_kwargs)
    else:
        runs, names = _given_runs(adata, labels)
        probs = [np.eye(codes.max() + 1, dtype=np.float32)[codes] for codes in runs]

    ari = np.eye(len(runs))
    for i, first in enumerate(runs):
        for j in range(i):
            ari[i, j] = ari[j, i] = adjusted_rand_score(first, runs[j])
    central = int(ari.sum(axis=0).argmax())
    if key in adata.obs:
        judged = _categorical(adata.obs[key], f"obs[{key!r}]")
        own = _source_of(adata, key)
        compared = [r for r, run in enumerate(runs) if names[r] != own or adjusted_rand_score(judged.codes, run) < 1.0]
    else:
        logger.info(
            "There is no column %r in obs: judging the clusters of the most central run, %s, and writing them to obs.",
            key,
            names[central],
        )
        judged = pd.Categorical.from_codes(runs[central], [str(i) for i in range(runs[central].max() + 1)])
        compared = [i for i in range(len(runs)) if i != central]

    codes, n_judged = judged.codes.astype(np.int64), len(judged.categories)
    aligned, overlap = [], np.zeros((len(runs), n_judged))
    mean_probs = np.zeros((adata.n_obs, n_judged), dtype=np.float32)
    for r, (run, soft) in enumerate(zip(runs, probs, strict=True)):
        counts = contingency(codes, run, n_judged, soft.shape[1])
        overlap[r] = (counts / (counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts)).max(axis=1)
        used = np.flatnonzero(counts.sum(axis=0))  # a run may have clusters without cells
        rows, columns = match_groups(counts[:, used])
        new_code = np.full(soft.shape[1], -1)
        new_code[used[columns]] = rows
        aligned.append(new_code[run])
        mean_probs[:, rows] += soft[:, used[columns]] / len(runs)

    agreement = np.mean([aligned[r] == codes for r in compared], axis=0).astype(np.float32)
    # If no matched cluster has any probability for a cell, the cell keeps its judged cluster.
    winner = np.where(mean_probs.max(axis=1) > 0, mean_probs.argmax(axis=1), codes)
    categories = judged.categories
    result = StabilityResult(
        labels=pd.DataFrame(
            {name: pd.Categorical.from_codes(run, categories) for name, run in zip(names, aligned, strict=True)},
            index=adata.obs_names,
        ),
        ari=pd.DataFrame(ari, index=names, columns=names),
        cluster_stability=pd.Series(overlap[compared].mean(axis=0), index=categories, name="stability"),
        cell_stability=pd.Series(agreement, index=adata.obs_names, name=stability_key(key)),
        cell_means=pd.Series(
            np.bincount(codes, weights=agreement) / np.bincount(codes), index=categories, name="mean cell stability"
        ),
        consensus=pd.Series(
            pd.Categorical.from_codes(winner, categories).remove_unused_categories(),
            index=adata.obs_names,
            name=consensus_key(key),
        ),
        central_run=names[central],
    )
    _write(adata, result, judged, key, write_consensus)
    return result


def _write(adata: AnnData, result: StabilityResult, judged: pd.Categorical, key: str, write_consensus: bool) -> None:
    source = _source_of(adata, key)
    if key not in adata.obs:
        adata.obs[key] = judged
        source = result.central_run
    adata.obs[stability_key(key)] = result.cell_stability.to_numpy()
    if write_consensus:
        adata.obs[consensus_key(key)] = result.consensus.array
    adata.uns[stability_key(key)] = {
        # The run that the judged clusters come from is recorded, so that the run is never compared with itself.
        "params": {"n_runs": len(result.ari), "central_run": result.central_run, "judged_run": source},
        "ari": result.ari.to_numpy(),
        "clusters": result.cluster_stability.index.to_numpy(dtype=str),
        "cluster_stability": result.cluster_stability.to_numpy(),
    }


def _source_of(adata: AnnData, key: str) -> str:
    """Name of the run that the clusters in ``obs[key]`` come from; empty if the run is not recorded."""
    judged = adata.uns.get(stability_key(key), {}).get("params", {}).get("judged_run", "")
    seed = adata.uns.get(key, {}).get("params", {}).get("seed")
    return judged or ("" if seed is None else f"seed {int(seed)}")


def _train(
    adata: AnnData, n_clusters: int | Literal["auto"], seeds: list[int], cluster_kwargs: dict[str, Any]
) -> tuple[list[NDArray[np.int64]], list[str], list[NDArray[np.float32]]]:
    """Train one run per seed on a copy of the cells.

    Returns
    -------
    tuple of list
        Cluster codes of the cells, name, and cluster probabilities of each run.
    """
    from scvi import settings

    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected at least two different seeds, found {seeds}; runs with the same seed are equal.")
    cells, before = adata.copy(), settings.seed
    runs, probs = [], []
    try:
        for seed in seeds:
            settings.seed = seed
            cluster(cells, n_clusters, _RUN_KEY, **cluster_kwargs)
            soft = np.asarray(cells.obsm[probs_key(_RUN_KEY)])
            runs.append(soft.argmax(axis=1).astype(np.int64))
            probs.append(soft.copy())
    finally:
        settings.seed = before
    return runs, [f"seed {seed}" for seed in seeds], probs


def _given_runs(adata: AnnData, labels: pd.DataFrame) -> tuple[list[NDArray[np.int64]], list[str]]:
    if not isinstance(labels, pd.DataFrame) or labels.shape[1] < 2:
        raise ValueError(
            f"Expected labels as a DataFrame with a column for each of at least two runs, found "
            f"{type(labels).__name__} of shape {np.shape(labels)}."
        )
    if not labels.index.equals(adata.obs_names):
        raise ValueError(
            f"Expected labels indexed by obs_names, found other cells or another order ({len(labels)} rows, "
            f"{adata.n_obs} cells); reindex the labels with adata.obs_names."
        )
    columns: Sequence[Any] = list(labels.columns)
    runs = [_categorical(labels.iloc[:, i], f"labels[{name!r}]") for i, name in enumerate(columns)]
    return [run.codes.astype(np.int64) for run in runs], [str(name) for name in columns]


def _categorical(values: Any, name: str) -> pd.Categorical:
    """Clusters as a categorical of strings, in the order of the categories."""
    clusters = pd.Categorical(values).remove_unused_categories()
    if missing := int((clusters.codes < 0).sum()):
        raise ValueError(
            f"Expected a cluster for every cell in {name}, found {missing} cells without a cluster; fill in the "
            "missing values."
        )
    return clusters.rename_categories(clusters.categories.astype(str))
