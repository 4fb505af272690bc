"""The disk holds the whole old or the whole new result, whenever the writing process ends."""

import errno
import json
import random
import sys
import threading
import time
from functools import partial

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from killable import killed_after, killed_at_step
from matplotlib import pyplot as plt
from writers import (
    SIZES,
    checkpoints,
    fitted,
    made,
    mapped,
    overwritten,
    saved,
    train,
    write_and_remove,
    write_file,
    write_state,
)

from scsiameseclu import _atomic, cli
from scsiameseclu._atomic import content, finish, replaced_entries, replaced_file
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import read_mapped

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")

N_KILLS = 3
N_KILLS_SLOW = 200
MODEL_FILES = {"manifest.json", "model.json", "model.safetensors"}


# -- the rule, at every single step -----------------------------------------------------------------------------------


def read_state(folder):
    finish(folder)
    if not (folder / "a.txt").exists():
        assert not content(folder)
        return None
    (deep,) = (folder / "deep").iterdir()
    found = {(folder / "a.txt").read_text(), (folder / "b.txt").read_text(), deep.name, deep.read_text()}
    assert len(found) == 1, f"mixed: {found}"
    return found.pop()


@pytest.mark.parametrize("before", [None, "old"])
def test_killed_at_every_step_the_old_or_the_new_entries_are_whole(tmp_path, before):
    seen, step, killed = [], 0, True
    while killed:
        folder = tmp_path / f"{before}{step}"
        if before:
            write_state(folder, before)
            (folder / "foreign.txt").write_text("kept")
        killed = killed_at_step(step, partial, write_state, folder, "new")
        if folder.exists():
            seen.append(read_state(folder))
            assert not before or (folder / "foreign.txt").read_text() == "kept"
            write_state(folder, "next")  # no lock and no leftover prevents this
            assert read_state(folder) == "next"
            left = {path.name for path in folder.iterdir()}
            assert left == {"a.txt", "b.txt", "deep"} | ({"foreign.txt"} if before else set())
        step += 1
    assert step > 10
    assert set(seen) == {before, "new"}
    assert seen == sorted(seen, key=lambda state: state == "new")  # once new, never old again


def test_killed_at_every_step_removed_files_are_gone_with_the_new_entries(tmp_path):
    seen, step, killed = set(), 0, True
    while killed:
        folder = tmp_path / str(step)
        folder.mkdir()
        for name in ("a.txt", "only old.txt", "foreign.txt"):
            (folder / name).write_text("old")
        killed = killed_at_step(step, partial, write_and_remove, folder, "new")
        finish(folder)
        seen.add((frozenset(content(folder)), (folder / "a.txt").read_text()))
        step += 1
    old, new = {"a.txt", "only old.txt", "foreign.txt"}, {"a.txt", "foreign.txt"}
    assert seen == {(frozenset(old), "old"), (frozenset(new), "new")}


def test_a_second_kill_while_finishing_changes_nothing(tmp_path):
    first, n_second, killed = 0, 0, True
    while killed:
        folder = tmp_path / str(first)
        write_state(folder, "old")
        killed = killed_at_step(first, partial, write_state, folder, "new")
        second = 0
        while (folder / ".scsiameseclu.complete").exists():
            killed_at_step(second, partial, finish, folder)
            second += 1
        assert read_state(folder) in ("old", "new")
        assert not {path.name for path in folder.iterdir()} - {"a.txt", "b.txt", "deep"}
        first, n_second = first + 1, n_second + second
    assert n_second > 10


def test_killed_at_every_step_a_file_is_whole(tmp_path):
    path = tmp_path / "file.bin"
    path.write_text("old")
    seen, step = [], 0
    while killed_at_step(step, partial, write_file, path, "new" * 1000):
        seen.append(path.read_text())
        step += 1
    seen.append(path.read_text())
    assert set(seen) == {"old", "new" * 1000}
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_a_child_that_fails_is_told_from_one_that_was_killed(tmp_path):
    with pytest.raises(AssertionError, match="status 1. It wrote:\n(.*\n)*IsADirectoryError"):
        killed_at_step(100, partial, write_file, tmp_path, "new")
    with pytest.raises(AssertionError, match="status 1. It wrote:\n(.*\n)*IsADirectoryError"):
        killed_after(0.0, partial, write_file, tmp_path, "new")


