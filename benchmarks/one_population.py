"""Does ``n_clusters="auto"`` find one cluster in one population, and is no split significant? See README.md.

    python -m benchmarks.one_population --keep FOLDER [--seeds 16] [--data DIR] > one_population.md

Simulated populations have 300, 800 or 2,000 cells, three depths and three amounts of noise; every second one varies
along one continuous axis. With ``--data``, each of the three largest types of every labelled data set is taken alone,
thinned to a random depth. A real type may hold several populations that its label does not distinguish (cell cycle,
technologies, subtypes), so one cluster is not always the truth. The embedding and the decoded expression of a network
after pretraining are kept in ``--keep`` and reused.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from benchmarks.n_clusters import embed_and_decode
from benchmarks.run import labelled_files
from benchmarks.table import markdown
from benchmarks.tasks import LABEL, task_rng, thin
from scsiameseclu.partition import Space, choose_n_clusters, partition_cells
from scsiameseclu.partition._hierarchy import grow
from scsiameseclu.partition._splits import describe

N_GENES = 1500
MIN_CELLS, MAX_CELLS = 120, 1500
N_TYPES = 3
SIGNIFICANCE = 0.05


def simulate(seed: int) -> AnnData:
    """Negative binomial counts of one population, with one continuous axis of variation for odd seeds."""
    rng = np.random.default_rng(seed)
    n_cells, dispersion = (300, 800, 2000)[seed % 3], (1.0, 3.0, 10.0)[seed % 3]
    share = rng.gamma(0.5, 1.0, N_GENES) * np.exp(rng.normal(0.0, 1.0, N_GENES))
    depth = rng.lognormal(np.log((800, 2500, 6000)[(seed // 3) % 3]), 0.35, n_cells)
    rate = share / share.sum() * depth[:, None]
    if seed % 2:
        axis = rng.normal(0.0, 0.15, N_GENES)
        rate = rate * np.exp(rng.normal(0.0, 1.0, n_cells)[:, None] * axis)
    counts = rng.poisson(rate * rng.gamma(dispersion, 1.0 / dispersion, rate.shape))
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)))


def single_types(path: Path) -> Iterator[tuple[str, AnnData]]:
    """The largest types of a labelled set, each alone and without its label."""
    adata = ad.read_h5ad(path)
    sizes = adata.obs[LABEL].value_counts()
    for name in sizes.index[:N_TYPES]:
        if sizes[name] < MIN_CELLS:
            continue
        rng = task_rng(f"{path.stem}{name}", 0, 0)
        rows = np.flatnonzero((adata.obs[LABEL] == name).to_numpy())
        if len(rows) > MAX_CELLS:
            rows = np.sort(rng.choice(rows, MAX_CELLS, replace=False))
        cells = AnnData(thin(adata.X[rows], rng)[0], obs=pd.DataFrame(index=adata.obs_names[rows].copy()))
        cells.var_names = adata.var_names
        cells.obs_names_make_unique()
        cells.var_names_make_unique()
        yield f"{path.stem}, {name}", cells


def answer(name: str, cells: AnnData, seed: int, folder: Path) -> dict[str, Any]:
    """Number of clusters and significant splits that are found in one population."""
    path = folder / f"{''.join(each if each.isalnum() else '_' for each in name)}.npz"
    if not path.exists():
        embedding, expression = embed_and_decode(cells, seed)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez_compressed(unfinished, embedding=embedding, expression=expression)
        os.replace(unfinished, path)
    with np.load(path) as kept:
        space = Space(kept["expression"], kept["embedding"], 0)
    found = choose_n_clusters(space)
    # A tree through three clusters, although there is one population.
    hierarchy, groups = grow(space, partition_cells(space, 3))
    p_values = [float(split["p_value"]) for split in describe(hierarchy, groups, space, None, [])]
    return {
        "population": name,
        "cells": cells.n_obs,
        "K": found.n_clusters,
        "separability": found.separability,
        "splits": len(p_values),
        "significant": sum(each <= SIGNIFICANCE for each in p_values),
        "K of tree": int(hierarchy.cut_at(p_values, SIGNIFICANCE).max()) + 1,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown table, and the share of answers of 1 by kind."""
    lines = [
        [
            row["population"],
            row["cells"],
            row["K"],
            f"{row['separability']:.2f}",
            row["splits"],
            row["significant"],
            row["K of tree"],
        ]
        for row in rows
    ]
    head = [
        "population",
        "cells",
        "K",
        "relative separability",
        "splits of the tree",
        "p of at most .05",
        "K of the tree at .05",
    ]
    table = markdown(head, [[str(each) for each in line] for line in lines])
    shares = []
    for kind, simulated in (("simulated", True), ("real", False)):
        part = [row for row in rows if row["population"].startswith("simulated") == simulated]
        if part:
            ones, of_tree = (sum(row[key] == 1 for row in part) for key in ("K", "K of tree"))
            significant, splits = (sum(row[key] for row in part) for key in ("significant", "splits"))
            shares.append(
                f"{kind}: auto answers 1 in {ones} of {len(part)}; {significant} of {splits} splits have a p value of "
                f"at most {SIGNIFICANCE}, and the tree cut there is one cluster in {of_tree}."
            )
    return "\n".join([table, "", *shares])


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="folder for what the rule reads")
    parser.add_argument("--seeds", type=int, default=16, help="number of simulated populations")
    parser.add_argument("--data", type=Path, help="folder with labelled .h5ad files")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    args.keep.mkdir(parents=True, exist_ok=True)
    populations = [(f"simulated {seed}", simulate(seed), seed) for seed in range(args.seeds)]
    for path in labelled_files(args.data, LABEL) if args.data else []:
        populations += [(name, cells, 0) for name, cells in single_types(path)]
    rows = []
    for name, cells, seed in populations:
        rows.append(answer(name, cells, seed, args.keep))
        print(rows[-1], file=sys.stderr, flush=True)
    print(report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
