"""Proposed names of clusters, and the second-best names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scsiameseclu import tl
from scsiameseclu._keys import UNASSIGNED, type_key
from scsiameseclu.report._cells import KEY, Cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Name:
    """The best and the second-best name of a cluster, with the evidence for both names.

    The evidence is a score of marker genes, or the share of the cells with this label.
    """

    first: str
    first_value: float
    second: str = ""
    second_value: float = 0.0
    is_assigned: bool = True
    """Whether the evidence is sufficient for the first name."""
    is_close: bool = False
    """Whether the evidence for the second name is almost as strong as for the first name."""


@dataclass(frozen=True)
class Names:
    """Names by cluster, from marker genes and from labels of cells. Without markers or labels, the names are empty."""

    by_markers: dict[str, Name] = field(default_factory=dict)
    by_labels: dict[str, Name] = field(default_factory=dict)


def propose_names(cells: Cells, markers: Mapping[str, Sequence[str]] | None, labels: pd.Series | None) -> Names:
    """Propose names for clusters by marker genes (:func:`scsiameseclu.tl.annotate`) and by the most frequent labels.

    Parameters
    ----------
    cells
        Cells of the report.
    markers
        Marker genes of each cell type, or ``None``.
    labels
        Label of each cell, or ``None``. Cells without a label are left out.
    """
    return Names(
        {} if markers is None else _by_markers(cells, markers),
        {} if labels is None else _by_labels(cells, labels),
    )


def _by_markers(cells: Cells, markers: Mapping[str, Sequence[str]]) -> dict[str, Name]:
    if cells.shown.obs[KEY].nunique() < 2:  # scores compare clusters, so at least two clusters are needed
        return {}
    table = tl.annotate(cells.shown, markers, KEY)
    record = cells.shown.uns[type_key(KEY)]
    params, types = record["params"], record["types"]
    names = {}
    for row, scores in zip(table.itertuples(), record["scores"], strict=True):
        first, second = np.argsort(-scores, kind="stable")[:2] if len(scores) > 1 else (0, None)
        runner_up = ("", 0.0) if second is None else (str(types[second]), float(scores[second]))
        close = second is not None and scores[second] >= params["min_score"] and row.margin < params["min_margin"]
        is_assigned = row.type != UNASSIGNED
        names[str(row.cluster)] = Name(str(types[first]), float(scores[first]), *runner_up, is_assigned, bool(close))
    return names


def _by_labels(cells: Cells, labels: pd.Series) -> dict[str, Name]:
    known = labels.notna().to_numpy()
    clusters = np.asarray(cells.clusters[known], dtype=str)
    counts = pd.crosstab(clusters, labels[known].astype(str).to_numpy())
    names = {}
    for cluster, row in counts.iterrows():
        shares = (row / row.sum()).sort_values(ascending=False, kind="stable")
        has_second = len(shares) > 1 and shares.iloc[1] > 0
        second = (str(shares.index[1]), float(shares.iloc[1])) if has_second else ("", 0.0)
        names[str(cluster)] = Name(str(shares.index[0]), float(shares.iloc[0]), *second)
    return names
