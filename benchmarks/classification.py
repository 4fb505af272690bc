"""Cell types from some labels: `tl.classify` on our embedding, and other classifiers trained on the same labels.

    python -m benchmarks.classification --data DIR --out classification.jsonl [--sets ...] [--methods ...]
        [--keep FOLDER]
    python -m benchmarks.classification --out classification.jsonl --table

Labels are kept for 1, 5, 20 and 80 % of the cells of every type, at least one label per type. All other labels are
hidden from all methods. In a fifth task, one type of 20 cells or more has no label, and the other types have 20 % of
their labels. Accuracy, macro-F1 and the expected calibration error are computed on the cells without a label whose type
has labels. ``auroc_withheld`` is the area under the ROC curve for detecting the cells of the withheld type by a low
confidence, among all cells without a label.

``classify``, ``classify_knn``: `tl.cluster` and `tl.classify` with their defaults, and with ``method="knn"``.
``pca_logistic``: logistic regression on 50 principal components. ``scvi_knn``: 5 nearest neighbours in the latent space
of scVI, weighted by distance. ``scanvi``: SCANVI on that scVI model. ``celltypist``: CellTypist trained on
log-normalised counts of all genes (needs celltypist and, with its release 1.7.1, scikit-learn below 1.8).

Every seed is a draw of the labels that are kept. An embedding is made once, with one seed, because no embedding uses
labels. ``--keep`` stores our embeddings, so that other settings of `tl.classify` can be run on the same embeddings. A
draw that is in the results file is skipped.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.run import labelled_files, read_results
from benchmarks.table import markdown

LABELS = "cell_type"
UNKNOWN = "Unknown"
EMBEDDING_SEED = 0
SHARES = (0.01, 0.05, 0.2, 0.8)
WITHHELD_SHARE = 0.2
MIN_WITHHELD_CELLS = 20
METRICS = ("accuracy", "f1_macro", "ece")
METHODS = ("classify", "classify_knn", "pca_logistic", "scvi_knn", "scanvi", "celltypist")
FAMILIES = {
    "ours": ("classify", "classify_knn"),
    "pca": ("pca_logistic",),
    "scvi": ("scvi_knn", "scanvi"),
    "celltypist": ("celltypist",),
}

Classifier = Callable[[pd.Series], pd.DataFrame]
"""Function from labels (``"Unknown"`` for cells without a label) to probabilities (cells x types)."""


def tasks(truth: pd.Series, seed: int) -> Iterator[tuple[dict[str, Any], pd.Series]]:
    """Each task with its labels, ``"Unknown"`` where they are hidden."""
    rng = np.random.default_rng(seed)
    for share in SHARES:
        yield {"share": share, "withheld": ""}, keep_share(truth, share, rng)
    sizes = truth.value_counts().sort_index()
    withheld = str(rng.choice(sizes.index[sizes >= MIN_WITHHELD_CELLS]))
    labels = keep_share(truth, WITHHELD_SHARE, rng)
    yield {"share": WITHHELD_SHARE, "withheld": withheld}, labels.mask(labels == withheld, UNKNOWN)


def keep_share(truth: pd.Series, share: float, rng: np.random.Generator) -> pd.Series:
    """Keep the labels of this share of the cells of every type, at least one per type."""
    kept = np.zeros(len(truth), dtype=bool)
    for name in sorted(truth.unique()):
        cells = np.flatnonzero(truth == name)
        kept[rng.choice(cells, max(1, round(share * len(cells))), replace=False)] = True
    return truth.where(kept, UNKNOWN)


def scores(truth: pd.Series, labels: pd.Series, probabilities: pd.DataFrame, withheld: str) -> dict[str, float]:
    """Scores of the cells without a label whose type has labels."""
    from sklearn.metrics import f1_score, roc_auc_score

    from scsiameseclu.metrics import expected_calibration_error

    hidden = (labels == UNKNOWN).to_numpy()
    found, confidence = probabilities.idxmax(axis=1).to_numpy(), probabilities.max(axis=1).to_numpy()
    judged = hidden & (truth != withheld).to_numpy()
    right = found[judged] == truth[judged].to_numpy()
    names = sorted(truth[judged].unique())
    found_scores = {
        "accuracy": float(right.mean()),
        "f1_macro": float(f1_score(truth[judged], found[judged], labels=names, average="macro", zero_division=0)),
        "ece": float(expected_calibration_error(np.minimum(confidence[judged], 1.0), right)),
        "n_judged": int(judged.sum()),
        "n_labelled": int((~hidden).sum()),
    }
    if withheld:
        is_new = (truth[hidden] == withheld).to_numpy()
        found_scores["auroc_withheld"] = float(roc_auc_score(is_new, -confidence[hidden]))
    return found_scores


def our_classifiers(adata: Any, stored: Path | None) -> dict[str, Classifier]:
    """`tl.classify` on the embedding of `tl.cluster`, or on the embedding in the file ``stored`` if it exists."""
    import anndata as ad
    import scvi

    import scsiameseclu as ssc

    if stored is not None and stored.exists():
        embedding = np.load(stored)
    else:
        scvi.settings.seed = EMBEDDING_SEED
        ssc.tl.cluster(adata, train_kwargs={"enable_progress_bar": False})
        embedding = adata.obsm["X_siamese_clu"]
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            np.save(stored, embedding)

    def classified(labels: pd.Series, method: str) -> pd.DataFrame:
        cells = ad.AnnData(obs=labels.to_frame("labels"), obsm={"X_siamese_clu": embedding})
        return ssc.tl.classify(cells, "labels", method=method, threshold=0.0)

    return {
        "classify": lambda labels: classified(labels, "logistic"),
        "classify_knn": lambda labels: classified(labels, "knn"),
    }


def pca_classifiers(adata: Any, stored: Path | None) -> dict[str, Classifier]:
    """Logistic regression on principal components."""
    from benchmarks import preprocessing

    points = preprocessing.principal_components(adata, EMBEDDING_SEED)

    def classified(labels: pd.Series) -> pd.DataFrame:
        from sklearn.linear_model import LogisticRegression

        return fitted_probabilities(LogisticRegression(max_iter=2000), points, labels)

    return {"pca_logistic": classified}


def fitted_probabilities(estimator: Any, points: NDArray[Any], labels: pd.Series) -> pd.DataFrame:
    """Probabilities of all cells by an estimator of scikit-learn that is fitted to the labelled cells."""
    known = (labels != UNKNOWN).to_numpy()
    estimator.fit(points[known], labels[known])
    return pd.DataFrame(estimator.predict_proba(points), index=labels.index, columns=estimator.classes_)


def scvi_classifiers(adata: Any, stored: Path | None) -> dict[str, Classifier]:
    """Nearest neighbours on scVI, and SCANVI, both with the defaults of scvi-tools."""
    import scvi

    from benchmarks import preprocessing

    scvi.settings.seed = EMBEDDING_SEED
    cells = preprocessing.select_genes(adata)
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(cells)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(**quiet)
    points = np.asarray(model.get_latent_representation())

    def neighbours(labels: pd.Series) -> pd.DataFrame:
        from sklearn.neighbors import KNeighborsClassifier

        n_neighbors = min(5, int((labels != UNKNOWN).sum()))
        return fitted_probabilities(KNeighborsClassifier(n_neighbors, weights="distance"), points, labels)

    def scanvi(labels: pd.Series) -> pd.DataFrame:
        scvi.settings.seed = EMBEDDING_SEED
        cells.obs["labels"] = labels.to_numpy()
        peer = scvi.model.SCANVI.from_scvi_model(model, UNKNOWN, labels_key="labels")
        peer.train(n_samples_per_label=100, datasplitter_kwargs={"drop_last": True}, **quiet)
        return peer.predict(soft=True)

    return {"scvi_knn": neighbours, "scanvi": scanvi}


def celltypist_classifiers(adata: Any, stored: Path | None) -> dict[str, Classifier]:
    """CellTypist with its defaults on log-normalised counts of all genes."""
    import celltypist
    import scanpy as sc

    from benchmarks import preprocessing

    cells = preprocessing.counts_only(adata)
    sc.pp.filter_genes(cells, min_cells=1)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)

    def classified(labels: pd.Series) -> pd.DataFrame:
        known = (labels != UNKNOWN).to_numpy()
        np.random.seed(EMBEDDING_SEED)
        model = celltypist.train(cells[known].copy(), labels[known].to_numpy(), n_jobs=1)
        return celltypist.annotate(cells, model=model).probability_matrix

    return {"celltypist": classified}


BUILDERS = {
    "ours": our_classifiers,
    "pca": pca_classifiers,
    "scvi": scvi_classifiers,
    "celltypist": celltypist_classifiers,
}


def run_family(path: Path, family: str, seeds: list[int], stored: Path | None) -> list[dict[str, Any]]:
    """Rows of all tasks, draws and methods of one family on one data set, in this process."""
    warnings.filterwarnings("ignore")
    import anndata as ad

    from benchmarks import preprocessing

    adata = ad.read_h5ad(path)
    truth = pd.Series(adata.obs[LABELS].astype(str).to_numpy())
    cells = preprocessing.counts_only(adata)
    truth.index = cells.obs_names
    start = time.perf_counter()
    classifiers = BUILDERS[family](cells, stored)
    seconds_embedding = time.perf_counter() - start
    rows = []
    for seed in seeds:
        for task, labels in tasks(truth, seed):
            for method, classify in classifiers.items():
                start = time.perf_counter()
                probabilities = classify(labels)
                seconds = time.perf_counter() - start
                found = scores(truth, labels, probabilities, task["withheld"])
                times = {"seconds": round(seconds, 2), "seconds_embedding": round(seconds_embedding, 1)}
                rows.append({"set": path.stem, "method": method, "seed": seed, **task, **found, **times})
    return rows


def run_all(args: argparse.Namespace) -> None:
    """Run everything that is not in the results file yet, one process per data set and family."""
    done = {(row["set"], row["method"].removesuffix(args.tag), row["seed"]) for row in read_results(args.out)}
    paths = sorted(labelled_files(args.data, LABELS, args.sets), key=lambda path: path.stat().st_size)  # small first
    families = [name for name, methods in FAMILIES.items() if set(methods) & set(args.methods)]
    for path in paths:
        for family in families:
            seeds = [
                seed for seed in args.seeds if any((path.stem, each, seed) not in done for each in FAMILIES[family])
            ]
            if not seeds:
                continue
            stored = str(args.keep / f"{path.stem}.npy") if args.keep else ""
            one = json.dumps([str(path), family, seeds, stored])
            command = [sys.executable, "-m", "benchmarks.classification", "--one", one]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                sys.exit(f"{path.stem} {family} failed:\n{result.stderr[-3000:]}")
            with args.out.open("a") as file:
                for row in json.loads(result.stdout.splitlines()[-1]):
                    file.write(json.dumps({**row, "method": row["method"] + args.tag}) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Means over data sets, of means over seeds, for each task, in Markdown."""
    runs = pd.DataFrame(rows)
    runs["task"] = np.where(runs["withheld"] == "", (runs["share"] * 100).map("{:.0f} %".format), "one type withheld")
    metrics = [*METRICS, "auroc_withheld"]
    per_set = runs.groupby(["task", "method", "set"])[metrics].mean()
    header = ["labelled", "method", "accuracy", "macro-F1", "calibration error", "AUROC withheld", "sets"]
    lines = []
    for task in [*(f"{share * 100:.0f} %" for share in SHARES), "one type withheld"]:
        for method, of_method in per_set.loc[task].groupby("method"):
            cells = ["" if np.isnan(value) else f"{value:.3f}" for value in of_method.mean()]
            lines.append([task, str(method), *cells, str(len(of_method))])
    return markdown(header, lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--keep", type=Path, help="folder for our embeddings")
    parser.add_argument("--tag", default="", help="suffix of the method's name in the results (other settings)")
    parser.add_argument("--table", action="store_true", help="print the table of the results file and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        path, family, seeds, stored = json.loads(args.one)
        print(json.dumps(run_family(Path(path), family, seeds, Path(stored) if stored else None)))
        return
    if args.out is None or (args.data is None and not args.table):
        parser.error("--out is needed, and --data to run")
    if not args.table:
        run_all(args)
    print(table(read_results(args.out)))


if __name__ == "__main__":
    main()
