"""Assign cell types to clusters by lists of marker genes."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scsiameseclu._keys import DEFAULT_KEY, UNASSIGNED, check_key, type_key
from scsiameseclu.datasets import marker_sets
from scsiameseclu.pp import check_counts
from scsiameseclu.pp._counts import get_counts, where_counts_are
from scsiameseclu.tl._input import CLUSTERS_OF_MUDATA, check_anndata
from scsiameseclu.tl._marker_scores import marker_expression, mixed_with, type_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scsiameseclu.datasets._markers import Organism

__all__ = ["annotate"]

logger = logging.getLogger(__name__)


def annotate(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]] | str,
    groupby: str = DEFAULT_KEY,
    *,
    organism: Organism = "human",
    layer: str | None = None,
    normalize: bool = True,
    gene_symbols: str | None = None,
    min_score: float = 0.25,
    min_margin: float = 0.1,
    key_added: str | None = None,
) -> pd.DataFrame:
    r"""Assign cell types to clusters by the expression of marker genes. Known labels of cells are not used.

    Let :math:`\mu_{kg}` be the mean log-normalised expression of gene :math:`g` in cluster :math:`k` of :math:`K`
    clusters. The score of a type :math:`t` with marker genes :math:`M` in cluster :math:`k` is

    .. math:: s_{kt} = \frac{1}{|M|} \sum_{g \in M} \frac{\mu_{kg} - \bar\mu_g}{\sigma_g},

    where :math:`\bar\mu_g` and :math:`\sigma_g` are the mean and the standard deviation of the gene over all cells. All
    clusters have the same weight in both, so the sizes of the clusters do not matter. A marker gene without noise that
    only one cluster expresses contributes :math:`\sqrt{K - 1}`. A gene that is no marker contributes about 0.

    A cluster gets the type with the highest score. The cluster is ``"unassigned"`` if this score, or its difference to
    the second-highest score, is too small. Several clusters may get the same type.

    A cluster is "mixed" if some of its cells seem to be of a second type: these cells express the markers of the second
    type instead of the markers of the best type. A mixed cluster meets two conditions. First, the scores of the two
    types have a correlation of at most -0.35 over the cells of the cluster. Second, the second type has the higher
    score in at least 10 % of the cells, and in at least three cells.

    Parameters
    ----------
    adata
        Cells with raw counts and clusters. Only ``obs`` and ``uns`` are changed.
    markers
        Lists of marker genes by cell type, or the name of a bundled set of markers: ``"blood"``, ``"brain"``,
        ``"immune"``, ``"kidney"`` or ``"pancreas"`` (see :func:`~scsiameseclu.datasets.marker_sets`). Genes that are
        not in the data are left out. If the lists are given by the user, a warning names these genes.
    groupby
        Column of ``obs`` with at least two clusters. Cells without a cluster stay unassigned.
    organism
        Organism of the gene symbols of a bundled set: ``"human"`` or ``"mouse"``.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Whether to scale every cell to 10,000 counts and take ``log1p``. Pass ``False`` if the values are already
        log-normalised.
    gene_symbols
        Column of ``var`` with the names of the genes in ``markers``. ``None``: ``var_names``.
    min_score
        Smallest score with which a cluster gets a type.
    min_margin
        Smallest difference between the highest and the second-highest score with which a cluster gets a type.
    key_added
        Column of ``obs`` to write. ``None``: ``f"{groupby}_type"``.

    Returns
    -------
    pandas.DataFrame
        One row per cluster, with the columns

        - ``cluster``: name of the cluster;
        - ``type``: assigned type, or ``"unassigned"``;
        - ``best`` and ``score``: type with the highest score, and this score;
        - ``runner_up`` and ``runner_up_score``: type with the second-highest score, and this score. With only one type,
          this type and 0;
        - ``margin``: difference between the two scores;
        - ``mixed`` and ``mixed_with``: whether the cluster is mixed, and its second type or ``""``;
        - ``n_markers``: number of genes in the score of the best type.

    Raises
    ------
    KeyError
        If ``groupby``, ``layer`` or ``gene_symbols`` does not exist.
    TypeError
        If ``adata`` is not an AnnData, or the markers of a type are a string instead of a list of strings.
    ValueError
        If there is no bundled set of this name, if there are no types, if a type of the user has no gene in the data or
        is called ``"unassigned"``, if a marker occurs twice in the data, if there are fewer than two clusters, or if
        the values are not counts.

    Warns
    -----
    UserWarning
        If markers of the user are not in the data. The warning lists these markers. Also if values are not whole
        numbers and ``normalize=True``.

    Notes
    -----
    With few markers per type, a score depends more on chance. On the 700 cells of
    :func:`~scsiameseclu.datasets.pbmc68k_reduced`, with seven clusters and seven lists of random genes, 42 % of the
    clusters got a type with 3 genes per list, 16 % with 10 genes and 6 % with 20 genes. Raise ``min_score`` for short
    lists.

    The function writes

    - ``obs[key_added]``: types, categorical, in the order of ``markers``, with ``"unassigned"`` last;
    - ``uns[key_added]``: ``"params"``; ``"scores"`` (float64, clusters x types); ``"clusters"`` and ``"types"``, the
      names of the rows and columns of the scores; and, for each cluster, ``"best"``, ``"runner_up"``, ``"margin"``
      (float64) and ``"mixed_with"``.

    Examples
    --------
    >>> adata = scsiameseclu.datasets.pbmc68k_reduced()
    >>> scsiameseclu.tl.cluster(adata)
    >>> scsiameseclu.tl.annotate(adata, {"B cell": ["CD79A", "MS4A1"], "T cell": ["CD3D", "CD3E"]})
    >>> scsiameseclu.tl.annotate(adata, "blood")
    """
    check_anndata(adata, CLUSTERS_OF_MUDATA)
    key_added = type_key(groupby) if key_added is None else key_added
    check_key(key_added)
    clusters = _clusters(adata, groupby)
    gene_names = _gene_names(adata, gene_symbols)
    if isinstance(markers, str):
        markers = bundled_markers(markers, organism, gene_names)
    genes = _find_genes(gene_names, markers)
    matrix = get_counts(adata, layer)
    if normalize:
        check_counts(matrix, adata.obs_names, adata.var_names, advice=lambda: where_counts_are(adata))

    used = np.unique(np.concatenate(list(genes.values())))
    codes = clusters.codes.astype(np.int64)
    expression = marker_expression(matrix, used, codes, len(clusters.categories), normalize)
    scores, n_markers = type_scores(expression, genes)
    table = _table(scores, n_markers, mixed_with(expression, genes, scores.argmax(axis=1)), np.array(list(genes)))
    table.insert(0, "cluster", clusters.categories.astype(str))
    named = (table["score"] >= min_score) & (table["margin"] >= min_margin)
    table.insert(1, "type", table["best"].where(named, UNASSIGNED))

    of_cell = np.append(table["type"], UNASSIGNED)[codes]  # cells without a cluster have code -1: the last entry
    present = set(of_cell)
    adata.obs[key_added] = pd.Categorical(of_cell, [each for each in (*genes, UNASSIGNED) if each in present])
    params = {"groupby": groupby, "min_score": min_score, "min_margin": min_margin, "normalize": normalize}
    adata.uns[key_added] = {
        "params": params | ({} if layer is None else {"layer": layer}),
        "scores": scores,
        "clusters": table["cluster"].to_numpy(str),
        "types": np.array(list(genes)),
        "margin": table["margin"].to_numpy(),
        **{column: table[column].to_numpy(str) for column in ("best", "runner_up", "mixed_with")},
    }
    return table


def _table(
    scores: NDArray[np.float64], n_markers: NDArray[np.int64], mixed: NDArray[np.int64], types: NDArray[np.str_]
) -> pd.DataFrame:
    """Table of the two best types of each cluster. ``mixed``: number of the second type of a mixed cluster, or -1."""
    order = np.argsort(-scores, axis=1, kind="stable")
    best, runner_up = order[:, 0], order[:, min(1, len(types) - 1)]
    rows = np.arange(len(scores))
    first = scores[rows, best]
    second = scores[rows, runner_up] if len(types) > 1 else np.zeros(len(scores))
    columns = {
        "best": types[best].astype(object),
        "score": first,
        "runner_up": types[runner_up].astype(object),
        "runner_up_score": second,
        "margin": first - second,
        "mixed": mixed >= 0,
        "mixed_with": np.where(mixed >= 0, types[mixed], "").astype(object),
        "n_markers": n_markers[best],
    }
    return pd.DataFrame(columns)


def _clusters(adata: AnnData, groupby: str) -> pd.Categorical:
    if groupby not in adata.obs:
        raise KeyError(
            f"`groupby`: expected a column of adata.obs, found {groupby!r}. Available: {list(adata.obs.columns)}."
        )
    clusters = pd.Categorical(adata.obs[groupby]).remove_unused_categories()
    if len(clusters.categories) < 2:
        raise ValueError(
            f"Expected at least two clusters in obs[{groupby!r}], found {len(clusters.categories)}; "
            "scores compare clusters with each other."
        )
    return clusters


def _gene_names(adata: AnnData, gene_symbols: str | None) -> pd.Index:
    if gene_symbols is not None and gene_symbols not in adata.var:
        raise KeyError(
            f"`gene_symbols`: expected a column of adata.var, found {gene_symbols!r}. "
            f"Available: {list(adata.var.columns)}."
        )
    return pd.Index((adata.var_names if gene_symbols is None else adata.var[gene_symbols]).astype(str))


def bundled_markers(tissue: str, organism: Organism, names: pd.Index) -> dict[str, list[str]]:
    """Bundled markers that are in the data. Types without any marker in the data are left out.

    Raises
    ------
    ValueError
        If there is no bundled set of this name, or no marker is in the data.
    """
    bundled = marker_sets(tissue, organism)
    known = {name: [gene for gene in genes if gene in names] for name, genes in bundled.items()}
    present = {name: genes for name, genes in known.items() if genes}
    if not present:
        raise ValueError(
            f"Expected gene symbols of {organism}, found none of the markers of {tissue!r}. The data have gene names "
            f"such as {names[:3].tolist()}. Pass another `organism`, or pass the column of symbols as `gene_symbols`."
        )
    if absent := [name for name in bundled if name not in present]:
        logger.warning("No marker of %s is among the genes of the data; no cluster can get these types.", absent)
    n_missing = sum(map(len, bundled.values())) - sum(map(len, known.values()))
    logger.info("%d of the markers of %r are not among the genes of the data.", n_missing, tissue)
    return present


def _find_genes(names: pd.Index, markers: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    """Columns of the markers of each type that are in the data."""
    if not markers:
        raise ValueError("Expected at least one type in markers, found none.")
    if UNASSIGNED in markers:
        raise ValueError(
            f"Expected other names of types, found {UNASSIGNED!r}, which is reserved for clusters without a type."
        )
    repeated = set(names[names.duplicated()])

    found: dict[str, NDArray[np.int64]] = {}
    unknown: list[str] = []
    for name, genes in markers.items():
        if isinstance(genes, str):
            raise TypeError(f"Expected a list of genes for {name!r}, found the string {genes!r}; write [{genes!r}].")
        genes = list(dict.fromkeys(map(str, genes)))
        if twice := sorted(repeated.intersection(genes)):
            raise ValueError(
                f"Expected markers that occur once in the data, found several genes {twice}; make the names unique."
            )
        columns = names.get_indexer(genes) if names.is_unique else _positions(names, genes)
        unknown += [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
        found[str(name)] = columns[columns >= 0]
    if empty := [name for name, columns in found.items() if columns.size == 0]:
        raise ValueError(
            f"Expected at least one marker in the data for every type, found none for {empty}. The data have gene "
            f"names such as {names[:3].tolist()}. Correct the names, pass `gene_symbols`, or leave these types out."
        )
    if unknown:
        message = f"{len(unknown)} markers are not among the genes of the data: {sorted(set(unknown))}."
        warnings.warn(f"{message} These markers are left out.", UserWarning, stacklevel=3)
    return found


def _positions(names: pd.Index, genes: list[str]) -> NDArray[np.int64]:
    """Positions of genes in an index with repeated names; -1 for genes that are not in the index."""
    first = names[~names.duplicated()]
    return np.append(np.flatnonzero(~names.duplicated()), -1)[first.get_indexer(genes)]
