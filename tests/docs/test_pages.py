"""Functions, methods, arguments, pictures and pages that the documentation names exist."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import scsiameseclu
from scsiameseclu.model import SCSiameseClu

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MODEL = r"(?<![\w.])(?:model|query_model|part)\.(\w+)\("
PACKAGE = r"(?<![\w.])ssc\.((?:\w+\.)*\w+)\("


def found(name: str) -> object:
    where: object = scsiameseclu
    for part in name.split("."):
        where = getattr(where, part)
    return where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_calls_on_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(PACKAGE, text):
        assert callable(found(name)), name
    for name in re.findall(MODEL, text):
        assert callable(getattr(SCSiameseClu, name)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_arguments_on_a_page_exist(page: Path) -> None:
    """Check the arguments of every call in the Python blocks of a page and in the tables of calls."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    calls = [call for call in re.findall(r"`((?:ssc|model)\.[^`]*\))`", text) if "..." not in call]
    for code in [*blocks, *calls]:
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func)
            if owner.startswith("ssc."):
                function = found(owner.removeprefix("ssc.")) if owner.count("(") == 0 else None
            else:
                function = getattr(SCSiameseClu, node.func.attr, None) if owner.startswith("model.") else None
            if function is None:
                continue
            parameters = inspect.signature(function).parameters
            if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                continue
            given = [keyword.arg for keyword in node.keywords if keyword.arg is not None]
            assert set(given) <= set(parameters), owner


def test_pictures_of_pages_are_there_and_none_is_left_over() -> None:
    sources = [*PAGES, DOCS.parent / "README.md"]
    used = {name for page in sources for name in re.findall(r"_static/([\w-]+\.png)", page.read_text(encoding="utf-8"))}
    assert used == {path.name for path in (DOCS / "_static").glob("*.png")}
    assert max(path.stat().st_size for path in (DOCS / "_static").glob("*.png")) < 500_000


def test_the_script_makes_the_pictures_of_the_pages() -> None:
    made = re.findall(r'^        "(\w+)": ssc\.pl', (DOCS / "make_pictures.py").read_text(encoding="utf-8"), flags=re.M)
    assert len(made) > 5 and {f"{name}.png" for name in made} <= {
        path.name for path in (DOCS / "_static").glob("*.png")
    }


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split("```{toctree}")[1]
    assert {page.name for page in PAGES} - {"index.md"} == set(re.findall(r"^(\w+\.md)$", listed, flags=re.M))


def test_headings_of_the_page_on_reports_are_headings_of_a_report() -> None:
    explained = re.findall(r"^## (.+)$", (DOCS / "report.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    template = Path(scsiameseclu.__file__).parent / "report" / "templates" / "page.html"
    shown = re.findall(r"<h2[^>]*>([^<{]+)", template.read_text(encoding="utf-8"))
    assert explained and set(explained) <= set(shown)
