"""Names for clusters, from lists of marker genes."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu._keys import DEFAULT_KEY, UNASSIGNED, check_key, type_key
from scsiameseclu.pp import check_counts
from scsiameseclu.pp._counts import get_counts, row_chunks
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["annotate"]

logger = logging.getLogger(__name__)
TARGET_SUM = 1e4


def annotate(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]],
    groupby: str = DEFAULT_KEY,
    *,
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

    Parameters
    ----------
    adata
        Cells with raw counts and clusters. Only ``obs`` and ``uns`` are changed.
    markers
        Marker genes of each type. Genes that are not in the data are left out with a warning.
    groupby
        Column of ``obs`` with the clusters, at least two. Cells without one stay unassigned.
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
        One row per cluster: ``cluster``, ``type`` (or ``"unassigned"``), ``score`` (the highest), ``margin`` (distance
        to the second; with one type, to 0) and ``n_markers`` (genes behind the score).

    Raises
    ------
    KeyError
        If ``groupby``, ``layer`` or ``gene_symbols`` does not exist.
    TypeError
        If ``adata`` is no AnnData, or markers are a string instead of a list of strings.
    ValueError
        If there are no types, a type has no known gene or is called ``"unassigned"``, a marker occurs twice in the
        data, there are fewer than two clusters, or the values are no counts.

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
    with ``"params"``, ``"scores"`` (float64, clusters x types), ``"clusters"`` and ``"types"`` (its rows and columns)
    and ``"margin"`` (float64, one per cluster).

    Examples
    --------
    >>> adata = scsiameseclu.datasets.pbmc68k_reduced()
    >>> scsiameseclu.tl.cluster(adata)
    >>> scsiameseclu.tl.annotate(adata, {"B cell": ["CD79A", "MS4A1"], "T cell": ["CD3D", "CD3E"]})
    """
    check_anndata(adata, "pass the AnnData of one modality, such as mdata['rna'], with the clusters in its obs")
    key_added = type_key(groupby) if key_added is None else key_added
    check_key(key_added)
    clusters = _clusters(adata, groupby)
    genes = _find_genes(adata, markers, gene_symbols)
    matrix = get_counts(adata, layer)
    if normalize:
        check_counts(matrix, adata.obs_names, adata.var_names)

    used = np.unique(np.concatenate(list(genes.values())))
    codes = clusters.codes.astype(np.int64)
    standardised, informative = _standardised_means(matrix, used, codes, len(clusters.categories), normalize)
    scores, n_markers = _type_scores(standardised, informative, used, genes)

    types = np.array(list(genes))
    best = scores.argmax(axis=1)
    first = scores.max(axis=1)
    second = np.sort(scores, axis=1)[:, -2] if len(types) > 1 else np.zeros(len(scores))
    margin = first - second
    named = (first >= min_score) & (margin >= min_margin)
    names = np.where(named, types[best], UNASSIGNED).astype(object)

    of_cell = np.append(names, UNASSIGNED)[codes]  # the code -1 of cells without a cluster picks the last one
    present = set(of_cell)
    adata.obs[key_added] = pd.Categorical(of_cell, [each for each in (*genes, UNASSIGNED) if each in present])
    cluster_names = clusters.categories.astype(str).to_numpy(dtype=object)
    params = {"groupby": groupby, "min_score": min_score, "min_margin": min_margin, "normalize": normalize}
    adata.uns[key_added] = {
        "params": params | ({} if layer is None else {"layer": layer}),
        "scores": scores,
        "clusters": cluster_names.astype(str),
        "types": types.astype(str),
        "margin": margin,
    }
    return pd.DataFrame(
        {"cluster": cluster_names, "type": names, "score": first, "margin": margin, "n_markers": n_markers[best]}
    )


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


def _find_genes(
    adata: AnnData, markers: Mapping[str, Sequence[str]], gene_symbols: str | None
) -> dict[str, NDArray[np.int64]]:
    """Columns of the known markers of each type."""
    if gene_symbols is not None and gene_symbols not in adata.var:
        raise KeyError(
            f"`gene_symbols`: expected a column of adata.var, found {gene_symbols!r}. "
            f"Available: {list(adata.var.columns)}."
        )
    if not markers:
        raise ValueError("Expected at least one type in markers, found none.")
    if UNASSIGNED in markers:
        raise ValueError(
            f"Expected other names of types, found {UNASSIGNED!r}, which is kept for clusters without a type."
        )
    names = pd.Index((adata.var_names if gene_symbols is None else adata.var[gene_symbols]).astype(str))
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


def _standardised_means(
    matrix: Any, genes: NDArray[np.int64], codes: NDArray[np.int64], n_clusters: int, normalize: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Standardised cluster means ``(n_clusters, n_genes)``, and which genes vary at all; in one pass over the cells."""
    sums, squares = np.zeros((2, n_clusters, len(genes)))
    for rows, block in row_chunks(matrix):
        values = sparse.csr_matrix(block[:, genes], dtype=np.float64)
        if normalize:
            totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
            values = sparse.csr_matrix(sparse.diags(scale) @ values).log1p()
        cells = np.flatnonzero(codes[rows] >= 0)
        member = sparse.csr_matrix((np.ones(len(cells)), (codes[rows][cells], cells)), (n_clusters, values.shape[0]))
        sums += (member @ values).toarray()
        squares += (member @ values.multiply(values)).toarray()
    if not np.isfinite(squares).all():
        raise ValueError("Expected finite expression of the markers, found NaN or infinite values; name another layer.")
    sizes = np.bincount(codes[codes >= 0], minlength=n_clusters)[:, None]
    means = sums / sizes
    centre = means.mean(axis=0)
    variance = (squares / sizes).mean(axis=0) - centre**2
    informative = variance > 1e-10 * np.maximum(centre**2, 1e-10)  # rounding leaves traces in constant genes
    deviation = np.sqrt(np.where(informative, variance, 1.0))
    return np.where(informative, (means - centre) / deviation, 0.0), informative


def _type_scores(
    standardised: NDArray[np.float64],
    informative: NDArray[np.bool_],
    used: NDArray[np.int64],
    genes: Mapping[str, NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean over the markers that vary, ``(n_clusters, n_types)``, and their number; 0 for types without any."""
    scores, n_markers = np.zeros((len(standardised), len(genes))), np.zeros(len(genes), dtype=np.int64)
    for t, (name, columns) in enumerate(genes.items()):
        positions = np.searchsorted(used, columns)
        positions = positions[informative[positions]]
        n_markers[t] = len(positions)
        if len(positions):
            scores[:, t] = standardised[:, positions].mean(axis=1)
        else:
            logger.warning("No marker of %r varies between cells; it is given to no cluster.", name)
    return scores, n_markers
