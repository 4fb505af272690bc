"""The commands of the command line; each returns the text to show.

Heavy imports stay inside functions. So ``--help`` answers at once, and wrong paths are refused before anything is
loaded.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsiameseclu._atomic import finish, replaced_entries
from scsiameseclu._command_results import summary, write_results
from scsiameseclu._keys import check_key, check_key_added

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from anndata import AnnData

    from scsiameseclu.model import SCSiameseClu

PROGRAM = "scsiameseclu"
# Exceptions that unusable files and arguments raise, in this package and in the packages that read files.
BAD_INPUT = (ValueError, KeyError, TypeError, OSError, RuntimeError, EOFError)

_DEMO_DATA = "pbmc3k, bundled with this package"
_METRICS = "metrics.json"
_RESULTS = ("clustered.h5ad", "pred.csv", "pred.npy", "embedding.npy", "embedding.csv", _METRICS, "umap.png")
_REPORT = "report.html"
_TRAINED = (*_RESULTS, "model", "training.png", _REPORT)
_MAPPED = (*_RESULTS, _REPORT)
_MODEL_FILES = ("manifest.json", "model.pt")

logger = logging.getLogger(__name__)


def demo(arguments: argparse.Namespace) -> str:
    """Run ``fit`` on the bundled data and score the clusters against the known types.

    The results of an earlier demo in the same folder are replaced.
    """
    arguments.labels_key, arguments.batch_key, arguments.layer, arguments.use_rep = "cell_type", None, None, None
    finish(arguments.out)
    arguments.overwrite = arguments.overwrite or _is_demo(arguments.out)
    with _output(arguments, _TRAINED) as new:
        _quieten(arguments)
        _check_accelerator(arguments.accelerator)
        from scsiameseclu import datasets

        return _fit_and_write(datasets.pbmc3k(), arguments, new, data=_DEMO_DATA)


def fit(arguments: argparse.Namespace) -> str:
    """Train on the cells of a file and write labels, embedding, model and pictures."""
    _check_file(arguments.input)
    with _output(arguments, _TRAINED) as new:
        _quieten(arguments)
        _check_accelerator(arguments.accelerator)
        adata = _read(arguments.input)
        _check_labels(adata, arguments)
        _check_matrix(adata, arguments.layer, arguments.force, _as_option)
        return _fit_and_write(adata, arguments, new, data=str(arguments.input))


def predict(arguments: argparse.Namespace) -> str:
    """Apply a saved model to the cells of a file and write labels, embedding and picture."""
    if arguments.input.is_dir():
        return _predict_store(arguments)
    _check_file(arguments.input)
    folder = _model_folder(arguments.model)
    with _output(arguments, _MAPPED) as new:
        _quieten(arguments)
        _check_accelerator(arguments.accelerator)
        adata = _read(arguments.input)
        _check_labels(adata, arguments)

        from scsiameseclu import tl

        reference = _load(folder, arguments.accelerator)
        layer = reference.registry["setup_args"].get("layer")
        reads = "X" if layer is None else f"layers[{layer!r}]"
        _check_matrix(adata, layer, arguments.force, lambda _: f"the model reads {reads}")
        limits = {"max_out_of_reference": arguments.max_out_of_reference, "min_confidence": arguments.min_confidence}
        if arguments.force:
            limits["min_gene_share"] = 0.0
        model = tl.map(adata, reference, arguments.key_added, accelerator=arguments.accelerator, **limits)
        facts = {
            "data": str(arguments.input),
            "model": str(folder),
            "n_clusters": model.n_clusters,
            "n_genes_of_model": model.adata.n_vars,
            "n_genes_found": int(model.adata.var_names.isin(adata.var_names).sum()),
            "n_unassigned": adata.uns[arguments.key_added]["n_unassigned"],
        }
        return _write(adata, model, arguments, new, facts, _MAPPED)


def _predict_store(arguments: argparse.Namespace) -> str:
    """Map a zarr store of any size to a new zarr store, chunk by chunk.

    After an interruption, the same command continues with the next chunk.
    """
    for option, given in (("--labels-key", arguments.labels_key is not None), ("--report", arguments.report)):
        if given:
            raise ValueError(f"Expected an .h5ad file with {option}, found a zarr store: leave the option out.")
    _quieten(arguments)
    _check_accelerator(arguments.accelerator)
    from scsiameseclu import tl

    reference = _load(_model_folder(arguments.model), arguments.accelerator)
    names = ("key_added", "max_out_of_reference", "min_confidence", "accelerator", "overwrite")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    options |= {"min_gene_share": 0.0} if arguments.force else {}
    out = arguments.out / "mapped.zarr"
    tl.map_atlas(arguments.input, reference, out, progress_bar=sys.stderr.isatty(), **options)
    return f"wrote\n  {out}"


def info(arguments: argparse.Namespace) -> str:
    """Describe a saved model, after comparing the digest of each of its files, saved data included."""
    folder = _model_folder(arguments.model)
    _quieten(arguments)
    from scsiameseclu._file_format import Manifest

    model, manifest = _load(folder), Manifest.read(folder)
    manifest.check_all()
    facts = _describe(model, manifest.written_by)
    if arguments.json:
        return json.dumps(facts, indent=2, default=str)
    setup = ", ".join(f"{key}={value}" for key, value in facts["setup"].items())
    return "\n".join(f"{name:<14}{value}" for name, value in {**facts, "setup": setup}.items())


def _describe(model: SCSiameseClu, written_by: str) -> dict[str, Any]:
    return {
        "model": type(model).__name__,
        "trained": bool(model.is_trained),
        "epochs": max((len(frame) for frame in (model.history or {}).values()), default=0),
        "n_clusters": model.n_clusters,
        "n_cells": int(model.summary_stats["n_cells"]),
        "n_landmarks": 0 if model.reference is None else len(model.reference.latent),
        "n_genes": int(model.summary_stats["n_vars"]),
        "n_batches": int(model.summary_stats["n_batch"]),
        "setup": {key: value for key, value in model.registry["setup_args"].items() if value not in (None, {})},
        "written_by": f"scsiameseclu {written_by}",
        "scvi_version": model.registry["scvi_version"],
    }


def _fit_and_write(adata: AnnData, arguments: argparse.Namespace, new: Path, data: str) -> str:
    import scvi

    from scsiameseclu import pl, tl

    scvi.settings.seed = arguments.seed
    model = tl.cluster(
        adata,
        n_clusters=arguments.n_clusters,
        key_added=arguments.key_added,
        layer=arguments.layer,
        batch_key=arguments.batch_key,
        n_top_genes=arguments.n_top_genes or None,
        use_rep=arguments.use_rep,
        n_neighbors=arguments.n_neighbors,
        model_kwargs={"gene_likelihood": arguments.gene_likelihood},
        train_kwargs={
            "max_epochs": arguments.max_epochs,
            "accelerator": arguments.accelerator,
            "enable_progress_bar": sys.stderr.isatty(),
        },
    )
    model.save(new / "model")
    pl.training_curves(model, save=new / "training.png", return_fig=True)
    facts = {
        "data": data,
        "n_clusters_requested": arguments.n_clusters,
        "n_clusters": model.n_clusters,
        "n_genes_used": model.adata.n_vars,
        "seed": arguments.seed,
    }
    return _write(adata, model, arguments, new, facts, _TRAINED)


def _write(
    adata: AnnData,
    model: SCSiameseClu,
    arguments: argparse.Namespace,
    new: Path,
    facts: dict[str, Any],
    names: Sequence[str],
) -> str:
    """Write the results and the report, if ``--report`` is given. Write ``metrics.json`` last, with the total time."""
    facts |= write_results(adata, arguments, new)
    if arguments.report:
        key, labels_key = arguments.key_added, arguments.labels_key
        model.report(new / _REPORT, adata, labels_key=labels_key, key=key, call=arguments.call)
    facts["seconds"] = round(time.perf_counter() - arguments.started, 1)
    (new / _METRICS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return summary(adata, arguments, facts, [name for name in names if (new / name).exists()])


def _check_file(path: Path) -> None:
    for folder in (path.parent, path.parent.parent):  # `fit` writes the model into a folder inside the output folder
        finish(folder)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, found none.")


def _model_folder(folder: Path) -> Path:
    """The folder that holds the model: ``folder``, or its subfolder ``model``, to which ``fit`` writes the model.

    A folder with a ``model.pt`` of scvi-tools is accepted here. Loading refuses such a model with a helpful error.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected the folder of a saved model, found no folder {folder}.")
    inner = folder / "model"
    finish(folder)
    if not any((folder / name).is_file() for name in _MODEL_FILES) and inner.is_dir():
        folder = inner
    if not (folder / "model.pt").is_file():
        _check_file(folder / "manifest.json")
    return folder


