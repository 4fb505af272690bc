"""How well can any rule find the number of types? Fixed and trained rules on kept embeddings; see README.md.

    python -m benchmarks.tasks embed --data DIR --keep FOLDER
    python -m benchmarks.number FOLDER --out number.jsonl
    python -m benchmarks.number --report number.jsonl > number.md

A rule is the number of Leiden communities at one resolution, in the embedding or in decoded expression, on at most
2,000 cells. The learned rules read all these numbers, the numbers without small communities, the numbers by entropy,
the number of cells, their depth and the stability of the communities. The learned rules are fitted to the known numbers
of types of the other data sets. They are not a method for users, because they need labels. They show how much
information the numbers of communities hold at most. Figures are means over the tasks of a data set, then over data
sets.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.cut import space_of
from benchmarks.run import read_results
from benchmarks.table import markdown
from scsiameseclu.partition._candidates import leiden

RESOLUTIONS = (0.07, 0.1, 0.14, 0.2, 0.3, 0.5, 1.0)
MAX_CELLS = 2_000
SMALL = 0.01
"""Share of the cells below which a community is small."""
STABILITY_RESOLUTION = 0.3
WITHIN = 0.2


def counts(labels: NDArray[np.integer]) -> dict[str, float]:
    """Number of communities: all, without small ones, and the exponential of the entropy of their shares."""
    sizes = np.bincount(labels)
    shares = sizes / sizes.sum()
    return {
        "all": float(len(sizes)),
        "not small": float(max((shares >= SMALL).sum(), 1)),
        "by entropy": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def row_of(file: Path) -> dict[str, Any]:
    """Features of a task that the rules read, with its number of types."""
    name, _, number = file.stem.rpartition(".")
    with np.load(file) as kept:
        space = space_of(kept)
        seen = {"cells": float(space.n_obs), "depth": float(np.median(kept["counts_total"]))}
        n_types = len(np.unique(kept["truth"]))
        peer = len(np.unique(kept["pca_leiden_1"]))
    space = space.of(space.sample(MAX_CELLS))
    for view, graph in (("embedding", space.embedding_graph), ("expression", space.expression_graph)):
        for resolution in RESOLUTIONS:
            labels = leiden(graph, resolution, 0)
            seen |= {f"{view} {resolution} {kind}": value for kind, value in counts(labels).items()}
            if resolution == STABILITY_RESOLUTION:
                seen[f"{view} stability"] = float(adjusted_rand_score(labels, leiden(graph, resolution, 1)))
    return {"set": name, "number": number, "n_types": n_types, "pca_leiden_1": peer, "seen": seen}


def learned(rows: list[dict[str, Any]]) -> dict[str, NDArray[np.int64]]:
    """Numbers of types predicted by regressions that are fitted to the other data sets, by name of the regression."""
    seen = pd.DataFrame([row["seen"] for row in rows])
    features = pd.DataFrame({name: each if "stability" in name else np.log(each) for name, each in seen.items()})
    target = np.log([row["n_types"] for row in rows])
    models = {
        "ridge regression": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 20))),
        "random forest": RandomForestRegressor(300, min_samples_leaf=3, random_state=0),
    }
    sets = [row["set"] for row in rows]
    return {
        f"learned: {name}": np.rint(
            np.exp(cross_val_predict(model, features, target, groups=sets, cv=LeaveOneGroupOut()))
        ).astype(np.int64)
        for name, model in models.items()
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown table: bias and error of the logarithm, and the share within a fifth of the number of types."""
    told = {
        f"{view}, resolution {resolution}": np.array([row["seen"][f"{view} {resolution} all"] for row in rows])
        for view in ("embedding", "expression")
        for resolution in RESOLUTIONS
    }
    told["PCA + Leiden, resolution 1"] = np.array([row["pca_leiden_1"] for row in rows])
    told |= learned(rows)
    n_types = np.array([row["n_types"] for row in rows])
    sets = pd.Series([row["set"] for row in rows])
    lines = []
    for name, number in told.items():
        error = pd.Series(np.log(number / n_types))
        within = pd.Series(np.abs(number - n_types) <= WITHIN * n_types)
        bias, share = (each.groupby(sets).mean().mean() for each in (error, within.astype(float)))
        lines.append([name, f"{bias:+.3f}", f"{error.std():.3f}", f"{share:.2f}"])
    title = f"{len(rows)} tasks of {sets.nunique()} data sets."
    return "\n\n".join([title, markdown(["number told by", "bias, log", "sd, log", "within 20 %"], lines)])


def main(arguments: list[str] | None = None) -> int:
    """Count the communities of every task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder that benchmarks.tasks embed has written")
    parser.add_argument("--out", type=Path, help="rows of results, JSON lines; written anew")
    parser.add_argument("--report", type=Path, help="only print the table of such rows")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if (args.folder is None) == (args.report is None):
        parser.error("either FOLDER or --report is needed")
    rows = (
        read_results(args.report) if args.report else [row_of(file) for file in sorted(args.folder.glob("[!.]*.npz"))]
    )
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
