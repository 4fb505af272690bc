"""Clusters within a cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scsiameseclu._keys import DEFAULT_KEY, check_key_added, confidence_key
from scsiameseclu.tl._cluster import cluster as cluster_cells
from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scsiameseclu.model import SCSiameseClu

__all__ = ["subcluster"]

logger = logging.getLogger(__name__)
_PART_KEY = "siamese_clu_part"
_FOLLOWED = ("layer", "batch_key", "use_rep")
"""Settings of the clusters that their parts are made with, unless told otherwise."""


def subcluster(
    adata: AnnData,
    clusters: str | Sequence[str],
    n_clusters: int | Literal["auto"] = "auto",
    *,
    key: str = DEFAULT_KEY,
    key_added: str | None = None,
    **cluster_kwargs: Any,
) -> SCSiameseClu:
    """Cluster the cells of one cluster, or of several together, by a model of their own.

    The genes that vary among these cells are chosen anew, and a model is trained on them alone, so that differences
    show which are small next to those between all cells. To divide a cluster where the tree of a trained model divides
    it, without training, use :meth:`scsiameseclu.SCSiameseClu.split`.

    Parameters
    ----------
    adata
        Cells with raw counts and clusters.
    clusters
        Name of the cluster, or names of clusters whose cells are taken together.
    n_clusters
        Number of parts, at least 1; ``"auto"`` estimates it without labels and may answer 1.
    key
        Column of ``obs`` with the clusters.
    key_added
        Column of ``obs`` to write. ``None``: ``f"{key}_R"``, as scanpy's ``restrict_to`` does.
    **cluster_kwargs
        Further arguments of :func:`~scsiameseclu.tl.cluster`. ``layer``, ``batch_key`` and ``use_rep`` are by default
        those that ``uns[key]`` says the clusters were made with.

    Returns
    -------
    The model of the parts. Its clusters have the names that were written: ``predict`` and ``tl.map`` use them.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If ``key`` does not exist.
    ValueError
        If a cluster does not exist, none is given, and as :func:`~scsiameseclu.tl.cluster`.

    Notes
    -----
    Writes

    * ``obs[key_added]``, categorical: ``"3,0"``, ``"3,1"`` and so on for the parts of ``"3"``, which stand at its
      place, ``"1-3,0"`` for those of ``"1"`` and ``"3"``; other cells keep their cluster;
    * ``obs[f"{key_added}_confidence"]``, float32, if there are confidences of ``key``: the probability of the cluster
      times that of the part within it; other cells keep theirs;
    * ``uns[key_added]``: ``"params"``, those of the model of the parts and ``"restricted_to"``, and quality numbers.

    Examples
    --------
    >>> scsiameseclu.tl.cluster(adata)
    >>> part = scsiameseclu.tl.subcluster(adata, "3")
    >>> adata.obs["siamese_clu_R"].value_counts()
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    if key not in adata.obs:
        raise KeyError(f"Expected clusters in obs[{key!r}], found {list(adata.obs.columns)}.")
    key_added = f"{key}_R" if key_added is None else key_added
    check_key_added(adata, key_added)
    wanted = [clusters] if isinstance(clusters, str) else [str(name) for name in clusters]
    labels = adata.obs[key].astype("category").cat.rename_categories(str)
    names = list(labels.cat.categories)
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"obs[{key!r}]: expected clusters among {names}, found {unknown}.")
    if not wanted:
        raise ValueError("Expected the name of at least one cluster, found none.")
    cells = np.flatnonzero(labels.isin(wanted))
    part = _part(adata, cells)
    params = dict(adata.uns.get(key, {}).get("params", {}))
    options = {name: params[name] for name in _FOLLOWED if name in params} | cluster_kwargs
    logger.info("Clustering %d cells of %s.", len(cells), ", ".join(wanted))
    model = cluster_cells(part, n_clusters, _PART_KEY, **options)
    whole = "-".join(wanted)
    if len(part.obs[_PART_KEY].cat.categories) < 2:
        logger.warning("The %d cells of %s are one population: nothing was divided.", len(cells), ", ".join(wanted))
    model.rename({name: f"{whole},{name}" for name in model.get_cluster_summary().index})
    _write(adata, part, cells, labels, wanted, key, key_added)
    record = dict(part.uns[_PART_KEY])
    record["params"] = {**record["params"], "restricted_to": np.array(wanted)}
    record["n_clusters"] = len(adata.obs[key_added].cat.categories)
    adata.uns[key_added] = record
    return model


def _part(adata: AnnData, cells: NDArray[np.int64]) -> AnnData:
    """Some cells as an object of their own, without the graphs of all cells."""
    part = adata[cells].copy()
    for name in list(part.obsp):
        del part.obsp[name]
    part.uns.clear()
    return part


def _write(
    adata: AnnData,
    part: AnnData,
    cells: NDArray[np.int64],
    labels: pd.Series,
    wanted: Sequence[str],
    key: str,
    key_added: str,
) -> None:
    """Write the labels of the parts, at the place of the first cluster they divide, and the confidences."""
    names, whole = list(labels.cat.categories), "-".join(wanted)
    of_part = [f"{whole},{name}" for name in part.obs[_PART_KEY].cat.categories]
    first = next(at for at, name in enumerate(names) if name in wanted)
    order = [*names[:first], *of_part, *(name for name in names[first:] if name not in wanted)]
    values = labels.astype(object).to_numpy(copy=True)
    values[cells] = [f"{whole},{name}" for name in part.obs[_PART_KEY]]
    adata.obs[key_added] = pd.Categorical(values, order)
    if confidence_key(key) in adata.obs:
        confidence = adata.obs[confidence_key(key)].to_numpy(dtype=np.float32, copy=True)
        confidence[cells] *= part.obs[confidence_key(_PART_KEY)].to_numpy(dtype=np.float32)
        adata.obs[confidence_key(key_added)] = confidence
