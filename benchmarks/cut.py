"""Compare rules for the cut of an embedding into clusters, and for the number of clusters; see README.md.

The embeddings are the embeddings that ``benchmarks.tasks embed`` kept.

    python -m benchmarks.tasks embed --data DIR --keep FOLDER
    python -m benchmarks.cut FOLDER --keep-candidates FOLDER2 [--out cut.jsonl] [--sets ...] [--numbers ...]
    python -m benchmarks.cut --report cut.jsonl > cut.md

The slow step is done once per file. It makes all candidate partitions into as many clusters as there are types, and
computes the values of the label-free judges and the scores by labels for each candidate. Kept results are not made
again, even if the version of the package has changed, so empty the folder after a change of the candidates. A rule
takes one candidate of every task, by name or by the ranks of the judges. Rules can therefore be compared in seconds. If
a candidate did not reach the number of clusters, a rule that takes this candidate by name gets k-means on expression
instead.

"Best on the other sets" takes for every data set the rule with the highest mean ARI + F1 over the other data sets, and
scores this rule on the data set that was left out. Figures are means over the tasks of a data set, then over data sets.
Intervals are over data sets. All figures are for the pretrained network, before the clustering phase.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.run import read_results
from benchmarks.table import markdown
from benchmarks.tasks import PEERS, SCORES, _mean_over_sets, _run, differences_table
from scsiameseclu.partition import Space, choose_n_clusters, partition_cells
from scsiameseclu.partition._candidates import candidates, leiden
from scsiameseclu.partition._judges import AGREEMENT_WEIGHT, judge_values, sum_of_ranks
from scsiameseclu.partition._n_clusters import _MAX_CELLS, CURVE_RESOLUTIONS

PARTS = ("cut", "n_clusters")
FALLBACK = "k-means, expression"
JUDGES = ("equal", "own", "agreement")
RULES: dict[str, tuple[float, float, float]] = {
    "judge: equal widths, expression": (1.0, 0.0, 0.0),
    "judge: own widths, embedding": (0.0, 1.0, 0.0),
    "judge: agreement": (0.0, 0.0, 1.0),
    "judges: equal + own": (1.0, 1.0, 0.0),
    "judges: equal + own + 1 agreement": (1.0, 1.0, 1.0),
    "judges: equal + own + 2 agreement": (1.0, 1.0, 2.0),
    "judges: equal + own + 3 agreement": (1.0, 1.0, 3.0),
}
"""Rules by name: weights of the judges' ranks."""
DEFAULT = "default"
LEFT_OUT = "best on the other sets"
ORACLE = "best candidate by label (no user can do this)"
AUTO = "default (auto)"


# -- what is kept ----------------------------------------------------------------------------------------------------


def space_of(kept: Any) -> Space:
    """Decoded expression and embedding of the cells of a file, as the partition reads them."""
    return Space(kept["points"], kept["latent"], 0)


