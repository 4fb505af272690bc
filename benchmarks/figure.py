"""ARI of every method on every data set as one figure: ``python -m benchmarks.figure results.jsonl ari.png``."""

import argparse
import sys
from pathlib import Path

from benchmarks.run import read_results
from benchmarks.table import as_frame, in_order


def main(arguments: list[str] | None = None) -> int:
    """Draw means over seeds of the methods that are given the number of types; our method is highlighted."""
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results file of benchmarks.run")
    parser.add_argument("figure", type=Path, help="file to write")
    args = parser.parse_args(arguments)
    frame = as_frame(read_results(args.results))
    frame = frame[frame["k_given"]]
    means = frame.pivot_table(index="set", columns="method", values="ari")[in_order(frame)]
    means = means.loc[means.max(axis=1).sort_values().index]
    figure, ax = plt.subplots(figsize=(8.0, 0.38 * len(means) + 1.6), layout="constrained")
    for method in means:
        ours = str(method).startswith("siamese")
        style = {"color": "black", "s": 70, "marker": "D", "zorder": 3} if ours else {"s": 28, "alpha": 0.75}
        ax.scatter(means[method], range(len(means)), label=method, **style)
    ax.set_yticks(range(len(means)), [str(name)[:32] for name in means.index], fontsize="small")
    ax.set(xlabel="ARI, mean over seeds, number of types given", xlim=(0, 1.02))
    ax.grid(axis="y", linewidth=0.4)
    ax.legend(fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.figure, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
