"""Which first partition? Candidates on the same networks, known number of clusters; see README.md.

    python -m benchmarks.n_clusters --data DIR --out n_clusters.jsonl --points points    # trains the networks
    python -m benchmarks.first_partition points [--seeds 0] > first_partition.md

The last line guards against fitting the data sets: for each of them, the candidate is the one with the best mean ARI over the
*other* real sets, and its ARI on the set left out is counted.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks.table import markdown
from scsiameseclu.train import _partition as partition

DIMS = (10, 15, 20, 30)


def candidates(points: NDArray[np.float32], n_clusters: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Partitions by name: the starts, the mixture of each, and the likeliest mixture, by number of components."""
    starts = partition._starts(points, n_clusters, seed)
    found = dict(starts)
    for dims in DIMS:
        for name, start in starts.items():
            found[f"mixture from {name}, {dims} components"] = partition._fit_mixture(
                points[:, :dims].astype(np.float64), start
            )[1]
        likeliest = partition._likeliest(points[:, :dims], starts, n_clusters)
        found[f"likeliest mixture, {dims} components"] = starts["k-means"] if likeliest is None else likeliest
    return found


def judge(folder: Path, seeds: list[int]) -> pd.DataFrame:
    """ARI and NMI of every candidate on every network in the folder."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.npz")):
        name, seed = path.stem.rsplit(".", 1)
        if int(seed) not in seeds:
            continue
        with np.load(path) as kept:
            points, truth = kept["points"], kept["truth"]
        for candidate, labels in candidates(points, len(set(truth)), int(seed)).items():
            scores = {"ari": adjusted_rand_score(truth, labels), "nmi": normalized_mutual_info_score(truth, labels)}
            rows.append({"set": name, "seed": int(seed), "candidate": candidate, **scores})
        print(f"{name} seed {seed}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def left_out(scores: pd.DataFrame) -> float:
    """Mean over sets of the candidate that is best on the others; ``scores`` is sets x candidates."""
    chosen = [scores.drop(index=name).mean().idxmax() for name in scores.index]
    return float(np.mean([scores.loc[name, best] for name, best in zip(scores.index, chosen, strict=True)]))


def _instead(candidate: str) -> str:
    """Where a start does not exist (no resolution with so many communities), its candidates are those of k-means."""
    return candidate.replace("Ward", "k-means").replace("Leiden", "k-means")


def report(frame: pd.DataFrame) -> str:
    """Markdown table: means over sets, real and simulated apart, and the leave-one-set-out figure."""
    simulated = frame["set"].str.startswith("sim_")
    tables = {}
    for score in ("ari", "nmi"):
        for kind, part in (("real", frame[~simulated]), ("simulated", frame[simulated])):
            wide = part.pivot_table(index=["set", "seed"], columns="candidate", values=score, sort=False)
            for column in wide:
                wide[column] = wide[column].fillna(wide[_instead(str(column))])
            wide = wide.groupby("set", sort=False).mean()
            tables[f"{score.upper()}, {kind} ({len(wide)} sets)"] = wide
    lines = [
        [name, *[f"{wide[name].mean():.3f}" if name in wide else "-" for wide in tables.values()]]
        for name in frame["candidate"].unique()
    ]
    chosen = [f"{left_out(wide):.3f}" if len(wide) > 2 else "-" for wide in tables.values()]
    return markdown(["first partition", *tables], [*lines, ["best on the other sets", *chosen]])


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path, help="folder given to benchmarks.n_clusters as --points")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    frame = judge(args.points, args.seeds)
    if frame.empty:
        parser.error(f"no networks in {args.points}")
    print(report(frame))
    return 0


if __name__ == "__main__":
    sys.exit(main())