def test_a_failing_write_leaves_the_old_and_no_traces(tmp_path):
    write_state(tmp_path / "out", "old")
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")):
        with pytest.raises(OSError, match="found the disk full. The earlier files are kept"):
            with replaced_entries(tmp_path / "out") as new:
                (new / "a.txt").write_text("new")
                raise error
        with pytest.raises(OSError, match="found the disk full"), replaced_file(tmp_path / "out" / "a.txt") as partial:
            partial.write_text("new")
            raise error
    with pytest.raises(ZeroDivisionError), replaced_entries(tmp_path / "fresh"):
        1 / 0  # noqa: B018
    assert read_state(tmp_path / "out") == "old"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt", "deep"}
    assert not (tmp_path / "fresh").exists()


def test_links_and_kinds_of_entries(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with replaced_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    (tmp_path / "out" / "thing").mkdir(parents=True)
    with replaced_entries(tmp_path / "out") as new:
        (new / "thing").write_text("a file now")
    assert (tmp_path / "out" / "thing").read_text() == "a file now"
    with replaced_entries(tmp_path / "out") as new:
        (new / "thing").mkdir()
    assert (tmp_path / "out" / "thing").is_dir() and content(tmp_path / "out") == {"thing"}


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with replaced_entries(folder) as new:
        with pytest.raises(RuntimeError, match="no other process writes to"), replaced_entries(folder, wait=0.0):
            pass
        finish(folder)  # a reader neither waits nor removes what is being written
        assert new.is_dir()
    monkeypatch.setattr(_atomic, "WAIT", 0.0)
    done = []

    def write(name):
        with replaced_entries(folder, wait=20.0) as new:
            (new / "a.txt").write_text(name)
            time.sleep(0.02)
            (new / "b.txt").write_text(name)
        done.append(name)

    threads = [threading.Thread(target=write, args=(str(k),)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / "a.txt").read_text() == (folder / "b.txt").read_text() == done[-1]
    assert {path.name for path in folder.iterdir()} == {"a.txt", "b.txt"}


# -- what the package writes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    """Two trained models, by their numbers of cells."""
    models = {n_obs: made(n_obs) for n_obs in SIZES}
    for model in models.values():
        train(model, max_epochs=2)
    return models


@pytest.fixture(scope="module")
def stored(two, tmp_path_factory):
    """Folders of the two models, with their data."""
    folders = {n_obs: tmp_path_factory.mktemp("stored") / str(n_obs) for n_obs in two}
    for n_obs, model in two.items():
        model.save(folders[n_obs], save_anndata=True)
    return folders


@pytest.fixture(scope="module")
def files(stored):
    """Data files of the two models."""
    return {n_obs: folder / "adata.h5ad" for n_obs, folder in stored.items()}


def check_model(folder, two, with_data):
    """The loaded model is one of the two, and so are its data."""
    loaded = SCSiameseClu.load(folder, adata=None if with_data else False, accelerator="cpu")
    n_cells = loaded.summary_stats["n_cells"]
    weights = two[n_cells].module.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.module.state_dict().items())
    if with_data:
        assert loaded.adata.n_obs == n_cells
        assert (loaded.predict().to_numpy() == two[n_cells].predict().to_numpy()).all()
    return n_cells


def kill_repeatedly(check, n_kills, longest, prepare, *args):
    """Kill writing processes at random moments; return the checks that failed afterwards."""
    moments, lost = random.Random(0), []
    for _ in range(n_kills):
        killed_after(moments.uniform(0.0, longest), prepare, *args)
        try:
            check()
        except Exception as error:  # noqa: BLE001
            lost.append(repr(error))
    return lost


often = pytest.mark.parametrize("n_kills", [N_KILLS, pytest.param(N_KILLS_SLOW, marks=pytest.mark.slow)])


@pytest.mark.parametrize("with_data", [False, True])
@often
def test_killed_while_overwriting_a_model(two, stored, tmp_path, n_kills, with_data):
    folder = tmp_path / "model"

    def check():
        check_model(folder, two, with_data)

    assert kill_repeatedly(check, n_kills, 0.4, overwritten, stored, folder, with_data) == []
    two[50].save(folder, overwrite=True, save_anndata=with_data)
    assert {path.name for path in folder.iterdir()} == MODEL_FILES | ({"adata.h5ad"} if with_data else set())


@often
def test_killed_while_mapping(two, files, tmp_path, n_kills):
    def check():
        adata = read_mapped(tmp_path / "mapped")
        assert np.array_equal(adata.X.toarray(), two[adata.n_obs].adata.X.toarray())

    assert kill_repeatedly(check, n_kills, 0.3, mapped, files, tmp_path / "mapped") == []


@often
def test_killed_while_writing_checkpoints(tmp_path, n_kills):
    """The file holds the weights of an epoch of a training that was not killed."""
    path, max_epochs, weights = tmp_path / "run.ckpt", 2, {}

    class Note(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            state = pl_module.state_dict()
            weights[trainer.current_epoch] = {name: value.clone() for name, value in state.items()}

    train(made(50), max_epochs=max_epochs, callbacks=[Note()])

    def check():
        state = torch.load(path, weights_only=True)
        found, expected = state["state_dict"], weights[state["epoch"]]
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert kill_repeatedly(check, n_kills, 2.0, checkpoints, path, max_epochs) == []
    checkpoints(path, max_epochs)()
    assert [each.name for each in tmp_path.iterdir()] == ["run.ckpt"]


@often
def test_killed_while_writing_the_results_of_a_fit(two, stored, files, tmp_path, n_kills):
    out = tmp_path / "out"

    def check():
        finish(out)
        sizes = {
            ad.read_h5ad(out / "clustered.h5ad").n_obs,
            len(np.load(out / "embedding.npy")),
            len(np.load(out / "pred.npy")),
            len((out / "pred.csv").read_text().splitlines()) - 1,
            json.loads((out / "metrics.json").read_text())["n_cells"],
            check_model(out / "model", two, False),
        }
        assert len(sizes) == 1, sizes

    assert kill_repeatedly(check, n_kills, 0.8, fitted, stored, files, out) == []
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_folder_that_a_killed_save_left_can_be_saved_to(two, stored, tmp_path):
    step, saved_again = 0, 0
    while killed_at_step(step, saved, stored[50], tmp_path / str(step)):
        finish(tmp_path / str(step))  # complete files are moved to their places
        if not content(tmp_path / str(step)):
            two[50].save(tmp_path / str(step))
            saved_again += 1
        check_model(tmp_path / str(step), two, False)
        with pytest.raises(ValueError, match="already exists"):
            two[50].save(tmp_path / str(step))
        step += 1
    assert saved_again > 5


def test_other_files_of_a_model_folder_stay(two, tmp_path):
    folder = tmp_path / "model"
    two[50].save(folder, prefix="first_")
    (folder / "notes.txt").write_text("mine")
    two[60].save(folder, prefix="second_", overwrite=True)
    models = {f"{prefix}_{name}" for prefix in ("first", "second") for name in MODEL_FILES}
    assert {path.name for path in folder.iterdir()} == models | {"notes.txt"}


@pytest.mark.parametrize("failing", ["pathlib.Path.write_bytes", "anndata.AnnData.write"])
def test_a_disk_that_is_full_keeps_the_model(two, tmp_path, monkeypatch, failing):
    folder = tmp_path / "model"
    two[50].save(folder, save_anndata=True)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failing, full)
        with pytest.raises(OSError, match="found the disk full"):
            two[60].save(folder, overwrite=True, save_anndata=True)
    assert check_model(folder, two, True) == 50
    assert {path.name for path in folder.iterdir()} == MODEL_FILES | {"adata.h5ad"}


@pytest.fixture
def no_umap(monkeypatch):
    """Draw an empty picture, which takes no time."""
    monkeypatch.setattr("scsiameseclu.pl.embedding", lambda *args, **kwargs: plt.figure())


def test_a_disk_that_is_full_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys, no_umap):
    synthetic(n_obs=60, n_vars=30, n_types=2).write_h5ad(tmp_path / "cells.h5ad")
    argv = ["fit", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), "--n-clusters", "2"]
    argv += ["--max-epochs", "2", "--accelerator", "cpu", "--n-neighbors", "5"]
    assert cli.main(argv) == 0
    before = (tmp_path / "out" / "metrics.json").read_text()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anndata.AnnData.write_h5ad", full)
    capsys.readouterr()
    assert cli.main([*argv, "--overwrite", "--seed", "1"]) == 1
    assert "Free some space and write again" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").read_text() == before
    with replaced_entries(tmp_path / "out"):  # as another call of fit does
        assert cli.main([*argv, "--overwrite"]) == 1
    assert "no other process writes to" in capsys.readouterr().err
