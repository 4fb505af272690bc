"""How many epochs do many cells need? Comparison of training schedules on enlarged real data.

    python -m benchmarks.schedule --data DIR --out schedule.jsonl [--cells 20000] [--schedules 10+6 5+3] [--sets ...]
    python -m benchmarks.schedule --report schedule.jsonl

A data set is enlarged by drawing its cells with replacement and thinning the counts of every drawn cell to a share
between 0.5 and 0.9, so that no two cells are the same. "10+6" means ten epochs before the clustering loss and six
epochs with the clustering loss. The model is given the number of types. Labels are used only for the scores. Data sets
below 1,700 cells are left out, because their cells would be drawn more than twelve times.
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from benchmarks.run import append_result, known_cells, parsed_study, read_results, study_parser, versions
from benchmarks.scoring import score_labels
from benchmarks.tasks import LABEL, bootstrap_interval

MIN_CELLS = 1700
SHARES = (0.5, 0.9)
SCORES = {"ari": "ARI", "nmi": "NMI", "f1_macro": "F1"}


def enlarged(adata: AnnData, n_obs: int, seed: int) -> AnnData:
    """Cells drawn with replacement, with thinned counts and known types."""
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(adata.obs[LABEL].notna())
    cells = adata[rng.choice(known, n_obs)].copy()
    counts = sparse.csr_matrix(cells.X)
    shares = np.repeat(rng.uniform(*SHARES, n_obs), np.diff(counts.indptr))
    counts.data = rng.binomial(np.round(counts.data).astype(np.int64), shares).astype(np.float32)
    counts.eliminate_zeros()
    result = AnnData(counts, obs=pd.DataFrame({LABEL: cells.obs[LABEL].astype(str).to_numpy()}))
    result.obs_names = [f"cell_{number}" for number in range(n_obs)]
    return result


def run(cells: AnnData, schedule: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model on one enlarged data set."""
    import scvi

    import scsiameseclu as ssc

    n_pretrain, n_cluster = (int(number) for number in schedule.split("+"))
    adata = enlarged(cells, args.cells, args.seed)
    truth = adata.obs.pop(LABEL).to_numpy()
    scvi.settings.seed = args.seed
    start = time.process_time()
    ssc.tl.cluster(
        adata,
        len(np.unique(truth)),
        train_kwargs={
            "max_epochs": n_pretrain + n_cluster,
            "plan_kwargs": {"n_pretrain_epochs": n_pretrain},
            "accelerator": args.accelerator,
            "enable_progress_bar": False,
        },
    )
    seconds = time.process_time() - start
    scores = score_labels(truth, adata.obs["siamese_clu"].to_numpy())
    return {"cpu_seconds": round(seconds, 1), **scores, "versions": versions()}


def report(rows: list[dict[str, Any]]) -> str:
    """Means over data sets, and differences to the first schedule with intervals over data sets."""
    frame = pd.DataFrame(rows)
    schedules = list(dict.fromkeys(frame["schedule"]))
    lines = ["| epochs | sets | ARI | NMI | F1 | CPU s |", "| --- | --- | --- | --- | --- | --- |"]
    for name in schedules:
        rows_of = frame[frame["schedule"] == name]
        means = " | ".join(f"{rows_of[score].mean():.3f}" for score in SCORES)
        lines.append(f"| {name} | {rows_of['set'].nunique()} | {means} | {rows_of['cpu_seconds'].mean():.0f} |")
    lines += ["", "| difference | ARI | NMI | F1 |", "| --- | --- | --- | --- |"]
    for name in schedules[1:]:
        cells = []
        for score in SCORES:
            by_set = frame.pivot_table(index="set", columns="schedule", values=score)[[name, schedules[0]]].dropna()
            apart = (by_set[name] - by_set[schedules[0]]).to_numpy()
            low, high = bootstrap_interval(apart)
            cells.append(f"{apart.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {name} - {schedules[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run everything that is missing in the results file, or print the report."""
    parser = study_parser(__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--schedules", nargs="+", default=["10+6", "5+3"])
    parser.add_argument("--accelerator", default="cpu")
    args = parsed_study(parser, argv)
    if args.report:
        print(report(read_results(args.report)))
        return
    done = {(row["set"], row["schedule"], row["cells"], row["seed"]) for row in read_results(args.out)}
    for name, adata in known_cells(args.data, LABEL, args.sets, MIN_CELLS):
        for schedule in args.schedules:
            job = {"set": name, "schedule": schedule, "cells": args.cells, "seed": args.seed}
            if tuple(job.values()) not in done:
                append_result(args.out, {**job, **run(adata, schedule, args)})


if __name__ == "__main__":
    main()
