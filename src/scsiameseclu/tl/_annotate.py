"""Names for clusters, from lists of marker genes."""

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
    r"""Name clusters after the cell types whose markers they express; no labels of cells are used.

    With the mean :math:`\mu_{kg}` of log-normalised expression of gene :math:`g` in cluster :math:`k` of :math:`K`, the
    score of a type with markers :math:`M` is

    .. math:: s_{kt} = \frac{1}{|M|} \sum_{g \in M} \frac{\mu_{kg} - \bar\mu_g}{\sigma_g},

    where :math:`\bar\mu_g` and :math:`\sigma_g` are mean and standard deviation over cells, every cluster counted
    alike, so that sizes of clusters do not matter. A marker without noise that only one cluster expresses adds
    :math:`\sqrt{K - 1}`; a gene that marks nothing adds about 0. A cluster gets the type with the highest score, or
    ``"unassigned"`` if that score or its distance to the second is too small. Several clusters may get one type.

    A cluster is "mixed" if it seems to hold cells of a second type: in some cells the markers of the second type
    replace those of the best one. That shows in a correlation of at most -0.35 between the scores of the two types
    over the cells of the cluster, with a higher score of the second type in 10 % of the cells or more, and in three at
    least.

    Parameters
    ----------
    adata
        Cells with raw counts and clusters. Only ``obs`` and ``uns`` are changed.
    markers
        Marker genes of each type, or the name of a bundled set (``"blood"``, ``"immune"``, ``"pancreas"``,
        ``"kidney"``, ``"brain"``; see :func:`~scsiameseclu.datasets.marker_sets`). Genes that are not in the data are
        left out: those of your own lists with a warning.
    groupby
        Column of ``obs`` with the clusters, at least two. Cells without one stay unassigned.
    organism
        Whose gene symbols a bundled set has: ``"human"`` or ``"mouse"``.
    layer
        Layer with the counts. ``None``: ``X``.
    normalize
        Scale every cell to 10,000 counts and take ``log1p``. ``False``: the values are log-normalised already.
    gene_symbols
        Column of ``var`` in which to look the markers up. ``None``: ``var_names``.
    min_score
        Lowest score that gives a name.
    min_margin
        Lowest distance to the second score that gives a name.
    key_added
        Column of ``obs`` to write. ``None``: ``f"{groupby}_type"``.

    Returns
    -------
    pandas.DataFrame
        One row per cluster: ``cluster``; ``type`` (or ``"unassigned"``); ``best``, the type with the highest score, and
        ``score``; ``runner_up`` and ``runner_up_score`` (with one type, that type and 0); ``margin`` between the two
        scores; ``mixed`` and ``mixed_with``, the second type or ``""``; ``n_markers``, genes behind the score.

    Raises
    ------
    KeyError
        If ``groupby``, ``layer`` or ``gene_symbols`` does not exist.
    TypeError
        If ``adata`` is no AnnData, or markers are a string instead of a list of strings.
    ValueError
        If there is no bundled set of this name, there are no types, a type of your own has no known gene or is called
        ``"unassigned"``, a marker occurs twice in the data, there are fewer than two clusters, or the values are no
        counts.

    Warns
    -----
    UserWarning
        If markers are not in the data (it lists them), or the values are no whole numbers and ``normalize=True``.

    Notes
    -----
    The fewer markers, the more a score owes to chance: on the 700 cells of
    :func:`~scsiameseclu.datasets.pbmc68k_reduced`, with seven clusters and seven lists of random genes, 42 % of
    the clusters got a name with 3 genes per list, 16 % with 10 and 6 % with 20. Raise ``min_score`` for short lists.

    Writes ``obs[key_added]``, categorical, in the order of ``markers``, ``"unassigned"`` last; and ``uns[key_added]``
    with ``"params"``, ``"scores"`` (float64, clusters x types), ``"clusters"`` and ``"types"`` (its rows and columns),
    and, for each cluster, ``"best"``, ``"runner_up"``, ``"margin"`` (float64) and ``"mixed_with"``.

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

    of_cell = np.append(table["type"], UNASSIGNED)[codes]  # the code -1 of cells without a cluster picks the last one
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
    """The two best types of each cluster, and whether a second type is mixed in (``mixed``: its number, or -1)."""
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
    """Bundled markers that are among the genes of the data, without the types that have none of them."""
    bundled = marker_sets(tissue, organism)
    known = {name: [gene for gene in genes if gene in names] for name, genes in bundled.items()}
    present = {name: genes for name, genes in known.items() if genes}
    if not present:
        raise ValueError(
            f"Expected gene symbols of {organism}, found none of the markers of {tissue!r}; genes are called like "
            f"{names[:3].tolist()} here. Pass another `organism`, or name the column of symbols by `gene_symbols`."
        )
    if absent := [name for name in bundled if name not in present]:
        logger.warning("No marker of %s is among the genes of the data; no cluster can get these names.", absent)
    n_missing = sum(map(len, bundled.values())) - sum(map(len, known.values()))
    logger.info("%d of the markers of %r are not among the genes of the data.", n_missing, tissue)
    return present


def _find_genes(names: pd.Index, markers: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    """Columns of the known markers of each type."""
    if not markers:
        raise ValueError("Expected at least one type in markers, found none.")
    if UNASSIGNED in markers:
        raise ValueError(
            f"Expected other names of types, found {UNASSIGNED!r}, which is kept for clusters without a type."
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
                f"Expected markers that occur once in the data, found several {twice}; make the names unique."
            )
        columns = names.get_indexer(genes) if names.is_unique else _positions(names, genes)
        unknown += [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
        found[str(name)] = columns[columns >= 0]
    if empty := [name for name, columns in found.items() if columns.size == 0]:
        raise ValueError(
            f"Expected a known marker for every type, found none for {empty}; genes are called like "
            f"{names[:3].tolist()} here. Correct the names, name `gene_symbols`, or leave these types out."
        )
    if unknown:
        message = f"Expected markers among the genes of the data, found {len(unknown)} others: {sorted(set(unknown))}."
        warnings.warn(f"{message} They are left out.", UserWarning, stacklevel=3)
    return found


def _positions(names: pd.Index, genes: list[str]) -> NDArray[np.int64]:
    """Positions of names that occur at most once, -1 for those that do not occur, in an index with repetitions."""
    first = names[~names.duplicated()]
    return np.append(np.flatnonzero(~names.duplicated()), -1)[first.get_indexer(genes)]