def score(truth: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """ARI, NMI and macro-F1, rounded."""
    from scsiameseclu.metrics import clustering_metrics

    found = clustering_metrics(truth, labels)
    return {name: round(float(found[name]), 5) for name in SCORES}


def cut(kept: Any, n_types: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Candidates of a file with the judges' values, as arrays; their ranks and scores, as a row of results."""
    space, truth = space_of(kept), kept["truth"]
    found = candidates(space, n_types)
    names = list(found)
    values = judge_values(space, found)
    arrays = {"names": np.array(names), "labels": np.stack([found[name] for name in names]).astype(np.int16)}
    row = {
        "candidates": names,
        "ranks": {judge: rankdata(values[judge]).tolist() for judge in JUDGES},
        "scores": [list(score(truth, found[name]).values()) for name in names],
        "default": names[int(np.argmax(sum_of_ranks(values)))],
        "peers": {
            name: {**score(truth, kept[name]), "n_clusters": len(np.unique(kept[name]))}
            for name in PEERS
            if name in kept
        },
    }
    return {**arrays, **values}, row


def n_clusters(kept: Any) -> dict[str, Any]:
    """Numbers of clusters by the default and by Leiden in either space, and scores of the default's partition."""
    space, truth = space_of(kept), kept["truth"]
    chosen = choose_n_clusters(space)
    seen = space.of(space.sample(_MAX_CELLS))
    in_expression = {each: int(leiden(seen.expression_graph, each, 0).max()) + 1 for each in CURVE_RESOLUTIONS}
    return {
        "n_clusters": chosen.n_clusters,
        "separability": round(chosen.separability, 3),
        "communities": {
            "embedding": {str(each): number for each, number in chosen.values.items()},
            "expression": {str(each): number for each, number in in_expression.items()},
        },
        "auto": score(truth, partition_cells(space, chosen.n_clusters)),
    }


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under another name and rename it when it is complete."""
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def keep_cut(file: Path, path: Path) -> None:
    """Keep the candidates of a file."""
    name, _, number = file.stem.rpartition(".")
    with np.load(file) as kept:
        n_types = len(np.unique(kept["truth"]))
        arrays, row = cut(kept, n_types)
        row = {"set": name, "number": number, "n_obs": len(kept["truth"]), "n_types": n_types, **row}
    _write(path, lambda unfinished: np.savez_compressed(unfinished, row=json.dumps(row), **arrays))


def keep_n_clusters(file: Path, path: Path) -> None:
    """Keep the numbers of clusters found in a file."""
    with np.load(file) as kept:
        row = n_clusters(kept)
    _write(path, lambda unfinished: unfinished.write_text(json.dumps(row)))


def wanted(name: str, number: str, args: argparse.Namespace) -> bool:
    """Whether the command line asks for a task of this data set and number."""
    fits = not args.sets or any(part in name for part in args.sets)
    return fits and (not args.numbers or number in args.numbers)


def files_of(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Embeddings in a folder that the command line asks for, number by number."""
    named = [(*file.stem.rpartition(".")[::2], file) for file in folder.glob("*.npz") if not file.name.startswith(".")]
    named.sort(key=lambda each: (len(each[1]), each[1], each[0]))
    return [file for name, number, file in named if wanted(name, number, args)]


def keep_all(files: list[Path], folder: Path, parts: list[str]) -> int:
    """Compute and keep all missing results, candidates of all files first; return the number of failures."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = {"cut": (".npz", keep_cut), "n_clusters": (".n_clusters.json", keep_n_clusters)}

    def jobs() -> Iterator[tuple[str, Callable[[], None]]]:
        for part in parts:
            suffix, step = steps[part]
            for file in files:
                path = folder / f"{file.stem}{suffix}"
                if not path.exists():
                    yield f"{part} of {file.stem}", lambda file=file, path=path, step=step: step(file, path)

    return _run(jobs())


def rows_of(files: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Rows of results of the files whose candidates are kept."""
    rows = []
    for file in files:
        path, other = folder / f"{file.stem}.npz", folder / f"{file.stem}.n_clusters.json"
        if path.exists():
            with np.load(path) as kept:
                row = json.loads(str(kept["row"]))
            rows.append({**row, **(json.loads(other.read_text()) if other.exists() else {})})
    return rows


# -- rules -----------------------------------------------------------------------------------------------------------


def pick(row: dict[str, Any], rule: str) -> str:
    """Name of the candidate that a rule takes; of equally good candidates, the first."""
    if rule == DEFAULT:
        return row["default"]
    if rule in RULES:
        ranks = sum(weight * np.array(row["ranks"][judge]) for judge, weight in zip(JUDGES, RULES[rule], strict=True))
        return row["candidates"][int(np.argmax(ranks))]
    if rule == ORACLE:
        at = {name: column for column, name in enumerate(SCORES)}
        return max(
            row["candidates"], key=lambda name: _scores(row, name)[at["ari"]] + _scores(row, name)[at["f1_macro"]]
        )
    return rule if rule in row["candidates"] else FALLBACK


def _scores(row: dict[str, Any], name: str) -> list[float]:
    return row["scores"][row["candidates"].index(name)]


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for every task and every rule, candidate or peer; ``reached`` is False where the candidate is missing."""
    names = list(dict.fromkeys(name for row in rows for name in row["candidates"]))
    lines = []
    for row in rows:
        task = {"set": row["set"], "number": row["number"], "seed": 0}
        for rule in [*names, *RULES, DEFAULT, ORACLE]:
            scores = dict(zip(SCORES, _scores(row, pick(row, rule)), strict=True))
            reached = rule not in names or rule in row["candidates"]
            lines.append({**task, "method": rule, "candidate": rule in names, "reached": reached, **scores})
        for peer, found in row["peers"].items():
            scores = {name: found[name] for name in SCORES}
            lines.append({**task, "method": peer, "candidate": False, "reached": True, **scores})
    return pd.DataFrame(lines)


def leave_set_out(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rows of the rule that is best on the other data sets, for every data set, and the names of these rules.

    Parameters
    ----------
    frame
        Rows of :func:`as_frame`. Candidates and rules of judges can be chosen; peers and the best candidate by label
        cannot.

    Returns
    -------
    Rows of the tasks of every data set under the rule that was chosen on the other data sets, named "best on the other
    sets"; the name of the rule of every data set.
    """
    may = frame[frame["candidate"] | frame["method"].isin(RULES)]
    means = may.assign(goal=may["ari"] + may["f1_macro"]).pivot_table(index="set", columns="method", values="goal")
    means = means[list(dict.fromkeys(may["method"]))]  # of equally good rules, the first in this order, not by alphabet
    chosen = {name: str(means.drop(index=name).mean().idxmax()) for name in means.index}
    taken = pd.concat([may[(may["set"] == name) & (may["method"] == rule)] for name, rule in chosen.items()])
    return taken.assign(method=LEFT_OUT, candidate=False, reached=True), chosen


# -- tables ----------------------------------------------------------------------------------------------------------


def rules_table(frame: pd.DataFrame) -> str:
    """Markdown table of all rules: means over data sets of the means over tasks."""
    lines = []
    for name in dict.fromkeys(frame["method"]):
        part = frame[frame["method"] == name]
        reached = f"{int(part['reached'].sum())} of {len(part)}"
        lines.append([name, reached, *[_mean_over_sets(part, column) for column in SCORES]])
    return markdown(["rule", "tasks with it", *SCORES.values()], lines)


def pairs_table(frame: pd.DataFrame) -> str:
    """Markdown table of paired differences to the peers, with 95 % intervals over data sets."""
    ours, peers = ([name for name in names if name in set(frame["method"])] for names in ((DEFAULT, LEFT_OUT), PEERS))
    return differences_table(frame, ours, peers)


def n_clusters_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the numbers of clusters; scores are the scores of the default partition, and of the peer."""
    lines = []
    for row in (row for row in rows if "n_clusters" in row):
        task = {"set": row["set"], "number": row["number"], "n_types": row["n_types"]}
        lines.append({**task, "method": AUTO, "k": row["n_clusters"], **row["auto"]})
        given = dict(zip(SCORES, _scores(row, row["default"]), strict=True))
        lines.append({**task, "method": "default, number given", "k": row["n_types"], **given})
        if found := row["peers"].get("pca_leiden_1"):
            lines.append({**task, "method": "pca_leiden_1", "k": found["n_clusters"], **{s: found[s] for s in SCORES}})
        for space, curve in row["communities"].items():
            for resolution, number in curve.items():
                lines.append({**task, "method": f"Leiden, {space}, {resolution}", "k": number})
    if not lines:
        return ""
    frame = pd.DataFrame(lines)
    ratio = frame["k"] / frame["n_types"]
    frame = frame.assign(log=np.log(ratio), near=((ratio - 1.0).abs() <= 0.2 + 1e-9).astype(float), one=frame["k"] == 1)
    columns = ["log", "near", *SCORES]
    table = []
    for name in dict.fromkeys(frame["method"]):
        part = frame[frame["method"] == name]
        figures = [_mean_over_sets(part, column) for column in columns]
        table.append([name, str(len(part)), *figures, str(int(part["one"].sum()))])
    return markdown(["number of clusters", "tasks", "log(K / types)", "within 20 %", *SCORES.values(), "K = 1"], table)


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: rules, rules chosen with each set left out, paired differences, numbers of clusters."""
    frame = as_frame(rows)
    parts, n_sets = [], frame["set"].nunique()
    if n_sets > 1:
        lines, chosen = leave_set_out(frame)
        frame = pd.concat([frame, lines], ignore_index=True)
        times = pd.Series(chosen).value_counts()
        parts.append("Best on the other sets: " + ", ".join(f"{rule} ({n} sets)" for rule, n in times.items()) + ".")
    title = f"{len(rows)} tasks of {n_sets} data sets; the default gives agreement the weight {AGREEMENT_WEIGHT:g}."
    return "\n\n".join(
        part for part in [title, rules_table(frame), *parts, pairs_table(frame), n_clusters_table(rows)] if part
    )


# -- command line ----------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder that benchmarks.tasks embed has written")
    parser.add_argument("--keep-candidates", type=Path, help="folder for candidates; what is there is not made again")
    parser.add_argument("--out", type=Path, help="rows of results, JSON lines; written anew")
    parser.add_argument("--sets", nargs="+", help="only sets whose name contains one of these")
    parser.add_argument("--numbers", nargs="+", help="only tasks of these numbers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to make if it is missing")
    parser.add_argument("--report", type=Path, help="only print the tables of such rows")
    args = parser.parse_args(arguments)
    if args.report is None and (args.folder is None or args.keep_candidates is None):
        parser.error("FOLDER and --keep-candidates are needed, or --report")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run everything that is missing and print the tables; 1 if something failed, 2 if nothing can be run."""
    args = parse(arguments)
    warnings.filterwarnings("ignore")
    if args.report is not None:
        print(report([row for row in read_results(args.report) if wanted(row["set"], row["number"], args)]))
        return 0
    files = files_of(args.folder, args)
    if not files:
        print(f"no embedding in {args.folder} fits", file=sys.stderr)
        return 2
    failed = keep_all(files, args.keep_candidates, args.parts)
    rows = rows_of(files, args.keep_candidates)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        _write(args.out, lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows)))
    if rows:
        print(report(rows))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
