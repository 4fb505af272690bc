"""RNA only compared with RNA and surface proteins, on CITE-seq data sets with labels.

    python benchmarks/cite.py --data DIR --out cite.jsonl [--seeds 0 1 2]
        [--methods rna joint joint_kmeans] [--sets ...]
    python benchmarks/cite.py --out cite.jsonl --table

Every ``*.h5ad`` file of DIR with raw RNA counts in ``X``, proteins in an ``obsm`` entry whose name begins with
"protein" and labels in ``obs["cell_type"]`` is one data set. Labels are used for scoring and for the number of types,
which every method is given (with ``--auto``, the models estimate the number). If the labels were derived from the
proteins, the scores of the joint methods are too high. Every run is a separate process. A run that is already in the
results file is skipped.

``rna``: the model with its defaults on the RNA. ``joint``: the model with its defaults on RNA and proteins.
``joint_kmeans``: k-means on the space of the joint cell graph, without any training.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.run import read_results

METHODS = ("rna", "joint", "joint_kmeans")
METRICS = ("acc", "nmi", "ari", "f1_macro")
LABELS = "cell_type"


def protein_entry(path: Path) -> str | None:
    """Name of the ``obsm`` entry with proteins; None if the file has no proteins or no labels."""
    import h5py

    with h5py.File(path) as file:
        entries = [key for key in file.get("obsm", {}) if key.startswith("protein")]
        return entries[0] if entries and LABELS in file["obs"] else None


def as_mudata(adata: Any, entry: str, n_top_genes: int = 2000) -> Any:
    """Highly variable genes and proteins of an AnnData as a MuData without labels."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scanpy as sc
    from mudata import MuData

    table = adata.obsm[entry]
    names = table.columns if isinstance(table, pd.DataFrame) else [f"protein{i}" for i in range(table.shape[1])]
    protein = ad.AnnData(
        np.asarray(table, dtype=np.float32), obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=names)
    )
    rna = ad.AnnData(adata.X.copy(), obs=pd.DataFrame(index=adata.obs_names), var=adata.var[[]].copy())
    sc.pp.filter_genes(rna, min_cells=1)
    if rna.n_vars > n_top_genes:
        logs = rna.copy()
        sc.pp.normalize_total(logs, target_sum=1e4)
        sc.pp.log1p(logs)
        sc.pp.highly_variable_genes(logs, n_top_genes=n_top_genes)
        rna = rna[:, logs.var["highly_variable"]].copy()
    return MuData({"rna": rna, "protein": protein})


def labels_of(mdata: Any, method: str, n_clusters: int | str, seed: int, settings: dict[str, Any]) -> Any:
    """Run one method; ``settings`` may hold ``setup_kwargs``, ``model_kwargs`` and ``train_kwargs``."""
    import scvi

    from scsiameseclu import SCSiameseClu
    from scsiameseclu._keys import SIAMESE_KEYS

    scvi.settings.seed = seed
    if method == "rna":
        data = mdata["rna"]
        SCSiameseClu.setup_anndata(data)
    else:
        data = mdata
        SCSiameseClu.setup_mudata(data, **settings.get("setup_kwargs", {}))
    model = SCSiameseClu(data, n_clusters=n_clusters, **settings.get("model_kwargs", {}))
    if method == "joint_kmeans":
        from sklearn.cluster import KMeans

        rep = model.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)
        return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(rep)
    model.train(enable_progress_bar=False, **settings.get("train_kwargs", {}))
    return model.predict().to_numpy()


def run_one(path: Path, method: str, seed: int, settings: dict[str, Any], auto: bool) -> dict[str, Any]:
    """Run one method on one data set in this process."""
    import warnings

    warnings.filterwarnings("ignore")
    import anndata as ad

    from scsiameseclu.metrics import clustering_metrics

    adata = ad.read_h5ad(path)
    truth = adata.obs[LABELS].astype(str).to_numpy()
    mdata = as_mudata(adata, str(protein_entry(path)))
    n_types = len(set(truth))
    start = time.perf_counter()
    labels = labels_of(mdata, method, "auto" if auto and method != "joint_kmeans" else n_types, seed, settings)
    seconds = time.perf_counter() - start
    scores = clustering_metrics(truth, labels)
    return {"n_types": n_types, "n_proteins": mdata["protein"].n_vars, **scores, "seconds": round(seconds, 1)}


def run_all(args: argparse.Namespace) -> None:
    """Run everything that is not in the results file yet."""
    done = {(row["set"], row["method"], row["seed"]) for row in read_results(args.out)}
    paths = [path for path in sorted(args.data.glob("*.h5ad")) if protein_entry(path)]
    if args.sets:
        paths = [path for path in paths if any(name in path.stem for name in args.sets)]
    if not paths:
        sys.exit(f"no labelled file with proteins in obsm in {args.data}")
    for seed in args.seeds:
        for path in paths:
            for method in args.methods:
                name = f"{method}{':auto' if args.auto and method != 'joint_kmeans' else ''}{args.tag}"
                if (path.stem, name, seed) in done:
                    continue
                command = [sys.executable, __file__, "--one", str(path), method, str(seed), "--settings", args.settings]
                result = subprocess.run(command + ["--auto"] * args.auto, capture_output=True, text=True, check=False)
                if result.returncode:
                    sys.exit(f"{path.stem} {method} seed {seed} failed:\n{result.stderr[-3000:]}")
                row = {"set": path.stem, "method": name, "seed": seed, **json.loads(result.stdout.splitlines()[-1])}
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds per set and method, in Markdown."""
    import pandas as pd

    lines = [
        "| data set (types, proteins) | method | ACC | NMI | ARI | F1 | K | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, method), runs in pd.DataFrame(rows).groupby(["set", "method"], sort=False):
        spread = runs[list(METRICS)].std().fillna(0.0)
        cells = [f"{runs[metric].mean():.3f} ± {spread[metric]:.3f}" for metric in METRICS]
        title = f"{name} ({runs['n_types'].iloc[0]}, {runs['n_proteins'].iloc[0]})"
        rest = [f"{runs['n_clusters'].mean():.1f}", f"{runs['seconds'].median():.0f}"]
        lines.append(f"| {title} | {method} | " + " | ".join(cells + rest) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--auto", action="store_true", help="let the models estimate the number of clusters")
    parser.add_argument(
        "--settings", default="{}", help="JSON with setup_kwargs, model_kwargs, train_kwargs (ablations)"
    )
    parser.add_argument("--tag", default="", help="suffix of the method's name in the results (ablations)")
    parser.add_argument("--table", action="store_true", help="print the table of the results file and stop")
    parser.add_argument("--one", nargs=3, metavar=("FILE", "METHOD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        path, method, seed = args.one
        print(json.dumps(run_one(Path(path), method, int(seed), json.loads(args.settings), args.auto)))
        return
    if args.out is None or (args.data is None and not args.table):
        parser.error("--out is needed, and --data to run")
    if not args.table:
        run_all(args)
    print(table(read_results(args.out)))


if __name__ == "__main__":
    main()
