"""Accuracy and speed of mapping new cells to a trained model.

    python benchmarks/query_mapping.py --data DIR --out results.jsonl
        [--tasks cells cells_of_batches batches scvi speed] [--seeds 0 1 2]
    python benchmarks/query_mapping.py --out results.jsonl --table

Every ``*.h5ad`` file of DIR with raw counts in ``X`` and labels in ``obs["cell_type"]`` is one data set; K is the
number of its types. Labels are used for scoring, and as the labels to transfer.

cells
    20 % of the cells, drawn at random, are left out of training and mapped. The row has the ARI of the trained and of
    the mapped cells, and the largest difference of the embedding when trained cells are passed again. ARI depends on
    the number of cells of each type. The row therefore also has the mean ARI of trained cells that are drawn, 100 times
    with replacement, with the type numbers of the mapped cells. Some cells of a type are harder than other cells. The
    row therefore also has the ARI of the mapped cells in a model trained on all cells.
cells_of_batches
    The task ``cells`` with ``batch_key``, on data sets with ``obs["batch"]``; the mapped cells are of known batches.
batches
    On data sets with ``obs["batch"]``, each of the first five batches is left out and mapped as a new batch. The row
    has the accuracy of labels that are transferred in three ways: by the majority label of a cell's cluster, by the
    majority of the 15 nearest trained cells in the embedding, and by ``tl.classify``. The last two accuracies are also
    computed after adapting the weights of the new batch.
scvi
    The task ``batches`` for scVI with scArches (trained further on the query), with the same batches and genes.
speed
    Seconds to map 100,000 simulated cells to a model of 5,000, graph search and prediction.

Every run is a separate process. A run that is already in the results file is skipped.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.run import read_results

TASKS = ("cells", "cells_of_batches", "batches", "scvi", "speed")
LABELS, BATCH = "cell_type", "batch"
MAX_BATCHES = 5
N_DRAWS = 100
N_NEIGHBORS = 15
N_TOP_GENES = 2000  # of tl.cluster


def read(path: Path) -> Any:
    """Read only the counts, labels and batches of the labelled cells."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    columns = [name for name in (LABELS, BATCH) if name in adata.obs]
    adata = adata[adata.obs[LABELS].notna().to_numpy()]
    return ad.AnnData(adata.X.copy(), obs=adata.obs[columns].astype(str), var=adata.var[[]])


def train(reference: Any, args: argparse.Namespace, batch_key: str | None = None) -> Any:
    """Train a model with default settings; the model is given the number of types, but no labels."""
    import scsiameseclu as ssc

    n_types = reference.obs[LABELS].nunique()
    cells = reference.copy()
    del cells.obs[LABELS]
    options = {"enable_progress_bar": False, "accelerator": args.accelerator, "max_epochs": args.max_epochs}
    return ssc.tl.cluster(cells, n_clusters=n_types, batch_key=batch_key, train_kwargs=options)


def map_query(model: Any, query: Any, args: argparse.Namespace) -> tuple[Any, float]:
    """Model of the query, and the seconds of mapping and prediction."""
    import scsiameseclu as ssc

    cells = query.copy()
    del cells.obs[LABELS]
    start = time.perf_counter()
    mapped = ssc.SCSiameseClu.load_query_data(cells, model, accelerator=args.accelerator)
    mapped.predict()
    return mapped, time.perf_counter() - start


