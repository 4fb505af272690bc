"""Markdown tables of a results file: per data set, means over data sets, mean ranks, and gaps to the best peer.

    python -m benchmarks.table results.jsonl [--methods 'siamese*' 'pca*'] [--sets ...]

Every figure is a mean over seeds, ± the standard deviation over seeds. No seed or setting is chosen by its score.
Methods that are given the number of types are ranked apart from methods that find the number of clusters.
"""

import argparse
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.methods import METHODS
from benchmarks.run import read_results

SCORES = {
    "acc": "ACC",
    "nmi": "NMI",
    "ari": "ARI",
    "f1_macro": "F1",
    "rare_recall": "rare",
    "silhouette": "sil.",
    "scib": "scib",
}
RANKED = ("acc", "nmi", "ari", "f1_macro")
GROUPS = {True: "number of types given", False: "number of clusters found"}


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table. Of runs that occur twice, the last row is taken. Missing scores are NaN."""
    frame = pd.DataFrame(rows).drop_duplicates(["set", "method", "seed"], keep="last")
    for score in (*SCORES, "seconds", "peak_gb"):
        frame[score] = pd.to_numeric(frame[score]) if score in frame else float("nan")
    return frame


def in_order(frame: pd.DataFrame) -> list[str]:
    """Methods in the order of the registry; methods with a tag come after methods without a tag."""
    names = list(METHODS)
    rank = {method: names.index(base_name(method)) for method in frame["method"].unique()}
    return sorted(rank, key=lambda method: (rank[method], method))


def base_name(method: str) -> str:
    """Name of a method without its tag: the longest name of the registry that begins the name."""
    return max((name for name in METHODS if method.startswith(name)), key=len)


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation; for a single value, only the mean."""
    values = values.dropna()
    if len(values) == 0:
        return "-"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def shown_scores(frame: pd.DataFrame) -> list[str]:
    """Scores that any run has."""
    return [score for score in SCORES if frame[score].notna().any()]


def per_set(frame: pd.DataFrame) -> str:
    """One line per data set and method."""
    scores = shown_scores(frame)
    header = ["data set (cells, types)", "method", "seeds", *(SCORES[score] for score in scores), "K", "s", "GB"]
    lines = []
    for name, of_set in frame.groupby("set"):
        first = of_set.iloc[0]
        for method in in_order(of_set):
            runs = of_set[of_set["method"] == method]
            title = f"{name} ({first['n_obs']}, {first['n_types']})"
            lines.append([title, method, str(len(runs)), *(spread(runs[score]) for score in scores), *_costs(runs)])
    return markdown(header, lines)


def over_sets(frame: pd.DataFrame) -> str:
    """Means over data sets, for each seed; the spread is the spread of these means over seeds, not over data sets.

    Only seeds that a method has run on all of its data sets are used. The table shows the number of data sets.
    """
    scores = shown_scores(frame)
    n_sets = frame["set"].nunique()
    header = ["method", "sets", "seeds", *(SCORES[score] for score in scores), "K", "median s", "max GB"]
    lines = []
    for method in in_order(frame):
        runs = frame[frame["method"] == method]
        found = runs["set"].nunique()
        whole = runs.groupby("seed").filter(lambda of_seed, found=found: of_seed["set"].nunique() == found)
        whole = whole if len(whole) else runs
        means = whole.groupby("seed")[scores].mean()
        figures = [spread(means[score]) for score in scores]
        lines.append([method, f"{found} of {n_sets}", str(len(means)), *figures, *_costs(whole)])
    return markdown(header, lines)


def _costs(runs: pd.DataFrame) -> list[str]:
    return [f"{runs['n_clusters'].mean():.1f}", f"{runs['seconds'].median():.0f}", f"{runs['peak_gb'].max():.2f}"]


def ranks(frame: pd.DataFrame) -> str:
    """Mean rank (1 is best; ties share) over the sets that all methods of the group have run."""
    parts = []
    for given, title in GROUPS.items():
        group = frame[frame["k_given"] == given]
        methods = in_order(group)
        if len(methods) < 2:
            continue
        means = group.groupby(["set", "method"])[list(RANKED)].mean().unstack("method").dropna()
        if means.empty:
            parts.append(f"{title}: no data set that all {len(methods)} methods have run.")
            continue
        table = pd.DataFrame(
            {score: means[score].rank(axis=1, ascending=False).mean() for score in RANKED}, index=methods
        )
        table.insert(0, "mean", table.mean(axis=1))
        table = table.sort_values("mean", kind="stable")
        lines = [[method, *(f"{value:.2f}" for value in row)] for method, row in table.iterrows()]
        header = [f"method ({title}, {len(means)} sets)", "mean rank", *(SCORES[score] for score in RANKED)]
        parts.append(markdown(header, lines))
    return "\n\n".join(parts)


def gaps(frame: pd.DataFrame) -> str:
    """Distance of each of our methods above (+) or below (-) the best peer of its group, by data set.

    The best peer of each data set is chosen by its scores. This choice favours the peers, because no single peer is the
    best on all data sets.
    """
    ours = [method for method in in_order(frame) if METHODS[base_name(method)].ours]
    parts = []
    for method in ours:
        given = bool(frame.loc[frame["method"] == method, "k_given"].iloc[0])
        group = frame[frame["k_given"] == given]
        means = group.groupby(["set", "method"])[list(RANKED)].mean()
        lines, values = [], {score: [] for score in RANKED}
        for name in sorted(group.loc[group["method"] == method, "set"].unique()):
            peers = means.loc[name].drop(index=ours, errors="ignore")
            if peers.empty:
                continue
            cells = []
            for score in RANKED:
                gap = means.loc[(name, method), score] - peers[score].max()
                values[score].append(gap)
                cells.append(f"{gap:+.3f} ({peers[score].idxmax()})")
            lines.append([name, *cells])
        if lines:
            lines.append(["**worst**", *(f"**{min(values[score]):+.3f}**" for score in RANKED)])
            parts.append(markdown([f"{method}: gap to the best peer", *(SCORES[score] for score in RANKED)], lines))
    return "\n\n".join(parts)


def render(rows: list[dict[str, Any]]) -> str:
    """All tables of the results."""
    frame = as_frame(rows)
    titled = {
        "Mean over data sets": over_sets(frame),
        "Mean rank": ranks(frame),
        "Gap to the best peer": gaps(frame),
        "Each data set": per_set(frame),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in titled.items() if text) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables of a results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--methods", nargs="+", default=["*"], help="names or patterns; tags are part of the names")
    parser.add_argument("--sets", nargs="+", help="only sets whose name contains one of these")
    args = parser.parse_args(arguments)
    rows = [row for row in read_results(args.results) if any(fnmatchcase(row["method"], p) for p in args.methods)]
    if args.sets:
        rows = [row for row in rows if any(name in row["set"] for name in args.sets)]
    if not rows:
        parser.error(f"no such results in {args.results}")
    print(render(rows))


if __name__ == "__main__":
    main()
