import json
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scsiameseclu import _command_results, _file_format, cli, datasets, pl
from scsiameseclu.cli import main
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

FAST = ["--max-epochs", "4", "--accelerator", "cpu", "--n-neighbors", "8"]
RESULTS = {"clustered.h5ad", "pred.csv", "pred.npy", "embedding.npy", "embedding.csv", "metrics.json", "umap.png"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    synthetic(n_obs=150, n_vars=80, n_types=3).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def fitted(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    command = ["fit", str(cells), "--out", str(out), "--n-clusters", "3", "--n-top-genes", "50"]
    assert main([*command, "--labels-key", "cell_type", *FAST]) == 0
    return out


def _error_line(capsys: pytest.CaptureFixture[str], argv: list[object]) -> str:
    """Run a command that must fail with exit code 1 and a single line."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and not captured.out
    assert lines[0].startswith("scsiameseclu: error: ")
    return lines[0]


def test_fit_writes_files_that_agree(fitted: Path, cells: Path) -> None:
    assert {path.name for path in fitted.iterdir()} == RESULTS | {"model", "training.png"}
    adata = ad.read_h5ad(fitted / "clustered.h5ad")
    assert adata.n_vars == 80
    table = pd.read_csv(fitted / "pred.csv", index_col=0, dtype={"cluster": str})
    assert list(table.index) == list(adata.obs_names) == list(ad.read_h5ad(cells).obs_names)
    assert list(table["cluster"]) == list(adata.obs["siamese_clu"])
    np.testing.assert_array_equal(np.load(fitted / "pred.npy"), adata.obs["siamese_clu"].astype(int))
    np.testing.assert_array_equal(np.load(fitted / "embedding.npy"), adata.obsm["X_siamese_clu"])
    cells_as_text = pd.read_csv(fitted / "embedding.csv", index_col=0)
    np.testing.assert_allclose(
        cells_as_text.filter(regex=r"^siamese_clu_\d+$"), adata.obsm["X_siamese_clu"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(cells_as_text.filter(like="umap"), adata.obsm["X_siamese_clu_umap"], rtol=1e-4)
    metrics = json.loads((fitted / "metrics.json").read_text())
    assert set(metrics["scores"]) == {"acc", "nmi", "ari", "f1_macro", "n_clusters"}
    assert (metrics["n_clusters"], metrics["n_genes"], metrics["n_genes_used"], metrics["seed"]) == (3, 80, 50, 0)


def test_report_shows_clusters_scores_and_paths(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", str(cells), "--out", str(tmp_path / "out"), "--n-clusters", "2", *FAST]
    assert main([*argv, "--labels-key", "cell_type"]) == 0
    report = capsys.readouterr().out
    assert "150 cells, 2 clusters" in report and "ARI" in report
    for name in RESULTS:
        assert str(tmp_path / "out" / name) in report


def test_missing_labels_are_no_type(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing labels are no type in the report either. Without any known type there is nothing to score."""
    obs = pd.DataFrame({"mine": pd.Categorical(["0"] * 4 + ["1"] * 2), "mine_confidence": 0.9})
    obs["type"] = pd.Categorical([None, None, None, "T", None, None])
    rows = _command_results._cluster_table(ad.AnnData(np.ones((6, 2)), obs=obs), "mine", "type").splitlines()
    assert rows[1].endswith("T (100%)") and rows[2].endswith("none known")

    adata = ad.read_h5ad(cells)
    adata.obs["type"] = pd.Categorical([None] * adata.n_obs)
    adata.write_h5ad(tmp_path / "unknown.h5ad")
    argv = ["fit", tmp_path / "unknown.h5ad", "--out", tmp_path / "out", "--labels-key", "type"]
    assert "Expected known types in obs['type'], found none" in _error_line(capsys, argv)


def test_labels_are_only_for_scoring(cells: Path, tmp_path: Path, fitted: Path) -> None:
    command = ["fit", str(cells), "--out", str(tmp_path), "--n-clusters", "3", "--n-top-genes", "50"]
    assert main([*command, *FAST]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "embedding.npy"), np.load(fitted / "embedding.npy"))
    assert "scores" not in json.loads((tmp_path / "metrics.json").read_text())


def test_predict_on_the_training_cells_repeats_fit(fitted: Path, cells: Path, tmp_path: Path) -> None:
    shuffled = ad.read_h5ad(cells)
    shuffled = shuffled[:, np.random.default_rng(0).permutation(shuffled.n_vars)].copy()
    shuffled.write_h5ad(tmp_path / "query.h5ad")
    out = tmp_path / "mapped"
    argv = ["predict", str(tmp_path / "query.h5ad"), "--model", str(fitted), "--out", str(out)]
    assert main([*argv, "--max-out-of-reference", "1"]) == 0
    assert {path.name for path in out.iterdir()} == RESULTS
    np.testing.assert_array_equal(np.load(out / "pred.npy"), np.load(fitted / "pred.npy"))
    np.testing.assert_allclose(np.load(out / "embedding.npy"), np.load(fitted / "embedding.npy"), atol=1e-4)


def test_predict_maps_a_zarr_store_to_a_zarr_store(
    fitted: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ad.read_h5ad(cells)
    query.write_zarr(tmp_path / "query.zarr")
    argv = ["predict", str(tmp_path / "query.zarr"), "--model", str(fitted), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert "mapped.zarr" in capsys.readouterr().out
    found = ad.read_zarr(tmp_path / "out" / "mapped.zarr").obs
    assert main(["predict", str(cells), "--model", str(fitted), "--out", str(tmp_path / "file")]) == 0
    expected = pd.read_csv(tmp_path / "file" / "pred.csv", index_col="cell", dtype={"cluster": str})
    assert list(found["siamese_clu"].astype(str)) == list(expected["cluster"])
    assert "overwrite" in _error_line(capsys, argv)
    assert "labels-key" in _error_line(capsys, [*argv, "--labels-key", "x"])
    assert "report" in _error_line(capsys, [*argv, "--report"])


def test_predict_takes_other_cells_with_missing_genes(fitted: Path, tmp_path: Path) -> None:
    query = synthetic(n_obs=60, n_vars=80, n_types=3, seed=1)[:, :75].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    out = tmp_path / "mapped"
    assert main(["predict", str(tmp_path / "query.h5ad"), "--model", str(fitted / "model"), "--out", str(out)]) == 0
    mapped = ad.read_h5ad(out / "clustered.h5ad")
    assert mapped.shape == query.shape
    assert set(mapped.obs["siamese_clu"]) <= {"0", "1", "2", "unassigned"}
    table = pd.read_csv(out / "pred.csv")
    assert list(table.columns) == ["cell", "cluster", "confidence", "out_of_reference"]
    assert table["out_of_reference"].between(0, 1).all()


def test_predict_refuses_cells_without_a_common_gene(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = synthetic(n_obs=60, n_vars=80, n_types=3)
    query.var_names = [f"other{i}" for i in range(80)]
    query.write_h5ad(tmp_path / "query.h5ad")
    argv = ["predict", tmp_path / "query.h5ad", "--model", fitted / "model", "--out", tmp_path / "out"]
    assert "found none of them" in _error_line(capsys, argv)


def test_predict_leaves_cells_unlike_the_reference_unassigned(
    fitted: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ad.read_h5ad(cells)[:60, :75].copy()
    query.X[30:] = query.X[30:][:, np.random.default_rng(0).permutation(75)]  # other genes high in every cell
    query.write_h5ad(tmp_path / "query.h5ad")
    argv = ["predict", str(tmp_path / "query.h5ad"), "--model", str(fitted), "--out", str(tmp_path / "mapped")]
    capsys.readouterr()
    assert main([*argv, "--max-out-of-reference", "0.9"]) == 0
    report = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "mapped" / "pred.csv")
    beyond = (table["out_of_reference"] > 0.9).to_numpy()
    assert beyond[30:].all() and beyond[:30].mean() < 0.5
    assert ((table["cluster"] == "unassigned") == beyond).all()
    numbers = np.load(tmp_path / "mapped" / "pred.npy")
    assert ((numbers == -1) == beyond).all()
    assert (numbers[~beyond].astype(str) == table["cluster"][~beyond]).all()
    assert f"{beyond.sum()} cells ({beyond.mean():.1%}) unassigned: out-of-reference score above 0.9" in report
    found = ad.read_h5ad(fitted / "clustered.h5ad").var_names[:75]
    metrics = json.loads((tmp_path / "mapped" / "metrics.json").read_text())
    assert metrics["n_unassigned"] == beyond.sum() and metrics["n_genes_found"] <= len(found)
    assert f"{metrics['n_genes_found']} of the model's 50 genes found" in report


def test_predict_of_cells_with_hardly_a_common_gene_needs_force(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = synthetic(n_obs=60, n_vars=80, n_types=3)
    query.var_names = [name if i < 8 else f"other{i}" for i, name in enumerate(query.var_names)]
    query.write_h5ad(tmp_path / "query.h5ad")
    argv = ["predict", tmp_path / "query.h5ad", "--model", fitted, "--out", tmp_path / "out"]
    assert "at least 50% of the model's 50 genes" in _error_line(capsys, argv)
    assert not (tmp_path / "out").exists()
    assert main([str(part) for part in [*argv, "--force"]]) == 0


def test_predict_with_named_clusters(fitted: Path, cells: Path, tmp_path: Path) -> None:
    model = SCSiameseClu.load(str(fitted / "model"), adata=False)
    model.rename({"0": "first"})
    model.save(str(tmp_path / "named"))
    assert main(["predict", str(cells), "--model", str(tmp_path / "named"), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "pred.csv")
    numbers = np.load(tmp_path / "out" / "pred.npy")
    assert ((numbers == 0) == (table["cluster"] == "first")).all() and (numbers == 0).any()


@pytest.mark.parametrize("command", ["fit", "predict"])
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_that_share_a_name_are_spoken_of_and_stay_in_order(
    fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    adata = synthetic(n_obs=60, n_vars=80, n_types=2)[:, :75].copy()
    adata.write_h5ad(tmp_path / "named.h5ad")
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]
    adata.write_h5ad(tmp_path / "query.h5ad")
    options = ["--n-clusters", "2", *FAST] if command == "fit" else ["--model", str(fitted)]
    for name in ("named", "query"):
        assert main([command, str(tmp_path / f"{name}.h5ad"), "--out", str(tmp_path / name), *options]) == 0
        assert caplog.text.count("1 names of cells occur more than once, such as 'same'") == (name == "query")
    tables = [pd.read_csv(tmp_path / name / "pred.csv") for name in ("named", "query")]
    assert list(tables[1]["cell"]) == list(adata.obs_names)
    pd.testing.assert_frame_equal(tables[0].drop(columns="cell"), tables[1].drop(columns="cell"))


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_values_that_are_no_counts_and_repeated_genes_need_force(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    adata = synthetic(n_obs=60, n_vars=80, n_types=2)
    adata.layers["raw_counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "logarithms.h5ad")
    adata.X = adata.layers["raw_counts"]
    adata.var_names = ["twice", "twice", *adata.var_names[2:]]
    adata.write_h5ad(tmp_path / "twice.h5ad")
    out = ["--out", tmp_path / "out"]
    options = ["--n-clusters", "2", *FAST] if command == "fit" else ["--model", fitted]
    advice = "Whole numbers are in layers['raw_counts'] (" + (
        "--layer raw_counts)" if command == "fit" else "the model reads X)"
    )
    assert advice in _error_line(capsys, [command, tmp_path / "logarithms.h5ad", *out, *options])
    assert "1 more than once (twice)" in _error_line(capsys, [command, tmp_path / "twice.h5ad", *out, *options])
    assert not (tmp_path / "out").exists()
    for name in ("logarithms", "twice"):
        argv = [command, tmp_path / f"{name}.h5ad", *out, *options, "--force", "--overwrite"]
        assert main([str(part) for part in argv]) == 0
    assert "twice-1" in ad.read_h5ad(tmp_path / "out" / "clustered.h5ad").var_names


def test_predict_names_what_the_model_was_set_up_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, n_batches=2)
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    setup = ["--batch-key", "batch", "--layer", "counts", "--n-clusters", "2"]
    assert main(["fit", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "fitted"), *setup, *FAST]) == 0
    argv = ["predict", tmp_path / "query.h5ad", "--model", tmp_path / "fitted" / "model", "--out", tmp_path / "out"]
    adata.obs["batch"] = "unseen"
    adata.write_h5ad(tmp_path / "query.h5ad")
    assert main([str(part) for part in argv]) == 0
    argv += ["--overwrite"]
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "query.h5ad")
    assert "found 'counts'" in _error_line(capsys, argv)
    del adata.obs["batch"]
    adata.layers["counts"] = adata.X
    adata.write_h5ad(tmp_path / "query.h5ad")
    assert "found 'batch'" in _error_line(capsys, argv)


def test_info_describes_the_model(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(fitted / "model"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["n_cells"], facts["n_genes"], facts["n_clusters"], facts["epochs"]) == (150, 50, 3, 4)
    assert facts["trained"] is True and facts["setup"]["n_neighbors"] == 8
    assert (facts["n_landmarks"], facts["written_by"]) == (150, f"scsiameseclu {_file_format.package_version()}")
    assert main(["info", str(fitted)]) == 0
    assert "n_neighbors=8" in capsys.readouterr().out


def test_info_says_which_version_wrote_a_model_and_how_many_cells_describe_it(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SCSiameseClu.load(str(fitted / "model"), adata=False)
    with monkeypatch.context() as earlier:
        earlier.setattr(_file_format, "package_version", lambda *_: "0.0.7")
        for landmarks in (0, 20):
            model.save(str(tmp_path / str(landmarks)), landmarks=landmarks)
    for landmarks in (0, 20):
        capsys.readouterr()
        assert main(["info", str(tmp_path / str(landmarks)), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["n_landmarks"], facts["written_by"]) == (landmarks, "scsiameseclu 0.0.7")


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_the_time_is_that_of_the_whole_command(
    fitted: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    clock = {"late": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda ticks=time.perf_counter: ticks() + clock["late"])

    def slow(*_: object, **__: object) -> None:
        clock["late"] += 1000.0

    monkeypatch.setattr(pl, "embedding", slow)
    monkeypatch.setattr(SCSiameseClu, "report", slow)
    options = ["--n-clusters", "2", *FAST] if command == "fit" else ["--model", str(fitted)]
    assert main([command, str(cells), "--out", str(tmp_path / "out"), "--report", *options]) == 0
    seconds = json.loads((tmp_path / "out" / "metrics.json").read_text())["seconds"]
    assert 2000 <= seconds < 2900
    assert f"{seconds:.1f} s in all" in capsys.readouterr().out


def test_demo_runs_and_may_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = datasets.pbmc3k()[::10].copy()
    monkeypatch.setattr(datasets, "pbmc3k", some.copy)
    argv = ["demo", "--out", str(tmp_path / "demo"), "--n-clusters", "8", *FAST]
    assert main(argv) == 0
    first = np.load(tmp_path / "demo" / "embedding.npy")
    assert "264 cells" in capsys.readouterr().out
    assert main(argv) == 0
    np.testing.assert_array_equal(first, np.load(tmp_path / "demo" / "embedding.npy"))


def test_demo_does_not_replace_other_results(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --overwrite" in _error_line(capsys, ["demo", "--out", fitted])


def test_bad_input_ends_with_one_line(
    cells: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "Expected a file at" in _error_line(capsys, ["fit", tmp_path / "absent.h5ad", *out])
    (tmp_path / "text.h5ad").write_text("no h5ad")
    assert "could not read" in _error_line(capsys, ["fit", tmp_path / "text.h5ad", *out])
    assert "Expected --labels-key among" in _error_line(capsys, ["fit", cells, *out, "--labels-key", "nothing"])
    assert "`batch_key`: expected one of" in _error_line(capsys, ["fit", cells, *out, "--batch-key", "nothing"])
    assert "`layer`: expected a key" in _error_line(capsys, ["fit", cells, *out, "--layer", "nothing"])
    same = ["--labels-key", "cell_type", "--key-added", "cell_type"]
    assert "Expected different" in _error_line(capsys, ["fit", cells, *out, *same])
    assert "add --overwrite" in _error_line(capsys, ["fit", cells, "--out", fitted])
    assert "found the file" in _error_line(capsys, ["fit", cells, "--out", cells])
    assert "manifest.json" in _error_line(capsys, ["info", tmp_path])
    assert "found no folder" in _error_line(capsys, ["info", tmp_path / "nowhere"])
    assert "manifest.json" in _error_line(capsys, ["predict", cells, "--model", tmp_path, *out])
    (tmp_path / "model.pt").write_text("no model")
    assert "is a pickle" in _error_line(capsys, ["info", tmp_path])
    assert "is a pickle" in _error_line(capsys, ["predict", cells, "--model", tmp_path, *out])
    negative = synthetic(n_obs=30, n_vars=20, n_types=2)
    negative.X.data[0] = -2
    negative.write_h5ad(tmp_path / "negative.h5ad")
    assert "found -2.0 in cell" in _error_line(capsys, ["fit", tmp_path / "negative.h5ad", *out])


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fit"],
        ["fit", "cells.h5ad", "--out", "x", "--n-clusters", "0"],
        ["fit", "cells.h5ad", "--out", "x", "--n-clusters", "many"],
        ["fit", "cells.h5ad", "--out", "x", "--max-epochs", "0"],
        ["fit", "cells.h5ad", "--out", "x", "--accelerator", "abacus"],
        ["predict", "cells.h5ad", "--out", "x", "--model", "y", "--min-confidence", "2"],
    ],
    ids=["no command", "no input", "no cluster", "not a number", "no epoch", "no such accelerator", "no share"],
)
def test_bad_command_line_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["fit"], ["predict"], ["info"]], ids=lambda c: c[0] if c else "top")
def test_help_everywhere(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: scsiameseclu" in capsys.readouterr().out


def test_command_line_itself_loads_nothing_heavy() -> None:
    """The command line loads few modules, so that help and wrong command lines answer at once."""
    code = """
import sys, types
package = types.ModuleType("scsiameseclu")
package.__path__ = [sys.argv[1]]
sys.modules["scsiameseclu"] = package
from scsiameseclu import _commands, cli
try:
    cli.main(["--help"])
finally:
    sys.exit(bool({"torch", "scanpy", "scvi", "pandas"} & set(sys.modules)))
"""
    folder = str(Path(cli.__file__).parent)
    assert subprocess.run([sys.executable, "-c", code, folder], capture_output=True, check=False).returncode == 0


def test_a_report_is_written_on_request_and_never_stale(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", str(cells), "--out", str(tmp_path / "my out"), "--n-clusters", "2", *FAST]
    assert main([*argv, "--labels-key", "cell_type", "--report"]) == 0
    assert str(tmp_path / "my out" / "report.html") in capsys.readouterr().out
    page = (tmp_path / "my out" / "report.html").read_text(encoding="utf-8")
    assert "150 cells in 2 clusters" in page and "runner-up by labels" in page
    assert f"--out &#39;{tmp_path / 'my out'}&#39; --n-clusters 2" in page  # the command, as it was given
    assert main([*argv, "--overwrite"]) == 0
    assert "report.html" not in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "my out").iterdir()} == RESULTS | {"model", "training.png"}


def test_a_report_on_mapped_cells(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic(n_obs=60, n_vars=80, n_types=3, seed=1)[:, :75].write_h5ad(tmp_path / "query.h5ad")
    argv = ["predict", str(tmp_path / "query.h5ad"), "--model", str(fitted), "--out", str(tmp_path / "out")]
    assert main([*argv, "--report", "--labels-key", "cell_type"]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "out" / "pred.csv")
    share = (table["out_of_reference"] > 0.95).mean()
    assert "60 cells in 3 clusters" in page and "runner-up by labels" in page
    assert "cells out of reference" in page and f"{share:.1%} (score above 0.95)" in page
    for picture in ("among cells of the reference", "Out-of-reference scores", "Confidence of the cells"):
        assert picture in page
    assert "scsiameseclu predict" in page
    assert main([*argv, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "report.html").exists()