def random_cells(path: Path, seed: int, args: argparse.Namespace, batch_key: str | None = None) -> dict[str, Any]:
    """Compare held-out cells that are mapped with trained cells."""
    import numpy as np

    adata = read(path)
    left_out = np.random.default_rng(seed).random(adata.n_obs) < 0.2
    reference, query = adata[~left_out].copy(), adata[left_out].copy()
    model = train(reference, args, batch_key)
    mapped, seconds = map_query(model, query, args)
    some = np.sort(np.random.default_rng(seed).choice(reference.n_obs, min(500, reference.n_obs // 2), replace=False))
    again, _ = map_query(model, reference[some].copy(), args)
    difference = np.abs(again.get_latent_representation() - model.get_latent_representation()[some]).max()
    truth, labels = reference.obs[LABELS].to_numpy(), model.predict().to_numpy()
    drawn = [trained_like(truth, query.obs[LABELS].to_numpy(), i) for i in range(N_DRAWS)]
    draws = [ari(truth[rows], labels[rows]) for rows in drawn]
    trained_on = train(adata, args, batch_key).predict().to_numpy()[left_out]
    return {
        "n_trained": reference.n_obs,
        "n_mapped": query.n_obs,
        "ari_trained": ari(truth, labels),
        "ari_mapped": ari(query.obs[LABELS].to_numpy(), mapped.predict().to_numpy()),
        "ari_mapped_if_trained_on": ari(query.obs[LABELS].to_numpy(), trained_on),
        "ari_trained_same_types": float(np.mean(draws)),
        "ari_trained_same_types_sd": float(np.std(draws)),
        "passed_again": float(difference),
        "seconds_mapping": round(seconds, 2),
    }


def trained_like(truth: Any, wanted: Any, seed: int) -> Any:
    """Rows of trained cells, drawn with replacement, with as many of each type as ``wanted`` has."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(truth == label) for label in wanted]
    return np.array([rng.choice(each) for each in rows if len(each)])


def ari(truth: Any, labels: Any) -> float:
    """Adjusted Rand index."""
    from scsiameseclu.metrics import clustering_metrics

    return float(clustering_metrics(truth, labels)["ari"])


def nearest_labels(points: Any, labels: Any, queries: Any) -> Any:
    """Majority label of the nearest trained cells."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(N_NEIGHBORS, len(points))).fit(points, labels)
    return classifier.predict(queries)


def classified_labels(points: Any, labels: Any, queries: Any) -> Any:
    """Labels by ``tl.classify`` without unassigned cells."""
    import anndata as ad
    import pandas as pd

    import scsiameseclu as ssc

    reference = ad.AnnData(obs=pd.DataFrame({LABELS: labels}), obsm={"X": points})
    query = ad.AnnData(obs=pd.DataFrame(index=range(len(queries))), obsm={"X": queries})
    return ssc.tl.classify(query, LABELS, use_rep="X", reference=reference, threshold=0.0).idxmax(axis=1).to_numpy()


def transfer(points: Any, labels: Any, queries: Any, truth: Any) -> dict[str, float]:
    """Accuracy of the labels transferred in an embedding, by nearest neighbours and by ``tl.classify``."""
    return {
        "accuracy_neighbours": accuracy(truth, nearest_labels(points, labels, queries), labels),
        "accuracy_classify": accuracy(truth, classified_labels(points, labels, queries), labels),
    }


def accuracy(truth: Any, found: Any, known: Any) -> float:
    """Share of right labels among the cells whose type the reference has."""
    import numpy as np

    judged = np.isin(truth, known)
    return float((np.asarray(found)[judged] == truth[judged]).mean()) if judged.any() else float("nan")


def leave_out(path: Path, batch: str) -> tuple[Any, Any]:
    """Cells of the other batches, and cells of this batch."""
    adata = read(path)
    is_new = (adata.obs[BATCH] == batch).to_numpy()
    return adata[~is_new].copy(), adata[is_new].copy()


def new_batch(path: Path, batch: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Transfer labels to a batch that was left out of training."""
    import numpy as np
    import pandas as pd

    reference, query = leave_out(path, batch)
    labels, truth = reference.obs[LABELS].to_numpy(), query.obs[LABELS].to_numpy()
    model = train(reference, args, BATCH)
    mapped, seconds = map_query(model, query, args)
    majority = pd.crosstab(labels, model.predict().to_numpy()).idxmax()
    by_cluster = majority.reindex(mapped.predict().astype(str)).to_numpy()
    embedding = model.get_latent_representation()
    row = {
        "held_out": batch,
        "n_mapped": query.n_obs,
        "majority_label": float(np.mean(truth == pd.Series(labels).mode()[0])),
        "accuracy_clusters": accuracy(truth, by_cluster, labels),
        **transfer(embedding, labels, mapped.get_latent_representation(), truth),
        "seconds_mapping": round(seconds, 2),
    }
    mapped.train(max_epochs=args.max_epochs or 20, accelerator=args.accelerator, enable_progress_bar=False)
    adapted = transfer(embedding, labels, mapped.get_latent_representation(), truth)
    return {**row, **{f"adapted_{name}": value for name, value in adapted.items()}}


def new_batch_scvi(path: Path, batch: str, args: argparse.Namespace) -> dict[str, Any]:
    """Transfer labels to a new batch by scVI and scArches, with the settings that scvi-tools recommends."""
    import scvi

    from scsiameseclu.tl._cluster import _highly_variable_genes

    reference, query = leave_out(path, batch)
    labels, truth = reference.obs[LABELS].to_numpy(), query.obs[LABELS].to_numpy()
    if reference.n_vars > N_TOP_GENES:
        genes = _highly_variable_genes(reference, None, BATCH, N_TOP_GENES)
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
    quiet = {"accelerator": args.accelerator, "enable_progress_bar": False}
    scvi.model.SCVI.setup_anndata(reference, batch_key=BATCH)
    options = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "n_layers": 2}
    peer = scvi.model.SCVI(reference, **options)
    start = time.perf_counter()
    peer.train(max_epochs=args.max_epochs, **quiet)
    middle = time.perf_counter()
    moved = scvi.model.SCVI.load_query_data(query, peer, accelerator=args.accelerator)
    moved.train(max_epochs=args.max_epochs or 200, plan_kwargs={"weight_decay": 0.0}, **quiet)
    seconds = time.perf_counter() - middle
    return {
        "held_out": batch,
        "n_mapped": query.n_obs,
        **transfer(peer.get_latent_representation(), labels, moved.get_latent_representation(), truth),
        "seconds_training": round(middle - start, 1),
        "seconds_mapping": round(seconds, 1),
    }


def speed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Map many simulated cells."""
    from scsiameseclu.datasets import synthetic

    n_reference, n_query = min(5000, args.n_query), args.n_query
    cells = synthetic(n_obs=n_reference + n_query, n_vars=1000, n_types=8, seed=seed)
    model = train(cells[:n_reference].copy(), args)
    mapped, seconds = map_query(model, cells[n_reference:].copy(), args)
    start = time.perf_counter()
    mapped.get_out_of_reference_score()
    return {
        "n_reference": n_reference,
        "n_mapped": n_query,
        "seconds_mapping": round(seconds, 1),
        "seconds_score": round(time.perf_counter() - start, 1),
    }


def run_one(key: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run one task in this process."""
    warnings.filterwarnings("ignore")
    import scvi

    task, name, held_out, seed = key[0], key[1], key[2], int(key[3])
    scvi.settings.seed = seed
    if task == "speed":
        return speed(seed, args)
    path = args.data / f"{name}.h5ad"
    if task == "scvi":
        return new_batch_scvi(path, held_out, args)
    if task == "batches":
        return new_batch(path, held_out, seed, args)
    return random_cells(path, seed, args, BATCH if task == "cells_of_batches" else None)


def labelled(path: Path) -> tuple[bool, list[str]]:
    """Whether a file has labels, and its batches, if there are at least two."""
    import anndata as ad

    obs = ad.read_h5ad(path, backed="r").obs
    batches = sorted(obs[BATCH].astype(str).unique()) if BATCH in obs else []
    return LABELS in obs, batches if len(batches) > 1 else []


def keys_of(args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """All runs: task, data set, batch left out, seed."""
    keys: list[tuple[Any, ...]] = []
    paths = [] if args.data is None else sorted(args.data.glob("*.h5ad"))
    if args.sets:
        paths = [path for path in paths if any(name in path.stem for name in args.sets)]
    found = {path.stem: labelled(path) for path in paths}
    for seed in args.seeds:
        if "speed" in args.tasks:
            keys.append(("speed", "simulated", "", seed))
        for name, (has_labels, batches) in found.items():
            if has_labels and "cells" in args.tasks:
                keys.append(("cells", name, "", seed))
            if has_labels and batches and "cells_of_batches" in args.tasks:
                keys.append(("cells_of_batches", name, "", seed))
            for task in ("batches", "scvi"):
                if has_labels and task in args.tasks:
                    keys += [(task, name, batch, seed) for batch in batches[:MAX_BATCHES]]
    return keys


def run_all(args: argparse.Namespace) -> None:
    """Run everything that is not in the results file yet."""
    done = {(row["task"], row["set"], row.get("held_out", ""), row["seed"]) for row in read_results(args.out)}
    for key in keys_of(args):
        if key in done:
            continue
        command = [sys.executable, *sys.argv, "--one", json.dumps(key)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(f"{key} failed:\n{result.stderr[-3000:]}")
        row = {"task": key[0], "set": key[1], "seed": key[3], **json.loads(result.stdout.splitlines()[-1])}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds and batches per task and set, in Markdown."""
    import pandas as pd

    lines = []
    for task, of_task in pd.DataFrame(rows).groupby("task"):
        numbers = of_task.dropna(axis=1, how="all").groupby("set").mean(numeric_only=True).drop(columns="seed")
        lines += [
            "",
            f"## {task}",
            "",
            "| set | " + " | ".join(numbers) + " |",
            "|---" * (len(numbers.columns) + 1) + "|",
        ]
        for name, row in numbers.iterrows():
            lines.append(f"| {name} | " + " | ".join(f"{value:.4g}" for value in row) + " |")
    return "\n".join(lines).strip()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--n-query", type=int, default=100_000, help="cells of the speed task (%(default)s)")
    parser.add_argument("--max-epochs", type=int, help="epochs of every training (default: each package's own)")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--table", action="store_true", help="print the table of the results file and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args)))
        return
    if not args.table:
        if args.data is None and args.tasks != ["speed"]:
            parser.error("--data is needed for all tasks but speed")
        run_all(args)
    print(table(read_results(args.out)))


if __name__ == "__main__":
    main()
