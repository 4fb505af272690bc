"""Searches for nearest neighbours side by side: CPU time and share of the true neighbours, on enlarged real data.

    python -m benchmarks.neighbors --data DIR --out neighbors.jsonl [--cells 60000] [--sets ...]
    python -m benchmarks.neighbors --report neighbors.jsonl

Data sets are enlarged as in ``benchmarks.schedule``. The space is the space of the cell graph, 50 principal components.
Recall is the share of the 15 nearest cells that a search finds, over 1,000 cells. pynndescent runs twice, because numba
compiles its code in the first run of a process. The labels of the data are not used.
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.run import append_result, known_cells, parsed_study, read_results, study_parser, versions
from benchmarks.schedule import MIN_CELLS, enlarged
from benchmarks.table import markdown
from benchmarks.tasks import LABEL

N_NEIGHBORS = 15
N_ASKED = 1_000
SEARCHES = ("inverted file", "pynndescent, first run", "pynndescent, second run", "exact")


def nearest(points: NDArray[np.float32], rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nearest candidates of each row, without the row itself, ``(n_rows, N_NEIGHBORS)``."""
    difference = points[candidates] - points[rows, None].astype(np.float64)
    distances = np.square(difference).sum(axis=2)
    distances[(candidates == rows[:, None]) | (candidates < 0)] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :N_NEIGHBORS]
    return np.take_along_axis(candidates, order, axis=1)


def run(cells: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Search with each method in one enlarged data set."""
    from scsiameseclu.pp import Projection, _knn

    counts = enlarged(cells, args.cells, args.seed).X
    points = Projection.fit(counts, random_state=args.seed).transform(counts)
    points = _knn.centred(points, points)
    rows = np.random.default_rng(args.seed).choice(len(points), N_ASKED, replace=False)
    true = nearest(points, rows, _knn.search_exact(points, points[rows], N_NEIGHBORS + 1))
    searches = {
        "inverted file": _knn.search_inverted,
        "pynndescent, first run": _knn._search_approximate,
        "pynndescent, second run": _knn._search_approximate,
        "exact": lambda points, queries, width, seed: _knn.search_exact(points, queries, width),
    }
    found = []
    for name in args.searches:
        start = time.process_time()
        candidates = searches[name](points, points, N_NEIGHBORS + 1, args.seed)
        seconds = time.process_time() - start
        pairs = zip(true, nearest(points, rows, candidates[rows]), strict=True)
        recall = float(np.mean([len({*one} & {*other}) / N_NEIGHBORS for one, other in pairs]))
        found.append({"search": name, "cpu_seconds": round(seconds, 2), "recall": round(recall, 4)})
    return found


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown table: one row per number of cells and search, means over the data sets."""
    frame = pd.DataFrame(rows)
    lines = []
    for (cells, search), part in frame.groupby(["cells", "search"], sort=False):
        lines.append([f"{cells:,}", search, part["set"].nunique(), part["cpu_seconds"].mean(), part["recall"].mean()])
        lines[-1].append(part["recall"].min())
    return markdown(["cells", "search", "sets", "CPU s", "recall", "lowest recall"], lines)


def main(argv: list[str] | None = None) -> None:
    """Run everything that is missing in the results file, or print the report."""
    parser = study_parser(__doc__)
    parser.add_argument("--cells", type=int, default=60_000)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES[:3]))
    args = parsed_study(parser, argv)
    if args.report:
        print(report(read_results(args.report)))
        return
    done = {(row["set"], row["cells"], row["seed"]) for row in read_results(args.out)}
    for name, adata in known_cells(args.data, LABEL, args.sets, MIN_CELLS):
        job = {"set": name, "cells": args.cells, "seed": args.seed}
        if tuple(job.values()) not in done:
            for row in run(adata, args):
                append_result(args.out, {**job, **row, "versions": versions()})


if __name__ == "__main__":
    main()
