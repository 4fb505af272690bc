"""Agreement between seeds, and whether their consensus is better than one run; see README.md.

    python -m benchmarks.run --data DIR --out seeds.jsonl --keep runs --methods siamese_k --seeds 0 1 2 3 4 5 6 7 8 9
    python -m benchmarks.stability runs [--method siamese_k] > stability.md

The first command keeps the clusters of every run. The second command prints the table.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from benchmarks.table import markdown


def read_runs(folder: Path, method: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Kept runs by data set and seed."""
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(folder.glob(f"*.{method.replace(':', '-')}.*.npz")):
        name, _, seed = path.stem.rsplit(".", 2)
        with np.load(path) as kept:
            runs[name][int(seed)] = {key: kept[key] for key in ("clusters", "labels", "labelled")}
    return dict(runs)


def agreement(runs: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Pairwise ARI of the runs of one data set, and ARI of the runs and of their consensus with the known types."""
    import scsiameseclu as ssc

    seeds = sorted(runs)
    first = runs[seeds[0]]
    cells = AnnData(np.zeros((len(first["clusters"]), 1), dtype=np.float32))
    labels = pd.DataFrame({f"seed {seed}": runs[seed]["clusters"].astype(str) for seed in seeds}, index=cells.obs_names)
    result = ssc.tl.stability(cells, labels=labels)
    pairs = result.ari.to_numpy()[np.triu_indices(len(seeds), 1)]
    known = first["labelled"]

    def ari(clusters: Any) -> float:
        return float(adjusted_rand_score(first["labels"], np.asarray(clusters)[known]))

    return {
        "n_runs": len(seeds),
        "mean": float(pairs.mean()),
        "lowest": float(pairs.min()),
        "cells": float(result.cell_stability.mean()),
        "single": float(np.mean([ari(runs[seed]["clusters"]) for seed in seeds])),
        "consensus": ari(result.consensus.astype(str)),
    }


def report(runs: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Markdown table, a line per data set and their mean."""
    found = pd.DataFrame({name: agreement(of_set) for name, of_set in runs.items() if len(of_set) > 1}).T
    found.loc["mean"] = found.mean()
    lines = [
        [str(name), f"{row['n_runs']:.3g}", *[f"{row[key]:.3f}" for key in found.columns[1:]]]
        for name, row in found.iterrows()
    ]
    return markdown(
        [
            "set",
            "seeds",
            "ARI between seeds",
            "lowest pair",
            "cell stability",
            "ARI with types, one run",
            "ARI with types, consensus",
        ],
        lines,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder given to benchmarks.run as --keep")
    parser.add_argument("--method", default="siamese_k")
    args = parser.parse_args(arguments)
    runs = read_runs(args.runs, args.method)
    if not any(len(of_set) > 1 for of_set in runs.values()):
        parser.error(f"expected at least two runs of {args.method} on one set in {args.runs}, found {len(runs)} sets")
    print(report(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
