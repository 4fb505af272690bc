"""Are the probabilities of the soft assignment right? Simulated cells of known types, from easy to hard; see README.md.

    python -m benchmarks.calibration --out calibration.jsonl [--seeds 0 1 2] [--figure calibration.png]
        [--no-clustering]

A cell is right if its cluster is matched to its type. Curves pool the cells of all seeds. ``--no-clustering`` is an
ablation without the clustering loss; write its results to a separate file.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.run import read_results
from benchmarks.table import markdown

N_BINS = 10
N_TYPES = 8
COMMON = {"n_obs": 3000, "n_vars": 2000, "n_types": N_TYPES, "n_markers": 30, "library_size": 2000.0}
DIFFICULTIES = {"easy": 4.0, "medium": 2.5, "hard": 2.0}
"""Median fold change of the markers."""


def simulate_and_cluster(difficulty: str, seed: int, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Cluster simulated cells; return the reliability curve and the share of right cells."""
    import scvi

    import scsiameseclu as ssc
    from scsiameseclu.metrics import _matching, expected_calibration_error, reliability_curve

    scvi.settings.seed = seed
    adata = ssc.datasets.synthetic(**COMMON, marker_fold=DIFFICULTIES[difficulty], seed=seed)
    truth = adata.obs.pop("cell_type").cat.codes.to_numpy().astype(np.int64)
    ssc.tl.cluster(adata, N_TYPES, model_kwargs=model_kwargs, train_kwargs={"enable_progress_bar": False})
    probs = np.asarray(adata.obsm["siamese_clu_probs"])
    found = probs.argmax(axis=1).astype(np.int64)
    types, clusters = _matching.match_groups(_matching.contingency(truth, found, N_TYPES, probs.shape[1]))
    type_of = np.full(probs.shape[1], -1)
    type_of[clusters] = types
    correct, confidence = type_of[found] == truth, probs.max(axis=1)
    curve = reliability_curve(confidence, correct, N_BINS).fillna(0.0)
    return {
        "difficulty": difficulty,
        "seed": seed,
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
        "error": expected_calibration_error(confidence, correct, N_BINS),
        "bins": {name: curve[name].tolist() for name in ("confidence", "accuracy", "n_cells")},
    }


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Curve over the cells of all seeds; bins without a cell are left out."""
    cells = np.array([bins["n_cells"] for bins in rows["bins"]], dtype=float)
    total = cells.sum(axis=0)
    keep = total > 0
    means = {
        name: (np.array([bins[name] for bins in rows["bins"]]) * cells).sum(axis=0)[keep] / total[keep]
        for name in ("confidence", "accuracy")
    }
    return pd.DataFrame({**means, "n_cells": total[keep]})


def report(frame: pd.DataFrame) -> str:
    """Markdown table: means over seeds, ± the standard deviation."""
    lines = []
    for difficulty in DIFFICULTIES:
        part = frame[frame["difficulty"] == difficulty]
        if len(part):
            cells = [
                f"{part[name].mean():.3f} ± {part[name].std():.3f}" for name in ("accuracy", "confidence", "error")
            ]
            lines.append([f"{difficulty} (fold {DIFFICULTIES[difficulty]:g})", str(len(part)), *cells])
    return markdown(["simulation", "seeds", "share right", "mean confidence", "expected calibration error"], lines)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Reliability curves."""
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    ax.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for difficulty in DIFFICULTIES:
        part = frame[frame["difficulty"] == difficulty]
        if len(part):
            curve = pooled(part)
            shown = curve[curve["n_cells"] >= 20]  # the share right of fewer cells is too noisy
            ax.plot(shown["confidence"], shown["accuracy"], marker="o", markersize=4, label=difficulty)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share right")
    ax.legend(title="simulated types", frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Run the missing simulations, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, JSON lines; appended to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="file of the curves")
    parser.add_argument("--no-clustering", action="store_true", help="without the clustering loss")
    args = parser.parse_args(arguments)
    model_kwargs = {"loss_weights": {"clustering": 0.0}} if args.no_clustering else {}
    warnings.filterwarnings("ignore")
    done = {(row["difficulty"], row["seed"]) for row in read_results(args.out)}
    for seed in args.seeds:
        for difficulty in DIFFICULTIES:
            if (difficulty, seed) not in done:
                row = simulate_and_cluster(difficulty, seed, model_kwargs)
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    frame = pd.DataFrame(read_results(args.out))
    print(report(frame))
    if args.figure:
        draw(frame, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
