"""The command line: ``scsiameseclu demo | fit | predict | info``.

The summary of the results goes to standard output. Progress and warnings go to standard error. Bad input ends the
program with one line of text and exit code 1. A wrong command line ends the program with exit code 2.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from scsiameseclu import _commands
from scsiameseclu._commands import BAD_INPUT, PROGRAM, one_line
from scsiameseclu._keys import DEFAULT_KEY, MAX_OUT_OF_REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments without the program's name. ``None``: the arguments of the process.

    Returns
    -------
    int
        Exit code: 0 after success, 1 after bad input, 130 after an interruption.

    Raises
    ------
    SystemExit
        With exit code 2 if the command line is wrong, and with exit code 0 after ``--help`` and ``--version``.
    """
    arguments = _parser().parse_args(argv)
    arguments.started = time.perf_counter()
    arguments.call = shlex.join([PROGRAM, *(sys.argv[1:] if argv is None else argv)])
    try:
        print(arguments.run(arguments))
    except BAD_INPUT as error:
        if arguments.debug:
            raise
        print(f"{PROGRAM}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


def _version() -> str:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:  # run from a source folder that is not installed
        return "(not installed)"


def _n_clusters(text: str) -> int | str:
    if text == "auto":
        return text
    return _at_least(1)(text)


def _at_least(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, found {text!r}")
        return number

    return parse


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, found {text!r}")
    return number


def _parser() -> argparse.ArgumentParser:
    """Parser with all commands and their options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Cluster single cells from raw counts; apply a trained model to other cells."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    parser.set_defaults(debug=False, verbose=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="show log messages and warnings of all packages")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    writing = argparse.ArgumentParser(add_help=False, parents=[common])
    writing.add_argument("--key-added", default=DEFAULT_KEY, metavar="KEY", help="name of the results (%(default)s)")
    writing.add_argument("--overwrite", action="store_true", help="replace results of an earlier run in the folder")
    writing.add_argument(
        "--accelerator",
        choices=("auto", "cpu", "gpu", "mps"),
        default="auto",
        help="device to compute on (%(default)s)",
    )
    writing.add_argument("--report", action="store_true", help="write report.html, a page about the clusters")
    training = argparse.ArgumentParser(add_help=False, parents=[writing])
    training.add_argument(
        "--n-clusters", type=_n_clusters, default="auto", metavar="K", help="number of clusters, or auto (%(default)s)"
    )
    training.add_argument("--seed", type=_at_least(0), default=0, help="seed of everything random (%(default)s)")
    training.add_argument(
        "--max-epochs", type=_at_least(1), metavar="N", help="epochs of training (default: by the number of cells)"
    )
    training.add_argument(
        "--n-top-genes",
        type=_at_least(0),
        default=2000,
        metavar="N",
        help="number of highly variable genes to train on, 0: all genes (%(default)s)",
    )
    training.add_argument(
        "--n-neighbors", type=_at_least(1), default=15, metavar="K", help="neighbours in the cell graph (%(default)s)"
    )
    training.add_argument(
        "--gene-likelihood",
        choices=("zinb", "nb", "poisson"),
        default="nb",
        help="distribution of the counts (%(default)s)",
    )
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument(
        "--force",
        action="store_true",
        help="accept values that are not counts, gene names that occur twice, and a query that lacks most genes of "
        "the model",
    )
    scoring = argparse.ArgumentParser(add_help=False)
    scoring.add_argument("--labels-key", metavar="KEY", help="obs column of known types, used for scoring only")

    demo = commands.add_parser("demo", parents=[training], help="cluster 2,638 real blood cells, offline")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), metavar="DIR", help="output folder (%(default)s)")
    demo.set_defaults(run=_commands.demo)

    fit = commands.add_parser(
        "fit", parents=[training, reading, scoring], help="train on an .h5ad file and cluster its cells"
    )
    fit.add_argument("input", type=Path, metavar="IN.h5ad", help="cells with raw counts")
    fit.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    fit.add_argument("--layer", metavar="KEY", help="layer with the raw counts (default: X)")
    fit.add_argument("--batch-key", metavar="KEY", help="obs column of batches to correct for")
    fit.add_argument("--use-rep", metavar="KEY", help="obsm entry to build the cell graph on (default: PCA)")
    fit.set_defaults(run=_commands.fit)

    predict = commands.add_parser(
        "predict", parents=[writing, reading, scoring], help="apply a trained model to the cells of an .h5ad file"
    )
    predict.add_argument(
        "input",
        type=Path,
        metavar="QUERY.h5ad",
        help="cells with raw counts; a zarr store is mapped to DIR/mapped.zarr",
    )
    predict.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder written by fit")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    predict.add_argument(
        "--max-out-of-reference",
        type=_share,
        default=MAX_OUT_OF_REFERENCE,
        metavar="SCORE",
        help="leave cells with a higher out-of-reference score unassigned, 1: no limit (%(default)s)",
    )
    predict.add_argument(
        "--min-confidence",
        type=_share,
        metavar="P",
        help="leave cells whose cluster has a lower probability unassigned (default: no limit)",
    )
    predict.set_defaults(run=_commands.predict)

    info = commands.add_parser(
        "info", parents=[common], help="check the files of a saved model, and describe the model"
    )
    info.add_argument("model", type=Path, metavar="DIR", help="folder written by fit, or by model.save")
    info.add_argument("--json", action="store_true", help="machine-readable output")
    info.set_defaults(run=_commands.info)
    return parser


if __name__ == "__main__":
    sys.exit(main())
