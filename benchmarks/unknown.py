"""Shares of unassigned cells: of a type that the reference lacks, and of the other cells (ordinary cells).

    python -m benchmarks.unknown --data DIR --out unknown.jsonl [--types 2] [--sets ...]
    python -m benchmarks.unknown --report unknown.jsonl

One type at a time is withheld, drawn among types with 2 to 40 % of the cells. The reference is 80 % of the other cells.
The query is the withheld type and the remaining 20 % of the other cells. Labels are used to choose the withheld type
and to score the result. A row has, for every limit of the out-of-reference score, the share of the withheld type and
the share of the ordinary cells above the limit.
"""

import zlib
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.run import append_result, known_cells, parsed_study, read_results, study_parser, versions
from benchmarks.tasks import LABEL, bootstrap_interval

MIN_CELLS = 600
SHARES = (0.02, 0.4)
LIMITS = (0.8, 0.9, 0.95, 0.98, 0.99)


def withheld_types(types: pd.Series, name: str, n_types: int) -> list[str]:
    """Types to withhold from a data set, drawn at random; the same in every run."""
    shares = types.value_counts(normalize=True)
    usual = sorted(shares.index[shares.between(*SHARES)])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return list(rng.permutation(usual)[:n_types]) if shares.size > 2 else []


def run(adata: Any, withheld: str, seed: int) -> dict[str, Any]:
    """Map a withheld type, and ordinary cells, to a model of the reference."""
    import scvi
    from sklearn.metrics import roc_auc_score

    import scsiameseclu as ssc

    types = adata.obs[LABEL].astype(str).to_numpy()
    unknown = types == withheld
    rng = np.random.default_rng(seed)
    in_reference = ~unknown & (rng.random(adata.n_obs) < 0.8)
    reference, query = adata[in_reference].copy(), adata[~in_reference].copy()
    is_new = unknown[~in_reference]
    for part in (reference, query):
        del part.obs[LABEL]
    scvi.settings.seed = seed
    n_clusters = len(np.unique(types[in_reference]))
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    model = ssc.tl.cluster(reference, n_clusters, train_kwargs=options)
    ssc.tl.map(query, model, accelerator="cpu")
    score = query.obs["siamese_clu_out_of_reference"].to_numpy()
    return {
        "n_reference": int(in_reference.sum()),
        "n_new": int(is_new.sum()),
        "n_ordinary": int((~is_new).sum()),
        "auc": float(roc_auc_score(is_new, score)),
        "new_above": {str(limit): float((score[is_new] > limit).mean()) for limit in LIMITS},
        "ordinary_above": {str(limit): float((score[~is_new] > limit).mean()) for limit in LIMITS},
        "versions": versions(),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Means over data sets with intervals over data sets."""
    frame = pd.DataFrame(rows)
    auc = frame.groupby("set")["auc"].mean().to_numpy()
    lines = [f"{len(frame)} withheld types of {len(auc)} sets; area under the curve {auc.mean():.3f}.", ""]
    lines += ["| limit | withheld type above | ordinary cells above |", "| --- | --- | --- |"]
    for limit in map(str, LIMITS):
        cells = []
        for column in ("new_above", "ordinary_above"):
            by_set = frame[column].map(lambda shares, limit=limit: shares[limit]).groupby(frame["set"]).mean()
            low, high = bootstrap_interval(by_set.to_numpy())
            cells.append(f"{by_set.mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {limit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run everything that is missing in the results file, or print the report."""
    parser = study_parser(__doc__)
    parser.add_argument("--types", type=int, default=2, help="types withheld of every data set, one at a time")
    args = parsed_study(parser, argv)
    if args.report:
        print(report(read_results(args.report)))
        return
    done = {(row["set"], row["withheld"], row["seed"]) for row in read_results(args.out)}
    for name, adata in known_cells(args.data, LABEL, args.sets, MIN_CELLS):
        for withheld in withheld_types(adata.obs[LABEL].astype(str), name, args.types):
            job = {"set": name, "withheld": str(withheld), "seed": args.seed}
            if tuple(job.values()) not in done:
                append_result(args.out, {**job, **run(adata, withheld, args.seed)})


if __name__ == "__main__":
    main()
