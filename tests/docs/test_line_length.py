"""No page has a line of more than 120 columns."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 120
FOLDERS = ("docs", "benchmarks", "src", "tutorials", "tests", ".github")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


def long_lines(text: str) -> list[int]:
    """Numbers of the lines that are too long, without rows of tables and single words, which cannot be wrapped."""
    return [
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > COLUMNS and not line.lstrip().startswith("|") and len(line.split()) > 1
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_pages_are_at_most_120_columns_long(page: Path) -> None:
    assert long_lines(page.read_text(encoding="utf-8")) == []


def test_a_long_line_is_found() -> None:
    words = "word " * 24 + "more"
    assert len(words) == 124
    assert long_lines(f"short\n{words}\n| {words} |\n{'x' * 200}\n{words[:120]}") == [2]
