"""Divide a cluster into smaller clusters."""

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
"""Arguments that are taken from the settings of the clusters, if the user does not give them."""


def subcluster(
    adata: AnnData,
    clusters: str | Sequence[str],
    n_clusters: int | Literal["auto"] = "auto",
    *,
    key: str = DEFAULT_KEY,
    key_added: str | None = None,
    **cluster_kwargs: Any,
) -> SCSiameseClu:
    """Cluster the cells of one cluster, or of several clusters together, by a new model.

    Highly variable genes are chosen among these cells only, and a new model is trained on these cells. So the model
    finds differences that are small compared with the differences between all cells. To divide a cluster by the tree of
    a trained model, without training, use :meth:`scsiameseclu.SCSiameseClu.split`.

    Parameters
    ----------
    adata
        Cells with raw counts and clusters.
    clusters
        Name of the cluster, or names of several clusters whose cells are clustered together.
    n_clusters
        Number of parts, at least 1. ``"auto"``: the number is estimated without labels, and may be 1.
    key
        Column of ``obs`` with the clusters.
    key_added
        Column of ``obs`` to write. ``None``: ``f"{key}_R"``, as with the argument ``restrict_to`` of scanpy.
    **cluster_kwargs
        Further arguments of :func:`~scsiameseclu.tl.cluster`. The default values of ``layer``, ``batch_key`` and
        ``use_rep`` are the settings in ``uns[key]``, with which the clusters were made.

    Returns
    -------
    SCSiameseClu
        The model of the parts. The clusters of the model have the names that are written to ``obs[key_added]``, so
        ``predict`` and ``tl.map`` return these names.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData.
    KeyError
        If ``key`` does not exist.
    ValueError
        If a cluster does not exist, or no cluster is given. Also as :func:`~scsiameseclu.tl.cluster`.

    Notes
    -----
    The function writes

    * ``obs[key_added]``, categorical. The parts of the cluster ``"3"`` are ``"3,0"``, ``"3,1"`` and so on. The parts of
      the clusters ``"1"`` and ``"3"`` together are ``"1-3,0"`` and so on. In the order of the categories, the parts
      replace the first divided cluster. Other cells keep their cluster.
    * ``obs[f"{key_added}_confidence"]``, float32, if there are confidences of ``key``. The confidence of a divided cell
      is the probability of its cluster times the probability of its part. Other cells keep their confidence.
    * ``uns[key_added]``: ``"params"``, with the settings of the model of the parts and ``"restricted_to"``, and quality
      numbers.

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
        logger.warning("Only one part was found in the %d cells of %s.", len(cells), ", ".join(wanted))
    model.rename({name: f"{whole},{name}" for name in model.get_cluster_summary().index})
    _write(adata, part, cells, labels, wanted, key, key_added)
    record = dict(part.uns[_PART_KEY])
    record["params"] = {**record["params"], "restricted_to": np.array(wanted)}
    record["n_clusters"] = len(adata.obs[key_added].cat.categories)
    adata.uns[key_added] = record
    return model


def _part(adata: AnnData, cells: NDArray[np.int64]) -> AnnData:
    """Copy some of the cells, without graphs and entries of ``uns`` that describe all cells."""
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
    """Write the labels and confidences of the parts.

    In the order of the categories, the parts replace the first divided cluster.
    """
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