def _read(path: Path) -> AnnData:
    import anndata

    try:
        adata = anndata.read_h5ad(path)
    except BAD_INPUT as error:
        raise ValueError(f"Expected an .h5ad file, could not read {path}: {one_line(error)}") from error
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        logger.warning(
            "%d names of cells occur more than once, such as %r. The results are in the order of the file: match "
            "results to cells by row, not by name.",
            len(twice),
            twice[0],
        )
    return adata


def _load(folder: Path, accelerator: str = "cpu") -> SCSiameseClu:
    """Load a model without data."""
    from scsiameseclu.model import SCSiameseClu

    try:
        return SCSiameseClu.load(str(folder), adata=False, accelerator=accelerator)
    except BAD_INPUT as error:
        raise ValueError(f"Expected a model of this package, could not load {folder}: {one_line(error)}") from error


def _as_option(layer: str | None) -> str:
    """Option with which the user chooses a layer, or ``X`` (``None``)."""
    return "no --layer" if layer is None else f"--layer {shlex.quote(layer)}"


def _check_matrix(adata: AnnData, layer: str | None, force: bool, remedy: Callable[[str | None], str]) -> None:
    """Refuse values that are not counts, and gene names that occur twice.

    With ``force``, any values are accepted, and repeated gene names are numbered.
    """
    from scsiameseclu.pp import check_counts
    from scsiameseclu.pp._counts import get_counts, repeated_genes, where_counts_are

    if force:
        adata.var_names_make_unique()
        return
    if repeated := repeated_genes(adata.var_names, "Make the gene names unique, or add --force to number them."):
        raise ValueError(repeated)

    def advice() -> str:
        return f"{where_counts_are(adata, remedy)} To go on with these values, add --force."

    check_counts(get_counts(adata, layer), adata.obs_names, adata.var_names, non_integer="raise", advice=advice)


