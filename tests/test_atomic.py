"""What is on disk is the whole old or the whole new result, whenever the process that writes ends."""

import errno
import json
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
from matplotlib import pyplot as plt

from scsiameseclu import _atomic, cli, tl
from scsiameseclu._atomic import content, finish, replaced_entries, replaced_file
from scsiameseclu.data.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import read_mapped, write_mapped

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
MODEL_FILES = {"manifest.json", "model.json", "model.safetensors"}
N_KILLS = 6
N_KILLS_SLOW = 250


def in_child(act, at_step=None, after=None):
    """Run ``act`` in a forked process that is killed at a step on the file system, or after some seconds; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
        child = os.fork()
    if child == 0:
        if at_step is not None:
            left = [at_step]

            def hook(event, args):
                if event in STEPS:
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- the rule, at every single step -----------------------------------------------------------------------------------


def write_state(folder, name, also_folder=True):
    with replaced_entries(folder) as new:
        (new / "a.txt").write_text(name)
        (new / "b.txt").write_text(name)
        if also_folder:
            (new / "deep").mkdir()
            (new / "deep" / name).write_text(name)


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
    seen, step, status = [], 0, None
    while status != 0:
        folder = tmp_path / f"{before}{step}"
        if before:
            write_state(folder, before)
            (folder / "foreign.txt").write_text("kept")
        status = in_child(lambda folder=folder: write_state(folder, "new"), at_step=step)
        assert status in (0, -signal.SIGKILL)
        if folder.exists():
            seen.append(read_state(folder))
            assert not before or (folder / "foreign.txt").read_text() == "kept"
            write_state(folder, "next")  # nobody holds a lock, nothing is in the way
            assert read_state(folder) == "next"
            left = {path.name for path in folder.iterdir()}
            assert left == {"a.txt", "b.txt", "deep"} | ({"foreign.txt"} if before else set())
        step += 1
    assert step > 10
    assert set(seen) == {before, "new"}
    assert seen == sorted(seen, key=lambda state: state == "new")  # decided once


def test_killed_at_every_step_removed_files_are_gone_with_the_new_entries(tmp_path):
    seen, step, status = set(), 0, None

    def write(folder):
        with replaced_entries(folder, gone=["only old.txt", "a.txt", "absent"]) as new:
            (new / "a.txt").write_text("new")

    while status != 0:
        folder = tmp_path / str(step)
        folder.mkdir()
        for name in ("a.txt", "only old.txt", "foreign.txt"):
            (folder / name).write_text("old")
        status = in_child(lambda folder=folder: write(folder), at_step=step)
        finish(folder)
        seen.add((frozenset(content(folder)), (folder / "a.txt").read_text()))
        step += 1
    old, new = {"a.txt", "only old.txt", "foreign.txt"}, {"a.txt", "foreign.txt"}
    assert seen == {(frozenset(old), "old"), (frozenset(new), "new")}


def test_a_second_kill_while_finishing_changes_nothing(tmp_path):
    for first in range(40):
        folder = tmp_path / str(first)
        write_state(folder, "old")
        if in_child(lambda folder=folder: write_state(folder, "new"), at_step=first) == 0:
            break
        second = 0
        while (folder / ".scsiameseclu.complete").exists():
            in_child(lambda folder=folder: finish(folder), at_step=second)
            second += 1
        assert read_state(folder) in ("old", "new")
        assert not {path.name for path in folder.iterdir()} - {"a.txt", "b.txt", "deep"}


def test_killed_at_every_step_a_file_is_whole(tmp_path):
    path = tmp_path / "file.bin"
    path.write_text("old")

    def write():
        with replaced_file(path) as partial:
            partial.write_text("new" * 1000)

    seen, step, status = [], 0, None
    while status != 0:
        status = in_child(write, at_step=step)
        seen.append(path.read_text())
        step += 1
    assert set(seen) == {"old", "new" * 1000}
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_a_failing_write_leaves_the_old_and_no_traces(tmp_path):
    write_state(tmp_path / "out", "old")
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")):
        with pytest.raises(OSError, match="found it full. What was there before is kept"):
            with replaced_entries(tmp_path / "out") as new:
                (new / "a.txt").write_text("new")
                raise error
        with pytest.raises(OSError, match="found it full"), replaced_file(tmp_path / "out" / "a.txt") as partial:
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
        with pytest.raises(RuntimeError, match="nobody else writes to"), replaced_entries(folder, wait=0.0):
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


def made(n_obs):
    scvi.settings.seed = n_obs
    adata = synthetic(n_obs=n_obs, n_vars=30, n_types=2, seed=n_obs)
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def two():
    return {n_obs: made(n_obs) for n_obs in (50, 60)}


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


def kill_repeatedly(act, check, n_kills, longest):
    """Kill a process that repeats ``act`` at random moments; how many of the checks did not hold."""
    moments, lost = random.Random(0), []
    for _ in range(n_kills):

        def forever():
            while True:
                act()

        assert in_child(forever, after=moments.uniform(0.0, longest)) == -signal.SIGKILL
        try:
            check()
        except Exception as error:  # noqa: BLE001
            lost.append(repr(error))
    return lost


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("n_kills", [N_KILLS, pytest.param(N_KILLS_SLOW, marks=pytest.mark.slow)])
def test_killed_while_overwriting_a_model(two, tmp_path, n_kills, with_data):
    folder = tmp_path / "model"

    def act():
        for model in two.values():
            model.save(folder, overwrite=True, save_anndata=with_data)

    two[50].save(folder, save_anndata=with_data)
    assert kill_repeatedly(act, lambda: check_model(folder, two, with_data), n_kills, 0.4) == []
    act()
    assert {path.name for path in folder.iterdir()} == MODEL_FILES | ({"adata.h5ad"} if with_data else set())


@pytest.mark.parametrize("n_kills", [N_KILLS, pytest.param(N_KILLS_SLOW, marks=pytest.mark.slow)])
def test_killed_while_mapping(two, tmp_path, n_kills):
    for n_obs, model in two.items():
        model.adata.write_h5ad(tmp_path / f"{n_obs}.h5ad")

    def act():
        for n_obs in two:
            write_mapped(tmp_path / f"{n_obs}.h5ad", tmp_path / "mapped", overwrite=True)

    def check():
        adata = read_mapped(tmp_path / "mapped")
        assert np.array_equal(adata.X.toarray(), two[adata.n_obs].adata.X.toarray())

    write_mapped(tmp_path / "50.h5ad", tmp_path / "mapped")
    assert kill_repeatedly(act, check, n_kills, 0.3) == []


@pytest.fixture
def no_umap(monkeypatch):
    """An empty picture, which takes no time."""
    monkeypatch.setattr("scsiameseclu.pl.embedding", lambda *args, **kwargs: plt.figure())


@pytest.mark.parametrize("n_kills", [N_KILLS, pytest.param(N_KILLS_SLOW, marks=pytest.mark.slow)])
def test_killed_while_writing_the_results_of_a_fit(two, tmp_path, n_kills, monkeypatch, no_umap):
    """Training is left out, so that the kills meet the writing."""
    turn = [50]

    def cluster(adata, *, key_added, **kwargs):
        model = two[adata.n_obs]
        model.write_to_adata(key_added=key_added)
        tl._cluster.copy_results(model.adata, adata, key_added)
        return model

    monkeypatch.setattr(tl, "cluster", cluster)
    out = tmp_path / "out"
    for n_obs in two:
        two[n_obs].adata.write_h5ad(tmp_path / f"{n_obs}.h5ad")

    def fit(n_obs):
        argv = ["fit", str(tmp_path / f"{n_obs}.h5ad"), "--out", str(out), "--overwrite", "--accelerator", "cpu"]
        assert cli.main(argv) == 0

    def act():
        turn[0] = 110 - turn[0]
        fit(turn[0])

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

    fit(50)
    assert kill_repeatedly(act, check, n_kills, 0.8) == []
    fit(60)
    assert not [path for path in Path(out).iterdir() if path.name.startswith(".")]


def test_a_folder_that_a_killed_save_left_can_be_saved_to(two, tmp_path):
    step, saved_again = 0, 0
    while in_child(lambda step=step: two[50].save(tmp_path / str(step)), at_step=step) != 0:
        finish(tmp_path / str(step))
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
        with pytest.raises(OSError, match="found it full"):
            two[60].save(folder, overwrite=True, save_anndata=True)
    assert check_model(folder, two, True) == 50
    assert {path.name for path in folder.iterdir()} == MODEL_FILES | {"adata.h5ad"}


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
    assert "make room and write again" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").read_text() == before
    with replaced_entries(tmp_path / "out"):  # as another fit would
        assert cli.main([*argv, "--overwrite"]) == 1
    assert "nobody else writes to" in capsys.readouterr().err
