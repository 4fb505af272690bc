"""Random clustering tasks from labelled data, to judge a rule on tasks that were not used for tuning; see README.md.

    python -m benchmarks.tasks embed --data DIR --keep FOLDER [--per-set 6] [--seed 0] [--sets ...] [--part 1/2]
    python -m benchmarks.tasks full --data DIR --out tasks.jsonl [--methods siamese_k siamese_auto 'pca*']
    python -m benchmarks.tasks report tasks.jsonl > tasks.md

A task is a random subset of the types of a data set, in random proportions and thinned to a random depth. ``embed``
keeps the data that a rule for cutting the embedding needs: our embedding after pretraining, the components that the
model partitions, and the labels of the peers. ``full`` runs whole methods. ``report`` averages over the tasks of a data
set, then over data sets. Its intervals are over data sets, because a new user has another data set. Known types are
used for drawing, for scoring, and for the number of types. All work is done in one process. Set ``OMP_NUM_THREADS=1``
to use one core only.
"""

import argparse
import hashlib
import itertools
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from benchmarks.methods import FAMILIES, METHODS, Options, select
from benchmarks.run import labelled_files, read_results
from benchmarks.table import markdown

LABEL = "cell_type"
BATCH = "batch"
MIN_TYPES = 3
MIN_CELLS_OF_TYPE = 3
CONCENTRATION = 2.0
"""Concentration of the Dirichlet distribution of the types' proportions."""
CELLS = (500, 4000)
MIN_CELLS = 60
"""Least number of cells of a task whose types have fewer than 500 cells in all."""
LOWEST_SHARE = 0.25
MIN_MEDIAN = 200.0
"""Least median of counts per cell after thinning."""
PEERS = ("pca_kmeans", "pca_ward", "pca_leiden_k", "pca_leiden_1")
SCORES = {"ari": "ARI", "nmi": "NMI", "f1_macro": "F1"}
N_RESAMPLES = 2000


