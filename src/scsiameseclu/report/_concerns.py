"""Possible problems of a clustering, which the user should check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scsiameseclu._keys import MANY_OUT_OF_REFERENCE, MAX_OUT_OF_REFERENCE
from scsiameseclu.partition._hierarchy import from_state
from scsiameseclu.report._cells import UNCERTAIN, Cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scsiameseclu.report._names import Names

_FEW_COUNTS = 500
"""Data are shallow if the median of the total counts per cell is below this number."""
_SHALLOW = 0.5
"""A cluster is shallow if its median total counts are below this share of the median of the other cells."""
_FEW_CELLS = 20
"""A cluster with fewer cells is small."""
_DOUBTFUL = 0.6
"""Hennig (2007) calls a cluster of lower stability doubtful."""
_FROM_ONE = 0.9
"""A cluster follows a column if at least this share of its cells has the same value in the column ..."""
_USUAL = 0.5
"""... and at most this share of the other cells has this value."""
_EXPLAINED = 0.5
"""Clusters follow a column of numbers if they explain more than this share of its variance."""
_MANY_UNCERTAIN = 0.1
"""Share of uncertain cells above which a cluster is reported."""
_ALPHA = 0.05
"""Largest p value of a split that is reported."""
_SECOND_LABEL = 0.25
"""Share of the second most frequent label in a cluster from which on the cluster is reported."""
_MAX_CATEGORIES = 100
"""Columns with more categories are not compared with the clusters."""


@dataclass(frozen=True)
class Concern:
    """A possible problem, which the user should check.

    Attributes
    ----------
    kind
        Kind of the problem: ``"depth"``, ``"size"``, ``"stability"``, ``"column"``, ``"two types"``, ``"uncertain"`` or
        ``"reference"``.
    about
        ``"all cells"``, or the name of a cluster.
    text
        Description of the problem, and advice.
    """

    kind: str
    about: str
    text: str


def find_concerns(
    cells: Cells, tree: Mapping[str, Any] | None, names: Names, columns: Sequence[str], is_query: bool
) -> list[Concern]:
    """Find possible problems of a clustering.

    Parameters
    ----------
    cells
        Cells of the report.
    tree
        ``cluster_tree_`` of the model.
    names
        Proposed names of the clusters.
    columns
        Columns of ``obs`` to compare the clusters with.
    is_query
        Whether the cells belong to a query.
    """
    return [
        *_depth(cells),
        *_size(cells),
        *_stability(cells),
        *_followed_columns(cells, columns),
        *(() if is_query else _splits(cells.names, tree)),
        *_named_twice(names),
        *_uncertain(cells),
        *(_unlike_reference(cells) if is_query else ()),
    ]


def _depth(cells: Cells) -> Iterator[Concern]:
    median = float(np.median(cells.n_counts))
    if median < _FEW_COUNTS:
        yield Concern(
            "depth",
            "all cells",
            f"Half of the cells have fewer than {median:,.0f} counts over the {cells.n_vars:,} genes. Clusters of "
            "cells with few counts are uncertain. If genes were left out, pass the object with all genes to report().",
        )
    codes = cells.clusters.codes
    for number, name in enumerate(cells.names):
        inside, outside = cells.n_counts[codes == number], cells.n_counts[codes != number]
        if len(inside) and len(outside) and np.median(inside) < _SHALLOW * np.median(outside):
            yield Concern(
                "depth",
                name,
                f"The cells of this cluster have {np.median(inside):,.0f} counts (median), the other cells "
                f"{np.median(outside):,.0f}. The cells of this cluster may be damaged cells, empty droplets, or small "
                "cells such as platelets: look at the marker genes of the cluster.",
            )


def _size(cells: Cells) -> Iterator[Concern]:
    for name, size in cells.sizes.items():
        if 0 < size < _FEW_CELLS:
            yield Concern(
                "size",
                str(name),
                f"This cluster has {size} cells. The cells may be a rare type, doublets or outliers.",
            )


def _stability(cells: Cells) -> Iterator[Concern]:
    for name, value in () if cells.cluster_stability is None else cells.cluster_stability.items():
        if value < _DOUBTFUL:
            yield Concern(
                "stability",
                str(name),
                f"The stability of this cluster over seeds is {value:.2f}. A cluster with a stability below "
                f"{_DOUBTFUL} is doubtful, and a cluster with a stability below 0.5 is dissolved.",
            )


def _followed_columns(cells: Cells, columns: Sequence[str]) -> Iterator[Concern]:
    for column in columns:
        values = cells.obs[column]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            share = explained(values.to_numpy(dtype=float), np.asarray(cells.clusters.codes))
            if share > _EXPLAINED:
                text = f"The clusters explain {share:.0%} of the variance of obs[{column!r}]. If this column measures "
                yield Concern("column", "all cells", f"{text}quality or depth, so may the clusters.")
        else:
            yield from _from_one_category(cells, column, values)


def _from_one_category(cells: Cells, column: str, values: pd.Series) -> Iterator[Concern]:
    counts = pd.crosstab(np.asarray(cells.clusters.codes), values.astype(str).to_numpy())
    if not 2 <= counts.shape[1] <= _MAX_CATEGORIES:
        return
    for number in counts.index:
        inside, outside = counts.loc[number], counts.drop(index=number).sum()
        category = inside.idxmax()
        share, usual = inside[category] / inside.sum(), outside[category] / max(outside.sum(), 1)
        if share >= _FROM_ONE and usual <= _USUAL and inside.sum() >= _FEW_CELLS:
            yield Concern(
                "column",
                cells.names[number],
                f"{share:.0%} of the cells of this cluster have {category!r} in obs[{column!r}], and {usual:.0%} of "
                "the other cells. If the column contains cell types, this is no problem. If the column contains "
                f"batches, donors or lanes, set up the model with batch_key={column!r}, or check that such cells only "
                "exist in this sample.",
            )


def explained(values: np.ndarray, codes: np.ndarray) -> float:
    """Share of the variance of numbers that groups explain; 0 if the numbers do not vary.

    Parameters
    ----------
    values
        Numbers, ``(n,)``. Values that are not finite are left out.
    codes
        Group of each number, int ``(n,)``.
    """
    finite = np.isfinite(values)
    values, codes = values[finite], codes[finite]
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if total <= 0.0:
        return 0.0
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=values) / np.maximum(sizes, 1)
    return float((sizes * (means - values.mean()) ** 2).sum() / total)


def _splits(names: Sequence[str], tree: Mapping[str, Any] | None) -> Iterator[Concern]:
    """Clusters whose first split in the tree is unlikely for a single population."""
    if tree is None:
        return
    hierarchy, current = from_state(tree), np.asarray(tree["current"])
    seen = set()
    for split in tree["splits"]:  # the topmost splits come first
        inside = np.unique(current[hierarchy.members(split["node"])])
        if len(inside) > 1 or inside[0] in seen:
            continue
        seen.add(inside[0])
        if split["p_value"] <= _ALPHA:
            genes = ", ".join(list(split["genes"])[:5]) or "not known"
            yield Concern(
                "two types",
                names[inside[0]],
                f"This cluster has parts of {split['n_left']:,} and {split['n_right']:,} cells, which are more "
                f"separate than the parts of one population (separability {split['separability']:.2f}, "
                f"p = {split['p_value']:.2f}; genes: {genes}). To divide the cluster: "
                f"model.split({names[inside[0]]!r}).",
            )


def _named_twice(names: Names) -> Iterator[Concern]:
    for cluster, name in names.by_markers.items():
        if name.is_close:
            yield Concern(
                "two types",
                cluster,
                f"The scores of the markers of {name.first!r} ({name.first_value:.2f}) and {name.second!r} "
                f"({name.second_value:.2f}) are close. The cluster may contain two types or doublets, or the types "
                "share markers.",
            )
    for cluster, name in names.by_labels.items():
        if name.second and name.second_value >= _SECOND_LABEL:
            yield Concern(
                "two types",
                cluster,
                f"{name.first_value:.0%} of the labelled cells of this cluster are {name.first!r} and "
                f"{name.second_value:.0%} are {name.second!r}.",
            )


def _uncertain(cells: Cells) -> Iterator[Concern]:
    unsure = cells.confidence < UNCERTAIN
    for number, name in enumerate(cells.names):
        of_cluster = unsure[cells.clusters.codes == number]
        if len(of_cluster) and of_cluster.mean() > _MANY_UNCERTAIN:
            yield Concern(
                "uncertain",
                name,
                f"{of_cluster.mean():.0%} of the cells of this cluster have a confidence below {UNCERTAIN}.",
            )


def _unlike_reference(cells: Cells) -> Iterator[Concern]:
    if cells.out_of_reference is None:
        return
    share = float(np.mean(cells.out_of_reference > MAX_OUT_OF_REFERENCE))
    if share > MANY_OUT_OF_REFERENCE:
        yield Concern(
            "reference",
            "all cells",
            f"{share:.0%} of the cells have an out-of-reference score above {MAX_OUT_OF_REFERENCE}, instead of about "
            "5 %. The cells may be of new types, or measured by another technique. Leave such cells unassigned.",
        )
