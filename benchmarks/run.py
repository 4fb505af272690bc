"""Methods x data sets x seeds, one JSON line per run; see README.md.

    python -m benchmarks.run --data DIR --out results.jsonl [--methods 'pca*' siamese_k] [--seeds 0 1 2] [--sets ...]

Every ``*.h5ad`` file of DIR with raw counts in ``X`` and labels in ``obs["cell_type"]`` is one data set. Labels are
used for two things only: the scores, and the number of types for methods that are given K. Methods that differ only in
the last step form a family. Every family runs in a separate process, so that time and peak memory are measured
separately. A run that is already in the results file is skipped.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measure import limited
from benchmarks.methods import FAMILIES, METHODS, select
from benchmarks.worker import MARK

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("scsiameseclu", "scvi-tools", "scanpy", "torch", "scikit-learn")


def has_labels(path: Path, label: str) -> bool:
    """Whether a file has published labels."""
    import h5py

    with h5py.File(path) as file:
        return label in file["obs"]


def labelled_files(folder: Path, label: str, names: list[str] | None = None) -> list[Path]:
    """Sorted files with published labels; with ``names``, only files whose name contains one of them."""
    paths = [path for path in sorted(folder.glob("*.h5ad")) if has_labels(path, label)]
    return [path for path in paths if not names or any(name in path.stem for name in names)]


def append_result(out: Path, record: dict[str, Any]) -> None:
    """Append a row to a file of results, and print the row."""
    line = json.dumps(record)
    with out.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def known_cells(folder: Path, label: str, names: list[str] | None, least: int) -> Iterator[tuple[str, Any]]:
    """Names and labelled cells of the data sets with at least ``least`` labelled cells."""
    import anndata

    for path in labelled_files(folder, label, names):
        adata = anndata.read_h5ad(path)
        adata = adata[adata.obs[label].notna()].copy()
        if adata.n_obs >= least:
            yield path.stem, adata


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that several studies share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of .h5ad files with labels")
    parser.add_argument("--out", type=Path, help="file of results; what is in it is not run again")
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, metavar="FILE", help="only print the tables of a results file")
    return parser


def parsed_study(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Arguments with either a file to report, or data and a file of results."""
    args = parser.parse_args(argv)
    if not args.report and not (args.data and args.out):
        parser.error("expected --data and --out, or --report")
    warnings.filterwarnings("ignore")
    return args


def read_results(out: Path) -> list[dict[str, Any]]:
    """Results so far; an incomplete last line, left by a writer that was stopped, is skipped with a message."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{out}: skipped a line that is not JSON: {line[:60]!r}", file=sys.stderr)
    return rows


def plan(
    paths: list[Path], methods: list[str], seeds: list[int], rows: list[dict[str, Any]], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Remaining jobs, seed by seed, so that an interrupted benchmark has complete seeds."""
    done = {(row["set"], row["method"], row["seed"]): row for row in rows}
    jobs = []
    for seed in seeds:
        for path in paths:
            for family, definition in FAMILIES.items():
                wanted = [method for method in methods if METHODS[method].family == family]
                left = []
                for method in wanted:
                    row = done.get((path.stem, f"{method}{args.tag}", seed))
                    if row is None:
                        left.append(method)
                    elif definition.option is not None:
                        _check_same_option(row, definition.option, getattr(args, definition.option))
                if left:
                    jobs.append({"family": family, "methods": left, "path": str(path), "set": path.stem, "seed": seed})
    return jobs


def _check_same_option(row: dict[str, Any], option: str, value: Any) -> None:
    """Refuse to mix runs with different options under one name."""
    if row.get(option, value) != value:
        raise ValueError(
            f"Expected {option}={value!r} as asked for, found {row[option]!r} in the results of {row['method']}; "
            "give the new runs a name of their own with --tag."
        )


def versions() -> dict[str, str]:
    """Versions of the packages behind the numbers, and the commit of this repository if git is available."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    found = {"commit": commit} if commit else {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def run_job(job: dict[str, Any], args: argparse.Namespace) -> int:
    """Run one family in a separate process and append a line per method; return the exit code."""
    options = {"settings": args.settings, "scvi_epochs": args.scvi_epochs}
    keep = str(args.keep.resolve()) if args.keep else None
    fixed = {"label": args.label, "scib": args.scib, "threads": args.threads, "keep": keep, "tag": args.tag}
    environment = limited(args.threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps({**job, **options, **fixed})]
    log = args.out.with_suffix(".log")
    option = FAMILIES[job["family"]].option
    recorded = {option: options[option]} if option else {}
    with log.open("w") as errors:
        # The run is in a process group of its own, so that Ctrl-C reaches the benchmark alone, which then kills the
        # run. A run that is interrupted itself would end training early and report labels of an unfinished training.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, process_group=0
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith(MARK):
                    continue
                found = json.loads(line.removeprefix(MARK))
                method = f"{found.pop('method')}{args.tag}"
                row = {"set": job["set"], "method": method, "seed": job["seed"], **found, **recorded}
                with args.out.open("a") as file:
                    file.write(json.dumps({**row, "threads": args.threads, "versions": versions()}) + "\n")
            code = process.wait()
        finally:
            # Killing a process that has ended does nothing. An interrupted benchmark must not leave a process behind.
            process.kill()
    if code:
        print(f"failed:\n{log.read_text()[-3000:]}", file=sys.stderr)
    return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--out", type=Path, required=True, help="results, JSON lines; appended to")
    parser.add_argument("--methods", nargs="+", default=["*"], help=f"names or patterns among {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--label", default="cell_type", help="column of obs with the known types")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of further tl.cluster arguments")
    parser.add_argument("--scvi-epochs", type=int, help="epochs of scVI instead of its own choice")
    parser.add_argument("--tag", default="", help="suffix of the methods' names in the results, such as :no_cross")
    parser.add_argument("--scib", action="store_true", help="also the bio-conservation scores of scib-metrics (slow)")
    parser.add_argument("--keep", type=Path, help="folder for labels and embedding of every run, SET.METHOD.SEED.npz")
    parser.add_argument("--threads", type=int, default=1, help="threads each run may use")
    args = parser.parse_args(arguments)
    try:
        args.methods = select(args.methods)
    except ValueError as error:
        parser.error(str(error))
    if not args.data.is_dir():
        parser.error(f"{args.data} is not a folder")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run everything that is not in the results file yet; return 1 if a run failed."""
    args = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the running job is then stopped as well
    paths = [path.resolve() for path in labelled_files(args.data, args.label, args.sets)]
    try:
        jobs = plan(paths, args.methods, args.seeds, read_results(args.out), args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not paths:
        print(f"no labelled .h5ad file in {args.data} fits", file=sys.stderr)
        return 2
    failed = 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(jobs, start=1):
        title = f"[{number}/{len(jobs)}] {job['set']} seed {job['seed']}: {', '.join(job['methods'])}"
        start = time.perf_counter()
        failed += run_job(job, args) != 0
        print(f"{title} ({time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        print(f"{failed} of {len(jobs)} jobs failed; run the same command again to retry them", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
