"""Share of mapped cells that keep their cluster when genes of the model are missing.

    python -m benchmarks.missing_genes --data DIR --out missing.jsonl [--sets ...]
    python -m benchmarks.missing_genes --report missing.jsonl

A quarter of the cells is held out and mapped to a model of the other cells, first with all genes of the model and then
with a random part of the genes. Agreement is the share of cells that keep the cluster that they have with all genes.
The model is given the number of types. Labels are used for nothing else.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.run import known_cells, parsed_study, read_results, study_parser, versions
from benchmarks.tasks import LABEL, bootstrap_interval

MIN_CELLS = 600
SHARES = (0.9, 0.8, 0.65, 0.5, 0.35, 0.2)
VALUES = {"agreement": "same cluster", "confidence": "mean confidence", "above": "score above 0.95"}


def mapped(query: Any, model: Any) -> tuple[Any, float, float]:
    """Clusters, mean confidence, and share of cells above the default limit of the out-of-reference score."""
    import scsiameseclu as ssc

    ssc.tl.map(query, model, max_out_of_reference=None, min_gene_share=0.0, accelerator="cpu")
    above = (query.obs["siamese_clu_out_of_reference"] > 0.95).mean()
    return query.obs["siamese_clu"].astype(str).to_numpy(), float(query.obs["siamese_clu_confidence"].mean()), above


def run(adata: Any, seed: int) -> list[dict[str, Any]]:
    """Train one model, and map the held-out cells with all genes and with parts of the genes."""
    import scvi

    import scsiameseclu as ssc

    rng = np.random.default_rng(seed)
    held_out = rng.random(adata.n_obs) < 0.25
    n_clusters = adata.obs[LABEL].nunique()
    reference, query = adata[~held_out].copy(), adata[held_out].copy()
    del reference.obs[LABEL], query.obs[LABEL]
    scvi.settings.seed = seed
    model = ssc.tl.cluster(reference, n_clusters, train_kwargs={"accelerator": "cpu", "enable_progress_bar": False})
    query = query[:, model.adata.var_names].copy()
    whole, *_ = mapped(query.copy(), model)
    rows = []
    for share in SHARES:
        present = rng.random(query.n_vars) < share
        labels, confidence, above = mapped(query[:, present].copy(), model)
        agreement = float((labels == whole).mean())
        rows.append({"share": share, "agreement": agreement, "confidence": confidence, "above": float(above)})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """Means over data sets with intervals over data sets."""
    frame = pd.DataFrame(rows)
    lines = [f"| genes present | {' | '.join(VALUES.values())} |", "| --- " * (len(VALUES) + 1) + "|"]
    for share in SHARES:
        of_share = frame[frame["share"] == share].groupby("set")[list(VALUES)].mean()
        cells = []
        for name in VALUES:
            low, high = bootstrap_interval(of_share[name].to_numpy())
            cells.append(f"{of_share[name].mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {share:.0%} | {' | '.join(cells)} |")
    return "\n".join([f"{frame['set'].nunique()} data sets.", "", *lines])


def main(argv: list[str] | None = None) -> None:
    """Run everything that is missing in the results file, or print the report."""
    args = parsed_study(study_parser(__doc__), argv)
    if args.report:
        print(report(read_results(args.report)))
        return
    done = {(row["set"], row["seed"]) for row in read_results(args.out)}
    for name, adata in known_cells(args.data, LABEL, args.sets, MIN_CELLS):
        if (name, args.seed) in done:
            continue
        job = {"set": name, "seed": args.seed, "versions": versions()}
        with args.out.open("a") as file:
            file.writelines(json.dumps({**job, **row}) + "\n" for row in run(adata, args.seed))
        print(name, flush=True)


if __name__ == "__main__":
    main()
