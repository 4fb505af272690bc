"""The content of a report, and its HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu import tl
from scsiameseclu._keys import DEFAULT_KEY, MAX_OUT_OF_REFERENCE
from scsiameseclu.partition._hierarchy import from_state
from scsiameseclu.report._cells import KEY, MAX_SHOWN, UNCERTAIN, Cells, read_cells
from scsiameseclu.report._code import changed_since_training, code, n_epochs, versions
from scsiameseclu.report._concerns import Concern, find_concerns
from scsiameseclu.report._figures import Picture, draw_pictures
from scsiameseclu.report._names import Name, Names, propose_names
from scsiameseclu.tl._annotate import bundled_markers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mudata import MuData

    from scsiameseclu.model import SCSiameseClu

_N_MARKERS = 4
_N_PAIRS = 10
_N_CELLS = 15


@dataclass(frozen=True)
class Table:
    """A table of text. The first column contains the names of the rows."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes
    ----------
    title
        Heading of the page.
    made
        Date and time of the report, in UTC.
    summary, settings, versions
        Facts about the data, settings of the model, and versions of the packages, by name.
    concerns
        Possible problems to check.
    clusters, splits, pairs, least_certain, unlike
        Tables of the clusters, of the splits of the tree, of pairs of clusters with uncertain cells between them, of
        the least certain cells, and of the cells that are most unlike the reference. ``None`` if there is nothing to
        show.
    pictures
        Pictures by name.
    code
        Code that reproduces the result.
    notes
        Notes for the reader, by section of the page.
    """

    title: str
    made: str
    summary: dict[str, str]
    concerns: list[Concern]
    clusters: Table
    splits: Table | None
    pairs: Table | None
    least_certain: Table
    unlike: Table | None
    pictures: dict[str, Picture]
    settings: dict[str, str]
    versions: dict[str, str]
    code: str
    notes: dict[str, str]

    def to_html(self) -> str:
        """Return the page as one HTML document, which loads nothing from the network. All text is escaped."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("scsiameseclu.report"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template("page.html").render(report=self)

    def write_figures(self, folder: Path) -> None:
        """Write every picture as PNG and SVG to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for picture in self.pictures.values():
            picture.write(folder)


def build_report(
    model: SCSiameseClu,
    adata: AnnData | MuData | None = None,
    *,
    markers: str | Mapping[str, Sequence[str]] | None = None,
    labels_key: str | None = None,
    key: str = DEFAULT_KEY,
    call: str | None = None,
) -> Report:
    """Compute the content of a report. Nothing is written to the data.

    Parameters
    ----------
    model
        A trained model.
    adata, markers, labels_key, key, call
        As for :meth:`scsiameseclu.SCSiameseClu.report`.
    """
    model._check_clusters()
    cells = read_cells(model, adata, key)
    if labels_key is not None and labels_key not in cells.obs:
        raise KeyError(f"`labels_key`: expected a column of obs, found {labels_key!r}. Available: {list(cells.obs)}.")
    if isinstance(markers, str):
        markers = bundled_markers(markers, "human", cells.shown.var_names)
    names = propose_names(cells, markers, None if labels_key is None else cells.obs[labels_key])
    columns = [name for name in cells.obs if name != labels_key and not _is_ours(str(name), key)]
    genes = _best_genes(cells)
    tree = model.cluster_tree_
    return Report(
        title=f"{len(cells.clusters):,} cells in {model.n_clusters} clusters",
        made=f"{datetime.now(tz=UTC):%Y-%m-%d %H:%M} UTC",
        summary=_summary(model, cells),
        concerns=find_concerns(cells, tree, names, columns, model.is_query_),
        clusters=_cluster_table(cells, genes, names),
        splits=None if tree is None or not tree["splits"] else _split_table(model, cells.names),
        pairs=_pair_table(cells),
        least_certain=_least_certain(cells),
        unlike=_unlike(cells) if model.is_query_ else None,
        pictures=draw_pictures(model, cells, markers),
        settings={name: str(value) for name, value in model._params().items()} | {"epochs": str(n_epochs(model))},
        versions=versions(),
        code=(_mapping(model) if model.is_query_ else code(model)) if call is None else call,
        notes=_notes(model, cells, adata, call),
    )


def _is_ours(column: str, key: str) -> bool:
    """Whether a column was written by this package or by scvi-tools."""
    return column == key or column.startswith((f"{key}_", "_scvi"))


def _best_genes(cells: Cells) -> dict[str, list[str]]:
    """Best marker genes of every cluster. Empty if there are fewer than two clusters with at least two cells."""
    if (cells.shown.obs[KEY].value_counts() > 1).sum() < 2:
        return {}
    table = tl.markers(cells.shown, KEY)
    return {str(name): rows["names"].head(_N_MARKERS).tolist() for name, rows in table.groupby("group", sort=False)}


def _summary(model: SCSiameseClu, cells: Cells) -> dict[str, str]:
    unsure = float(np.mean(cells.confidence < UNCERTAIN))
    facts = {
        "cells": f"{len(cells.clusters):,}",
        "genes": f"{cells.n_vars:,}, of which the model reads {model.summary_stats['n_vars']:,}",
        "batches": f"{model.summary_stats['n_batch']:,}",
        "clusters": f"{model.n_clusters} (requested: {model.n_clusters_requested_})",
        "counts per cell": f"{np.median(cells.n_counts):,.0f} (median)",
        "genes per cell": f"{np.median(cells.n_genes):,.0f} (median)",
        "mean confidence of the cluster": f"{cells.confidence.mean():.3f}",
        "uncertain cells": f"{unsure:.1%} (probability of their cluster below {UNCERTAIN})",
    }
    if model.is_query_ and cells.out_of_reference is not None:
        share = float(np.mean(cells.out_of_reference > MAX_OUT_OF_REFERENCE))
        facts["cells out of reference"] = f"{share:.1%} (score above {MAX_OUT_OF_REFERENCE})"
    return facts


def _cluster_table(cells: Cells, genes: Mapping[str, Sequence[str]], names: Names) -> Table:
    columns: dict[str, list[str]] = {"cluster": cells.names}
    codes, sizes = cells.clusters.codes, cells.sizes
    members = [codes == number for number in range(len(cells.names))]

    def of_cells(form: str, values: np.ndarray, summary: Any) -> list[str]:
        return [form.format(summary(values[member])) if member.any() else "" for member in members]

    columns["cells"] = [f"{size:,}" for size in sizes]
    columns["share"] = [f"{size / max(sizes.sum(), 1):.1%}" for size in sizes]
    columns["confidence"] = of_cells("{:.3f}", cells.confidence, np.mean)
    columns["uncertain"] = of_cells("{:.1%}", cells.confidence < UNCERTAIN, np.mean)
    if cells.cluster_stability is not None:
        stability = cells.cluster_stability
        columns["stability"] = [f"{stability[name]:.2f}" if name in stability else "" for name in cells.names]
    columns["counts"] = of_cells("{:,.0f}", cells.n_counts, np.median)
    if genes:
        columns["best genes"] = [", ".join(genes.get(name, [])) for name in cells.names]
    for title, proposed, form in (("markers", names.by_markers, "{:.2f}"), ("labels", names.by_labels, "{:.0%}")):
        if proposed:
            columns[f"name by {title}"] = [_first(proposed.get(name), form) for name in cells.names]
            columns[f"runner-up by {title}"] = [_second(proposed.get(name), form) for name in cells.names]
    return Table(tuple(columns), list(zip(*columns.values(), strict=True)))


def _first(name: Name | None, form: str) -> str:
    if name is None:
        return ""
    text = f"{name.first} ({form.format(name.first_value)})"
    return text if name.is_assigned else f"unassigned; best: {text}"


def _second(name: Name | None, form: str) -> str:
    return "" if name is None or not name.second else f"{name.second} ({form.format(name.second_value)})"


def _split_table(model: SCSiameseClu, names: Sequence[str]) -> Table:
    """Table of the splits between the clusters, the topmost split first."""
    tree = model.cluster_tree_ or {}
    hierarchy, current = from_state(tree), np.asarray(tree["current"])

    def clusters(node: int) -> list[int]:
        return np.unique(current[hierarchy.members(node)]).tolist()

    rows = [
        (
            *(", ".join(names[number] for number in clusters(split[side])) for side in ("left", "right")),
            f"{split['n_left']:,} / {split['n_right']:,}",
            f"{split['separability']:.2f}",
            f"{split['p_value']:.2f}",
            ", ".join(f"{'+' if value > 0 else '-'}{gene}" for gene, value in list(split["genes"].items())[:5]),
        )
        for split in tree["splits"]
        if len(clusters(split["node"])) > 1
    ]
    return Table(("left", "right", "cells", "separability", "p", "genes (+: higher on the left)"), rows)


def _pair_table(cells: Cells) -> Table | None:
    """Table of the pairs of clusters that uncertain cells are between."""
    unsure = np.flatnonzero(cells.confidence < UNCERTAIN)
    if not len(unsure) or len(cells.names) < 2:
        return None
    order = np.argsort(-cells.probabilities[unsure], axis=1, kind="stable")[:, :2]
    pairs = pd.Series([f"{cells.names[first]} or {cells.names[second]}" for first, second in order]).value_counts()
    return Table(("clusters", "uncertain cells"), [(str(name), f"{n:,}") for name, n in pairs.head(_N_PAIRS).items()])


def _least_certain(cells: Cells) -> Table:
    rows = np.argsort(cells.confidence, kind="stable")[:_N_CELLS]
    order = np.argsort(-cells.probabilities[rows], axis=1, kind="stable")
    found = []
    for row, best in zip(rows, order, strict=True):
        two = [f"{cells.names[number]} ({cells.probabilities[row, number]:.2f})" for number in best[:2]]
        found.append((str(cells.obs.index[row]), *two, *[""] * (2 - len(two)), f"{cells.n_counts[row]:,.0f}"))
    return Table(("cell", "cluster (probability)", "runner-up", "counts"), found)


def _unlike(cells: Cells) -> Table | None:
    if cells.out_of_reference is None:
        return None
    score = cells.out_of_reference
    rows = [row for row in np.argsort(-score, kind="stable")[:_N_CELLS] if score[row] > MAX_OUT_OF_REFERENCE]
    of_cell: list[tuple[str, ...]] = [
        (str(cells.obs.index[row]), f"{score[row]:.4f}", str(cells.clusters[row])) for row in rows
    ]
    return Table(("cell", "score", "cluster"), of_cell) if of_cell else None


def _mapping(model: SCSiameseClu) -> str:
    name = type(model).__name__
    return (
        f"from scsiameseclu import {name}, tl\n\nmodel = tl.map(query, reference)  # the model of the reference, "
        "or its folder"
    )


def _notes(model: SCSiameseClu, cells: Cells, adata: Any, call: str | None) -> dict[str, str]:
    notes = {}
    if len(cells.clusters) > MAX_SHOWN:
        notes["pictures"] = (
            f"Pictures and marker genes are computed from {MAX_SHOWN:,} randomly drawn cells. Everything else is "
            "computed from all cells."
        )
    if changed_since_training(model):
        notes["code"] = "Clusters were cut, split or merged after training. The code does not repeat these changes."
    if call is None and not model.is_query_:
        notes["data"] = (
            f"adata: the {len(cells.clusters):,} cells with the {model.summary_stats['n_vars']:,} genes that the model "
            "reads. A model stores the number of epochs, but no other arguments of train()."
        )
    if model.n_clusters == 1:
        notes["clusters"] = "With one cluster, every cell has the probability 1."
    return notes