# -- drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """Cells of a task: ``adata`` has no labels, and has batches only if the methods are told the batches."""

    adata: AnnData
    truth: NDArray[np.str_]
    rows: NDArray[np.int64]
    share: float
    told: bool

    @property
    def n_types(self) -> int:
        """Types among the cells."""
        return len(set(self.truth))

    @property
    def batch(self) -> NDArray[np.int64]:
        """Code of every cell's batch; 0 for all cells if the methods are not told the batches."""
        if not self.told:
            return np.zeros(self.adata.n_obs, dtype=np.int64)
        return np.unique(self.adata.obs[BATCH].astype(str), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Task:
    """One task, which is fixed by the data set, the number of the task and the seed of the benchmark."""

    path: Path
    number: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.path.stem

    def draw(self) -> Cells:
        """Cells of the task, the same at each call."""
        import anndata as ad

        return draw(ad.read_h5ad(self.path), self.name, self.number, self.seed)


def draw_tasks(files: list[Path], n_tasks: int, seed: int) -> list[Task]:
    """Tasks spread evenly over data sets, number by number.

    Parameters
    ----------
    files
        Files with labels, one per data set.
    n_tasks
        Number of tasks in all.
    seed
        Seed of the draws.

    Returns
    -------
    Tasks in the order in which they are run: the first task of each data set, then the second task of each data set.
    """
    return [Task(files[at % len(files)], at // len(files), seed) for at in range(n_tasks)]


def draw(adata: AnnData, name: str, number: int, seed: int) -> Cells:
    """Draw types, proportions, cells and depth of a task.

    Parameters
    ----------
    adata
        Raw counts in ``X`` and types in ``obs["cell_type"]``; cells without a type are left out.
    name
        Name of the data set.
    number
        Number of the task. In tasks with an odd number, the batches are told if cells of several batches are drawn.
    seed
        Seed of the benchmark.
    """
    rng = task_rng(name, number, seed)
    types = adata.obs[LABEL].astype("object")
    known = types.notna().to_numpy()
    names, codes = np.unique(types[known].astype(str).to_numpy(dtype=str), return_inverse=True)
    sizes = draw_sizes(np.bincount(codes, minlength=len(names)), rng)
    rows_of_known = np.flatnonzero(known)
    rows = np.sort(
        np.concatenate([rng.choice(rows_of_known[codes == k], size, replace=False) for k, size in enumerate(sizes)])
    )
    counts, share = thin(adata.X[rows], rng)
    cells = AnnData(counts, obs=pd.DataFrame(index=adata.obs_names[rows].copy()), var=adata.var.iloc[:, :0].copy())
    told = bool(number % 2) and BATCH in adata.obs and adata.obs[BATCH].iloc[rows].nunique() > 1
    if told:
        cells.obs[BATCH] = pd.Categorical(adata.obs[BATCH].iloc[rows].astype(str).to_numpy())
    cells.obs_names_make_unique()
    cells.var_names_make_unique()
    return Cells(cells, types.iloc[rows].astype(str).to_numpy(dtype=str), rows, share, told)


def task_rng(name: str, number: int, seed: int) -> np.random.Generator:
    """Random generator of one task; every task has a different generator."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), number])


def draw_sizes(available: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Cells to take of each type: 0 for types that are left out.

    The number of chosen types is uniform. If the chosen types have fewer than 60 cells, types are added. If the chosen
    types have at least 500 cells, the number of cells is log-uniform between 500 and 4,000. Otherwise a task has as
    many cells as the proportions allow, but at least 60 cells, and at least half of the cells of the chosen types. If
    the proportions need more cells of a type than exist, all cells of this type are taken, and the other types get more
    cells.
    """
    usable = rng.permutation(np.flatnonzero(available >= MIN_CELLS_OF_TYPE))
    if len(usable) < 2:
        raise ValueError(f"Expected 2 types with {MIN_CELLS_OF_TYPE} cells or more, found {len(usable)}.")
    n_types = int(rng.integers(min(MIN_TYPES, len(usable)), len(usable) + 1))
    enough = int(np.searchsorted(available[usable].cumsum(), MIN_CELLS)) + 1
    chosen = usable[: max(n_types, enough)]
    there = available[chosen]
    proportions = rng.dirichlet(np.full(len(chosen), CONCENTRATION))
    wish = float(np.exp(rng.uniform(np.log(CELLS[0]), np.log(max(min(CELLS[1], there.sum()), CELLS[0])))))
    if there.sum() < CELLS[0]:
        wish = max(float((there / proportions).min()), MIN_CELLS, float(there.sum() / 2))
    n_cells = int(min(max(wish, MIN_CELLS_OF_TYPE * len(chosen)), there.sum()))
    sizes = np.zeros(len(available), dtype=np.int64)
    sizes[chosen] = allot(proportions, there, n_cells)
    return sizes


def allot(proportions: NDArray[np.float64], available: NDArray[np.int64], n_cells: int) -> NDArray[np.int64]:
    """Distribute ``n_cells`` over types in these proportions, with at least 3 and at most all cells of each type."""
    low, high = 0.0, float((available / proportions).max())
    for _ in range(100):
        middle = (low + high) / 2
        few = np.clip(middle * proportions, MIN_CELLS_OF_TYPE, available).sum() < n_cells
        low, high = (middle, high) if few else (low, middle)
    exact = np.clip(high * proportions, MIN_CELLS_OF_TYPE, available)
    sizes = np.floor(exact).astype(np.int64)
    for k in np.argsort(sizes - exact, kind="stable"):
        if sizes.sum() < n_cells and sizes[k] < available[k]:
            sizes[k] += 1
    return sizes


def thin(counts: Any, rng: np.random.Generator) -> tuple[Any, float]:
    """Keep each count with the same probability, drawn between 0.25 and 1 (log-uniform).

    A cell never loses all its counts.

    Returns
    -------
    Thinned counts (CSR) and the probability. The probability is high enough for a median of about 200 counts per cell,
    or 1.
    """
    from scipy import sparse

    before = sparse.csr_matrix(counts, dtype=np.float32)
    median = float(np.median(np.asarray(before.sum(axis=1))))
    lowest = min(max(LOWEST_SHARE, MIN_MEDIAN / max(median, 1.0)), 1.0)
    share = float(np.exp(rng.uniform(np.log(lowest), 0.0)))
    after = before.copy()
    after.data = rng.binomial(np.rint(before.data).astype(np.int64), share).astype(np.float32)
    empty = np.asarray(after.sum(axis=1)).ravel() == 0
    of_empty = np.repeat(empty, np.diff(after.indptr))
    after.data[of_empty] = before.data[of_empty]
    after.eliminate_zeros()
    return after, share


# -- embeddings ------------------------------------------------------------------------------------------------------


@contextmanager
def _clock(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note the seconds that a step takes."""
    start = time.perf_counter()
    yield
    seconds[f"seconds_{step}"] = time.perf_counter() - start


def embed(cells: Cells, seed: int) -> dict[str, Any]:
    """Compute the arrays that ``embed`` keeps of a task."""
    from benchmarks.n_clusters import embed_and_decode
    from benchmarks.preprocessing import principal_components

    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    with _clock(seconds, "pca"):
        found["pca"] = principal_components(cells.adata, seed)
    for name in PEERS:
        partition = METHODS[name].partition
        assert partition is not None
        with _clock(seconds, name):
            found[name] = np.unique(partition(found["pca"], cells.n_types, seed), return_inverse=True)[1]
    with _clock(seconds, "latent"):
        latent, points = embed_and_decode(cells.adata.copy(), seed, BATCH if cells.told else None)
    return {
        "truth": cells.truth.astype("U"),
        "batch": cells.batch,
        "told": cells.told,
        "rows": cells.rows,
        "share": cells.share,
        "counts_total": np.asarray(cells.adata.X.sum(axis=1), dtype=np.float32).ravel(),
        **found,
        "latent": latent.astype(np.float32),
        "points": points.astype(np.float32),
        **seconds,
    }


def keep(task: Task, path: Path) -> None:
    """Write the embedding of a task; the file gets its name only when it is complete."""
    found = {**embed(task.draw(), task.number), "seed": task.seed}
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(unfinished, **found)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def embed_all(tasks: list[Task], folder: Path) -> int:
    """Write the missing embeddings; return the number of tasks that failed."""
    folder.mkdir(parents=True, exist_ok=True)

    def jobs() -> Iterator[tuple[str, Callable[[], None]]]:
        for task in tasks:
            path = folder / f"{task.name}.{task.number}.npz"
            if path.exists():
                _check_seed(path, task.seed)
            else:
                yield f"{task.name}.{task.number}", lambda task=task, path=path: keep(task, path)

    return _run(jobs())


def _check_seed(path: Path, seed: int) -> None:
    """Refuse to mix the draws of two seeds in one folder."""
    with np.load(path) as kept:
        if int(kept["seed"]) != seed:
            raise ValueError(f"Expected tasks of seed {seed}, found {path.name} of seed {int(kept['seed'])}.")


def _run(jobs: Iterator[tuple[str, Callable[[], None]]]) -> int:
    """Run jobs one by one and go on after a failure; return the number of jobs that failed."""
    n_jobs = failed = 0
    for title, job in jobs:
        n_jobs += 1
        start = time.perf_counter()
        try:
            job()
        except Exception:  # noqa: BLE001 - one failed task must not end a long run; it is reported and counted
            failed += 1
            print(f"failed: {title}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        else:
            print(f"{title} ({time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        print(f"{failed} of {n_jobs} failed; run the same command again to retry them", file=sys.stderr, flush=True)
    return failed


# -- whole methods ---------------------------------------------------------------------------------------------------


def run_family(task: Task, family: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a row of results per method; the time of a method includes the time of the shared embedding."""
    from benchmarks.scoring import score_labels
    from benchmarks.worker import _plain

    cells = task.draw()
    ours = any(METHODS[name].ours for name in names)
    settings = {"batch_key": BATCH} if ours and cells.told else {}
    options = Options(task.number, cells.n_types, settings=settings)
    shared: dict[str, float] = {}
    with _clock(shared, "embedding"):
        embedding = FAMILIES[family].embed(cells.adata.copy(), options)
    for name in names:
        own: dict[str, float] = {}
        partition = METHODS[name].partition
        with _clock(own, "partition"):
            labels = embedding.labels
            if partition is not None:
                labels = partition(embedding.values, cells.n_types, task.number)
        assert labels is not None
        row = {
            "set": task.name,
            "number": task.number,
            "seed": task.seed,
            "method": name,
            "k_given": METHODS[name].knows_k,
            "n_obs": cells.adata.n_obs,
            "n_types": cells.n_types,
            "share": round(cells.share, 4),
            "told": cells.told,
            **score_labels(cells.truth, labels),
            "seconds": round(shared["seconds_embedding"] + own["seconds_partition"], 2),
        }
        yield {key: _plain(value) for key, value in row.items()}


def run_all(tasks: list[Task], names: list[str], out: Path) -> int:
    """Append a line for every task and method that is missing; return the number of runs that failed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["set"], row["number"], row["seed"], row["method"]) for row in read_results(out)}

    def append(task: Task, family: str, left: list[str]) -> None:
        for row in run_family(task, family, left):
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def jobs() -> Iterator[tuple[str, Callable[[], None]]]:
        for task in tasks:
            key = (task.name, task.number, task.seed)
            for family in FAMILIES:
                left = [name for name in names if METHODS[name].family == family and (*key, name) not in done]
                if left:
                    title = f"{task.name}.{task.number}: {', '.join(left)}"
                    yield title, lambda task=task, family=family, left=left: append(task, family, left)

    return _run(jobs())


# -- report ----------------------------------------------------------------------------------------------------------


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean over data sets, ``values`` having one entry per data set."""
    rows = np.random.default_rng(0).integers(len(values), size=(N_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired(frame: pd.DataFrame, ours: str, peer: str, score: str) -> pd.Series:
    """Mean difference of every data set, over the tasks that both methods have run."""
    task = ["set", "number", "seed"]
    wide = frame.pivot_table(index=task, columns="method", values=score)
    return (wide[ours] - wide[peer]).dropna().groupby("set").mean()


def _mean_over_sets(frame: pd.DataFrame, column: str) -> str:
    values = frame.dropna(subset=column).groupby("set")[column].mean()
    return f"{values.mean():.3f}" if len(values) else "-"


def means_table(frame: pd.DataFrame) -> str:
    """Markdown table of all methods: means over data sets of the means over tasks."""
    columns = {**SCORES, "acc": "ACC", "rare_recall": "rare", "seconds": "s"}
    lines = [
        [name, str(len(part)), str(part["set"].nunique()), *[_mean_over_sets(part, column) for column in columns]]
        for name, part in frame.groupby("method")
    ]
    return markdown(["method", "tasks", "sets", *columns.values()], lines)


def pairs_table(frame: pd.DataFrame) -> str:
    """Markdown table of paired differences, our method minus a peer, with 95 % intervals over data sets."""
    names = [name for name in METHODS if name in set(frame["method"])]
    ours, peers = ([name for name in names if METHODS[name].ours == kind] for kind in (True, False))
    return differences_table(frame, ours, peers)


def differences_table(frame: pd.DataFrame, ours: list[str], peers: list[str]) -> str:
    """Markdown table of paired differences between these methods, with 95 % intervals over data sets."""
    lines = []
    for own, peer in itertools.product(ours, peers):
        line = [f"{own} - {peer}"]
        for score in SCORES:
            values = paired(frame, own, peer, score).to_numpy()
            if len(values) == 0:
                line.append("-")
                continue
            low, high = bootstrap_interval(values)
            line.append(f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append([*line, str(len(values))])
    return markdown(["difference", *SCORES.values(), "sets"], lines)


def n_clusters_table(frame: pd.DataFrame) -> str:
    """Markdown table of the methods that find the number of clusters, means over data sets."""
    ratio = frame["n_clusters"] / frame["n_types"]
    frame = frame.assign(log=np.log(ratio), near=((ratio - 1.0).abs() <= 0.2 + 1e-9).astype(float))
    lines = [
        [name, str(len(part)), _mean_over_sets(part, "log"), _mean_over_sets(part, "near")]
        for name, part in frame[~frame["k_given"].astype(bool)].groupby("method")
    ]
    return markdown(["finds K", "tasks", "log(K / types)", "within 20 %"], lines)


def with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the number 0 to rows of ``benchmarks.run``, whose only task is the whole data set."""
    return frame if "number" in frame else frame.assign(number=0)


def report(frame: pd.DataFrame) -> str:
    """Markdown tables: means, paired differences, numbers of clusters."""
    return "\n\n".join([means_table(frame), pairs_table(frame), n_clusters_table(frame)])


# -- command line ----------------------------------------------------------------------------------------------------


def part(text: str) -> tuple[int, int]:
    """Read ``i/n``, the first part being ``1/n``."""
    first, _, of = text.partition("/")
    i, n = int(first), int(of)
    if not 1 <= i <= n:
        raise ValueError(f"Expected a part between 1/{n} and {n}/{n}, found {text}.")
    return i, n


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    embedding = commands.add_parser("embed", help="keep the embeddings of all tasks")
    embedding.add_argument("--keep", type=Path, required=True, help="folder for SET.NUMBER.npz")
    full = commands.add_parser("full", help="run whole methods")
    full.add_argument("--out", type=Path, required=True, help="results, JSON lines; appended to")
    full.add_argument("--methods", nargs="+", default=["siamese_k", "siamese_auto"], help="names or patterns")
    for command in (embedding, full):
        command.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
        command.add_argument("--per-set", type=int, default=6, help="tasks of every data set")
        command.add_argument("--seed", type=int, default=0, help="seed of the draws")
        command.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
        command.add_argument("--part", type=part, default=(1, 1), help="i/n: each n-th task, for n processes")
    reporting = commands.add_parser("report", help="tables of a results file")
    reporting.add_argument("results", type=Path)
    args = parser.parse_args(arguments)
    if args.command == "full":
        try:
            args.methods = select(args.methods)
        except ValueError as error:
            parser.error(str(error))
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run everything that is missing, or print the report; 1 if something failed, 2 if nothing can be run."""
    args = parse(arguments)
    warnings.filterwarnings("ignore")
    if args.command == "report":
        print(report(pd.DataFrame(read_results(args.results)).pipe(with_numbers)))
        return 0
    files = labelled_files(args.data, LABEL, args.sets)
    if not files:
        print(f"no labelled .h5ad file in {args.data} fits", file=sys.stderr)
        return 2
    i, n = args.part
    tasks = draw_tasks(files, args.per_set * len(files), args.seed)[i - 1 :: n]
    if any("leiden" in name for name in (PEERS if args.command == "embed" else args.methods)):
        from benchmarks.partitions import warm_up

        warm_up()
    try:
        failed = embed_all(tasks, args.keep) if args.command == "embed" else run_all(tasks, args.methods, args.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return int(failed > 0)


def _stop_at_once(number: int, _: Any) -> None:
    """End the process at once, because an interrupted training would report a result of unfinished weights."""
    os._exit(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop_at_once)
    sys.exit(main())
