"""Do linear discriminants improve a partition? Uses kept embeddings and candidates; see README.md.

    python -m benchmarks.tasks embed --data DIR --keep FOLDER
    python -m benchmarks.cut FOLDER --keep-candidates FOLDER2 --parts cut
    python -m benchmarks.refinement FOLDER FOLDER2 [--out refinement.jsonl]
    python -m benchmarks.refinement --report refinement.jsonl > refinement.md

The partition is the partition of the default rule. Every variant assigns the cells anew by linear discriminants that
are fitted to this partition. The default fits the discriminants in the representation of the cells' own counts. The
variants are: only the first 20 dimensions of this representation; the embedding; decoded expression; exact transport;
no transport to the cluster sizes; the sample covariance instead of the shrunk covariance; two rounds. No variant uses
labels. Figures are means over the tasks of a data set, then over data sets. Intervals are over data sets.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.cut import score
from benchmarks.run import read_results
from benchmarks.table import markdown
from benchmarks.tasks import SCORES, _mean_over_sets, differences_table
from scsiameseclu.partition import fit_discriminant

NONE = "partition as it is"
DEFAULT = "discriminants, transported"


def refine(points: NDArray[Any], parts: NDArray[Any], n_clusters: int, **options: Any) -> NDArray[np.int64]:
    """Most probable cluster of every cell by discriminants that are fitted to these parts."""
    found = fit_discriminant(points, parts, n_clusters, **options)
    return found.probabilities(torch.as_tensor(points)).argmax(dim=1).numpy()


def sample_covariance(residuals: NDArray[Any], **options: Any) -> tuple[NDArray[Any], float]:
    """Covariance without shrinkage, with the signature of ``ledoit_wolf``."""
    return residuals.T @ residuals / len(residuals), 0.0


def variants(kept: Any, parts: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Labels by variant."""
    from scsiameseclu.partition import _discriminant

    rep, n_clusters = kept["rep"], int(parts.max()) + 1
    found = {
        NONE: parts,
        DEFAULT: refine(rep, parts, n_clusters),
        "transported exactly": refine(rep, parts, n_clusters, transport="exact"),
        "not transported": refine(rep, parts, n_clusters, marginal_relaxation=0.0),
        "first 20 dimensions": refine(rep[:, :20], parts, n_clusters),
        "in the embedding": refine(kept["latent"], parts, n_clusters),
        "in decoded expression": refine(kept["points"], parts, n_clusters),
    }
    found["twice"] = refine(rep, found[DEFAULT], n_clusters)
    shrunk, _discriminant.ledoit_wolf = _discriminant.ledoit_wolf, sample_covariance
    try:
        found["sample covariance"] = refine(rep, parts, n_clusters)
    finally:
        _discriminant.ledoit_wolf = shrunk
    return found


def rows_of(file: Path, candidates: Path) -> list[dict[str, Any]]:
    """One row of results per variant."""
    name, _, number = file.stem.rpartition(".")
    with np.load(candidates / file.name) as kept:
        row = json.loads(str(kept["row"]))
        parts = np.unique(kept["labels"][list(kept["names"]).index(row["default"])], return_inverse=True)[1]
    with np.load(file) as kept:
        found, truth, told = variants(kept, parts.astype(np.int64)), kept["truth"], bool(kept["told"])
    common = {"set": name, "number": number, "seed": 0, "told": told}
    return [{**common, "method": method, **score(truth, labels)} for method, labels in found.items()]


def report(frame: pd.DataFrame) -> str:
    """Markdown tables: means over data sets, paired differences to the partition as it is."""
    names = list(dict.fromkeys(frame["method"]))
    lines = [[name, *[_mean_over_sets(frame[frame["method"] == name], column) for column in SCORES]] for name in names]
    n_tasks = len(frame[["set", "number"]].drop_duplicates())
    title = f"{n_tasks} tasks of {frame['set'].nunique()} data sets."
    pairs = differences_table(frame, [name for name in names if name != NONE], [NONE])
    return "\n\n".join([title, markdown(["labels", *SCORES.values()], lines), pairs])


def main(arguments: list[str] | None = None) -> int:
    """Score all variants and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder that benchmarks.tasks embed has written")
    parser.add_argument("candidates", type=Path, nargs="?", help="folder that benchmarks.cut has written")
    parser.add_argument("--out", type=Path, help="rows of results, JSON lines; written anew")
    parser.add_argument("--report", type=Path, help="only print the tables of such rows")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if args.report is None and args.candidates is None:
        parser.error("FOLDER and the folder of candidates are needed, or --report")
    if args.report is not None:
        rows = read_results(args.report)
    else:
        files = sorted(file for file in args.folder.glob("*.npz") if (args.candidates / file.name).exists())
        rows = [row for file in files for row in rows_of(file, args.candidates)]
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(report(pd.DataFrame(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
