"""The README of the benchmarks describes every script."""

import re
from pathlib import Path

import pytest

ROOM = Path(__file__).resolve().parents[2] / "benchmarks"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in ROOM.glob("*.py") if path.stem != "__init__"}
PAGE = (ROOM / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_script_has_its_question_on_the_page_or_serves_one_that_has(name: str) -> None:
    asked = re.search(rf"^\| `python -m benchmarks\.{name}\b[^|]*\| \w", PAGE, flags=re.MULTILINE)
    uses = rf"^\s*(from|import) benchmarks\.{name}\b|^\s*from benchmarks import .*\b{name}\b|\"benchmarks\.{name}\""
    users = [other for other, source in SOURCES.items() if other != name and re.search(uses, source, re.MULTILINE)]
    assert asked or users


def test_the_page_names_only_scripts_that_exist() -> None:
    assert set(re.findall(r"python -m benchmarks\.(\w+)", PAGE)) <= set(SOURCES)
