"""Benefit of each part of the method: the default with one part changed, on every data set; see README.md.

    python -m benchmarks.ablations --data DIR --out ablations.jsonl [--variants no_reconstruction ...] [--seeds 0 1]
    python -m benchmarks.ablations --report accuracy.jsonl ablations.jsonl > ablations.md

Each variant is a run of ``siamese_k`` with a tag (see ``benchmarks.run``), resumable in the same way. The report
compares every variant with the default on the same data set and seed. The difference is averaged over seeds, then over
data sets. The interval is a bootstrap over data sets, because a new user has another data set, not another seed.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import run
from benchmarks.table import as_frame, markdown

BASE = "siamese_k"
SCORES = {"ari": "ARI", "nmi": "NMI", "acc": "ACC", "rare_recall": "rare"}


def _losses(**weights: float) -> dict[str, Any]:
    return {"model_kwargs": {"loss_weights": weights}}


def _model(**arguments: Any) -> dict[str, Any]:
    return {"model_kwargs": arguments}


def _plan(**arguments: Any) -> dict[str, Any]:
    return {"train_kwargs": {"plan_kwargs": arguments}}


PAPER: dict[str, tuple[str, dict[str, Any]]] = {
    "mean_fusion": ("plain mean instead of the fusion module", _model(fusion="mean")),
    "zinb": ("zero-inflated counts (ZINB) instead of NB", _model(gene_likelihood="zinb")),
    "no_clustering": ("without the clustering loss", _losses(clustering=0.0)),
    "cell_level": ("with cell-level correlation, 0.2 (off by default)", _losses(cell_correlation=0.2)),
    "no_latent_level": ("without latent-level correlation", _losses(latent_correlation=0.0, cross_correlation=0.0)),
    "propagation": ("with the propagation regulariser, 1 (off by default)", _losses(propagation=1.0)),
    "diffusion": ("with diffusion of the graph (off by default)", {"setup_kwargs": {"diffusion": True}}),
    "no_reconstruction": ("without reconstruction", _losses(reconstruction=0.0)),
}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_partner": ("second view: the same cell, not a neighbour", _plan(partner_views=False)),
    "no_expression_noise": ("expression not augmented", _model(swap_rate=0.0, noise_sd=0.0)),
    "no_edge_drop": ("graph not augmented", _model(edge_drop_rate=0.0)),
    "no_cross": ("without correlation across the branches", _losses(cross_correlation=0.0)),
    "expression_only": ("embedding of the expression branch alone", _model(fusion="expression")),
    "graph_only": ("embedding of the graph branch alone", _model(fusion="graph")),
    "student_t": ("Student-t kernel instead of cosine", _model(kernel="student_t")),
    "fixed_masses": ("cluster masses of the first partition kept", _plan(marginal_momentum=1.0)),
    "no_warmup": ("transport targets from the first clustering epoch on", _plan(n_warmup_epochs=0)),
}
VARIANTS = {**PAPER, **OURS}


def paired(frame: pd.DataFrame, tag: str, score: str) -> pd.Series:
    """Difference of a variant to the default per data set, mean over the seeds of both."""
    wide = frame.pivot_table(index=["set", "seed"], columns="method", values=score)
    if f"{BASE}:{tag}" not in wide or BASE not in wide:
        return pd.Series(dtype=float)
    return (wide[f"{BASE}:{tag}"] - wide[BASE]).dropna().groupby("set").mean()


def interval(values: NDArray[np.float64], n_draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, with the same draws on each call."""
    draws = np.random.default_rng(0).choice(values, (n_draws, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def report(frame: pd.DataFrame) -> str:
    """Markdown table of the differences to the default."""
    lines = []
    for tag, (what, _) in VARIANTS.items():
        differences = {score: paired(frame, tag, score) for score in SCORES}
        ari = differences["ari"]
        if ari.empty:
            continue
        low, high = interval(ari.to_numpy())
        runs = frame[frame["method"].isin([BASE, f"{BASE}:{tag}"])]
        n_pairs = int((runs.groupby(["set", "seed"]).size() == 2).sum())
        means = [f"{each.mean():+.3f}" if len(each) else "-" for each in differences.values()]
        ours = "paper" if tag in PAPER else "ours"
        worse = f"{int((ari < -0.01).sum())} / {int((ari > 0.01).sum())}"
        lines.append([what, ours, f"{len(ari)} ({n_pairs})", means[0], f"{low:+.3f} to {high:+.3f}", *means[1:], worse])
    names = list(SCORES.values())
    header = [
        "change",
        "part of",
        "sets (pairs of runs)",
        f"{names[0]}, difference",
        "95 % interval",
        *names[1:],
        "worse / better by .01",
    ]
    return markdown(header, lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the missing variants, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, nargs="+", help="results files of the default and of the variants")
    parser.add_argument("--data", type=Path, help="folder of .h5ad files")
    parser.add_argument("--out", type=Path, help="results, JSON lines; appended to")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    args, rest = parser.parse_known_args(arguments)
    if args.report:
        print(report(as_frame([row for path in args.report for row in run.read_results(path)])))
        return 0
    if not (args.data and args.out):
        parser.error("give --data and --out, or --report")
    failed = 0
    for seed in args.seeds:
        for tag in args.variants:
            common = ["--data", str(args.data), "--out", str(args.out), "--methods", BASE, "--seeds", seed, *rest]
            failed += run.main([*common, "--tag", f":{tag}", "--settings", json.dumps(VARIANTS[tag][1])])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
