"""Parts of a profile add up, and are the parts of a training step."""

import re
import subprocess
import sys
import time

import pytest
from benchmarks.profiling import Stopwatch

from .conftest import ROOT


def test_time_of_an_inner_part_is_not_charged_to_the_outer_one():
    watch = Stopwatch()
    with watch.part("outer"):
        time.sleep(0.01)
        for _ in range(2):
            with watch.part("inner"):
                time.sleep(0.05)
    assert watch.calls == {"outer": 1, "inner": 2}
    assert watch.seconds["inner"] >= 0.1
    assert watch.seconds["outer"] < watch.seconds["inner"]


def test_failed_parts_are_timed_and_their_errors_passed_on():
    class Owner:
        def work(self):
            raise KeyError("gone")

    watch, owner = Stopwatch(), Owner()
    watch.wrap(owner, "work", "work")
    with pytest.raises(KeyError, match="gone"):
        owner.work()
    assert watch.calls["work"] == 1


@pytest.mark.slow
def test_profile_of_a_small_run():
    # The profile runs in a separate process, because it replaces methods of classes.
    command = [sys.executable, "-m", "benchmarks.profiling", "--cells", "300", "--genes", "60", "--epochs", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    parts = dict(re.findall(r"\| ([^|]+) \| ([\d.]+) \| [\d.]+% \|", printed))
    assert {"backward", "loader: rows", "expression encoder", "graph encoder", "cross-correlations"} <= set(parts)
    total = float(re.findall(r"\| all \| ([\d.]+) \|", printed)[0])
    assert sum(map(float, parts.values())) == pytest.approx(total, abs=0.2)
    assert float(re.search(r"Step: ([\d.]+) times", printed).group(1)) > 1.0


def test_launches_are_counted_in_both_phases():
    from benchmarks.launches import launches

    from scsiameseclu.datasets import synthetic

    found = launches(synthetic(n_obs=1300, n_vars=40, n_types=3, seed=0))
    before, after = found["before the first partition"], found["after it"]
    assert set(found) == {"before the first partition", "after it"}
    assert 100 < sum(before.values()) < sum(after.values()) < 700
    assert before["addmm"] >= 4 and before["_fused_adamw_"] == 1  # forward products; one optimiser step


def test_parts_for_a_gpu_are_left_out_where_there_is_none(tmp_path, monkeypatch, capsys):
    import torch
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.jsonl")]) == 0
    assert "nothing was run" in capsys.readouterr().err and not (tmp_path / "gpu.jsonl").exists()


def test_parts_for_a_gpu_are_kept_and_not_run_twice(tmp_path, monkeypatch):
    import json

    from benchmarks import gpu

    calls = []
    monkeypatch.setitem(gpu.PARTS, "step", lambda args: calls.append(args.device) or {"ms": 1.23456})
    for _ in range(2):
        assert gpu.main(["--out", str(tmp_path / "gpu.jsonl"), "--parts", "step", "--accelerator", "cpu"]) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert calls == ["cpu"] and record["part"] == "step" and record["ms"] == 1.235


@pytest.mark.slow
def test_parts_for_a_gpu_work_on_small_data(tmp_path):
    import json

    from benchmarks import gpu

    sizes = ["--cells", "600", "--training-cells", "600", "--step-cells", "600"]
    assert gpu.main(["--out", str(tmp_path / "gpu.jsonl"), "--accelerator", "cpu", *sizes]) == 0
    records = {part["part"]: part for part in map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())}
    assert list(records) == list(gpu.PARTS)
    assert records["correctness"]["neighbours, share that differ"] == 0
