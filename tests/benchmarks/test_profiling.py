"""Parts of a profile add up, and are those of a training step."""

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
    # In a process of its own: it replaces methods of classes.
    command = [sys.executable, "-m", "benchmarks.profiling", "--cells", "300", "--genes", "60", "--epochs", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    parts = dict(re.findall(r"\| ([^|]+) \| ([\d.]+) \| [\d.]+% \|", printed))
    assert {"backward", "loader: rows", "expression encoder", "graph encoder", "cross-correlations"} <= set(parts)
    total = float(re.findall(r"\| all \| ([\d.]+) \|", printed)[0])
    assert sum(map(float, parts.values())) == pytest.approx(total, abs=0.2)
    assert float(re.search(r"Step: ([\d.]+) times", printed).group(1)) > 1.0