def _check_labels(adata: AnnData, arguments: argparse.Namespace) -> None:
    """Check that the column of known types exists, and that the results do not overwrite any column of the user."""
    key = arguments.labels_key
    check_key(arguments.key_added, "--key-added")
    if key is not None and key not in adata.obs:
        raise KeyError(f"Expected --labels-key among {list(adata.obs.columns)}, found {key!r}.")
    if key is not None and adata.obs[key].isna().all():
        raise ValueError(f"Expected known types in obs[{key!r}], found none: leave out --labels-key.")
    if key == arguments.key_added:
        raise ValueError(f"Expected different --labels-key and --key-added, found {key!r} for both.")
    check_key_added(adata, arguments.key_added)


@contextmanager
def _output(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[Path]:
    """Temporary folder for the new results, which are moved to the output folder together at the end.

    Earlier results in the output folder are an error, unless ``--overwrite`` is given. The error is raised before any
    work is done.
    """
    out = arguments.out
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"Expected --out to be a folder, found the file {out}.")
    # A run without --report deletes the report of an earlier run, which would describe old results.
    with replaced_entries(out, wait=0.0, gone=[name for name in names if name == _REPORT]) as new:
        present = [name for name in names if (out / name).exists()]
        if present and not arguments.overwrite:
            raise FileExistsError(f"Expected no earlier results in {out}, found {', '.join(present)}: add --overwrite.")
        yield new


def _check_accelerator(name: str) -> None:
    import torch

    present = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name, True):
        raise ValueError(f"Expected an accelerator that this machine has, found {name!r}: use auto or cpu.")


def _is_demo(out: Path) -> bool:
    """Whether a folder holds the results of an earlier demo."""
    try:
        return bool(json.loads((out / _METRICS).read_text(encoding="utf-8"))["data"] == _DEMO_DATA)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _quieten(arguments: argparse.Namespace) -> None:
    """Show each log message of this package on one line. Show messages of other packages only with ``--verbose``."""
    logging.basicConfig(level=logging.WARNING, format=f"{PROGRAM}: %(message)s", stream=sys.stderr)
    if not arguments.verbose:  # set before the imports below, because some of them warn
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module=r"(anndata|lightning|numba|scanpy|sklearn|torch|umap)\b")
        warnings.showwarning = lambda message, *_, **__: logger.warning("%s", one_line(message))
    import matplotlib
    import scvi

    matplotlib.use("agg")
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.getLogger(PROGRAM).setLevel(level)
    scvi.settings.verbosity = level
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(level if arguments.verbose else logging.ERROR)


def one_line(message: BaseException | str) -> str:
    """Text of an exception or a warning without line breaks."""
    if isinstance(message, KeyError) and message.args:  # str() of a KeyError puts quotes around the message
        return " ".join(str(message.args[0]).split())
    return " ".join(str(message).split()) or type(message).__name__
