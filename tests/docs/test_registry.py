"""The entry for the registry of scverse follows schema 2.0 of the registry, and agrees with the package."""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {
    "name": str,
    "description": str,
    "project_home": str,
    "documentation_home": str,
    "install": dict,
    "license": str,
    "tags": list,
    "primary_category": str,
    "language": str,
    "category": str,
}
OPTIONAL = {"tutorials_home": str, "publications": list, "contact": list, "logo": str, "test_command": str}
# Tags of the registry's closed list that this package uses.
TAGS = {
    "scRNA-seq",
    "clustering",
    "dimensionality reduction",
    "deep learning",
    "optimal transport",
    "GPU acceleration",
}


@pytest.fixture(scope="module")
def entry() -> dict:
    return yaml.safe_load((ROOT / "docs" / "meta.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_fields_are_those_of_the_schema(entry: dict) -> None:
    assert set(REQUIRED) <= set(entry) <= set(REQUIRED) | set(OPTIONAL), "the registry reads versions from PyPI"
    for name, value in entry.items():
        assert isinstance(value, (REQUIRED | OPTIONAL)[name]), name
    assert entry["category"] == "ecosystem" and entry["language"] == "Python"


def test_text_and_tags_are_within_the_limits(entry: dict) -> None:
    assert 1 <= len(re.findall(r"[.](?:\s|$)", entry["description"])) <= 2
    assert 1 <= len(entry["tags"]) <= 10 and len(set(entry["tags"])) == len(entry["tags"])
    assert set(entry["tags"]) <= TAGS and entry["primary_category"] in entry["tags"]


def test_addresses_and_identifiers_are_well_formed(entry: dict) -> None:
    for name in ("project_home", "documentation_home", "tutorials_home"):
        address = urlparse(entry[name])
        assert address.scheme == "https" and address.netloc and " " not in entry[name]
    for doi in entry["publications"]:
        assert re.fullmatch(r"10\.\d{4,9}/[-._;()/:A-Za-z0-9]+", doi)
    assert set(entry["install"]) <= {"pypi", "conda", "cran", "bioconductor"}


def test_entry_agrees_with_the_package(entry: dict, project: dict) -> None:
    assert entry["name"] == entry["install"]["pypi"] == project["name"]
    assert entry["license"] == project["license"].split(" AND ")[0]
    assert "test" in project["optional-dependencies"] and '".[test]"' in entry["test_command"]
    page = Path(urlparse(entry["tutorials_home"]).path).stem
    assert (ROOT / "docs" / f"{page}.md").exists()


def test_the_extra_all_has_every_extra_for_users(project: dict) -> None:
    extras = set(project["optional-dependencies"]) - {"all", "test"}
    assert extras == {"gpu", "hub", "report"}
    (everything,) = project["optional-dependencies"]["all"]
    assert everything == f"{project['name']}[{','.join(sorted(extras))}]"
