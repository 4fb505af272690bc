"""What in a clustering asks for a second look."""

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
_SHALLOW = 0.5
"""A cluster is shallow if its median of counts is below this share of the median of the other cells."""
_FEW_CELLS = 20
_DOUBTFUL = 0.6
"""Hennig calls a cluster of lower stability doubtful."""
_FROM_ONE = 0.9
"""A cluster follows a column if this share of its cells has one value of it, ..."""
_USUAL = 0.5
"""... which at most this share of the other cells has."""
_EXPLAINED = 0.5
"""Clusters follow a column of numbers if they explain this share of its variance."""
_MANY_UNCERTAIN = 0.1
_ALPHA = 0.05
_SECOND_LABEL = 0.25
_MAX_CATEGORIES = 100


@dataclass(frozen=True)
class Concern:
    """One thing to look at.

    Attributes
    ----------
    kind
        ``"depth"``, ``"size"``, ``"stability"``, ``"column"``, ``"two types"``, ``"uncertain"`` or ``"reference"``.
    about
        ``"all cells"``, or the name of a cluster.
    text
        What was found, and what to do about it.
    """

    kind: str
    about: str
    text: str


def find_concerns(
    cells: Cells, tree: Mapping[str, Any] | None, names: Names, columns: Sequence[str], is_query: bool
) -> list[Concern]:
    """Everything in a clustering that asks for a second look.

    Parameters
    ----------
    cells
        Cells of the report.
    tree
        ``cluster_tree_`` of the model.
    names
        Names proposed for the clusters.
    columns
        Columns of ``obs`` to compare the clusters with.
    is_query
        Whether the cells are those of a query.
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
                f"Its cells have {np.median(inside):,.0f} counts (median), the other cells "
                f"{np.median(outside):,.0f}. They may be "
                "damaged cells or empty droplets, or small cells such as platelets: look at its marker genes.",
            )


def _size(cells: Cells) -> Iterator[Concern]:
    for name, size in cells.sizes.items():
        if 0 < size < _FEW_CELLS:
            yield Concern(
                "size", str(name), f"It has {size} cells. That is a rare type, or a group of doublets or outliers."
            )


def _stability(cells: Cells) -> Iterator[Concern]:
    for name, value in () if cells.cluster_stability is None else cells.cluster_stability.items():
        if value < _DOUBTFUL:
            yield Concern(
                "stability",
                str(name),
                f"Its stability over seeds is {value:.2f}; below {_DOUBTFUL} a cluster is doubtful, below 0.5 "
                "dissolved.",
            )


def _followed_columns(cells: Cells, columns: Sequence[str]) -> Iterator[Concern]:
    for column in columns:
        values = cells.obs[column]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            share = explained(values.to_numpy(dtype=float), np.asarray(cells.clusters.codes))
            if share > _EXPLAINED:
                text = (
                    f"They explain {share:.0%} of the variance of obs[{column!r}]. If that measures quality or depth, "
                )
                yield Concern("column", "all cells", f"{text}the clusters may, too.")
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
                f"{share:.0%} of its cells have {category!r} in obs[{column!r}], and {usual:.0%} of the other cells. "
                "That is as it should be where the column holds cell types. If it holds batches, donors or lanes, set "
                f"up with batch_key={column!r}, or check that the cells exist in this sample only.",
            )


def explained(values: np.ndarray, codes: np.ndarray) -> float:
    """Share of the variance of numbers that groups explain; 0 if there is none.

    Parameters
    ----------
    values
        Numbers, ``(n,)``; those that are not finite take no part.
    codes
        Group of each, ``(n,)``.
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
    """Clusters that the tree divides in two parts which one population does not explain."""
    if tree is None:
        return
    hierarchy, current = from_state(tree), np.asarray(tree["current"])
    seen = set()
    for split in tree["splits"]:  # the topmost first
        inside = np.unique(current[hierarchy.members(split["node"])])
        if len(inside) > 1 or inside[0] in seen:
            continue
        seen.add(inside[0])
        if split["p_value"] <= _ALPHA:
            genes = ", ".join(list(split["genes"])[:5]) or "not known"
            yield Concern(
                "two types",
                names[inside[0]],
                f"It falls into parts of {split['n_left']:,} and {split['n_right']:,} cells more clearly than one "
                f"population would (separability {split['separability']:.2f}, p = {split['p_value']:.2f}; genes: "
                f"{genes}). To divide it: model.split({names[inside[0]]!r}).",
            )


def _named_twice(names: Names) -> Iterator[Concern]:
    for cluster, name in names.by_markers.items():
        if name.is_close:
            yield Concern(
                "two types",
                cluster,
                f"Markers of {name.first!r} ({name.first_value:.2f}) and {name.second!r} ({name.second_value:.2f}) "
                "are about as high: two types, doublets, or types that share markers.",
            )
    for cluster, name in names.by_labels.items():
        if name.second and name.second_value >= _SECOND_LABEL:
            yield Concern(
                "two types",
                cluster,
                f"{name.first_value:.0%} of its labelled cells are {name.first!r} and {name.second_value:.0%} are "
                f"{name.second!r}.",
            )


def _uncertain(cells: Cells) -> Iterator[Concern]:
    unsure = cells.confidence < UNCERTAIN
    for number, name in enumerate(cells.names):
        of_cluster = unsure[cells.clusters.codes == number]
        if len(of_cluster) and of_cluster.mean() > _MANY_UNCERTAIN:
            yield Concern(
                "uncertain",
                name,
                f"{of_cluster.mean():.0%} of its cells have a probability below {UNCERTAIN} of being in it.",
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
            "5 %: new types, or another technique. Leave such cells unassigned.",
        )
