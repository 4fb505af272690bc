"""The API page names every public object, and names no object that does not exist."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
MODULES = {
    "pp": "scsiameseclu.pp",
    "tl": "scsiameseclu.tl",
    "pl": "scsiameseclu.pl",
    "metrics": "scsiameseclu.metrics",
    "hub": "scsiameseclu.hub",
    "sklearn": "scsiameseclu.sklearn",
    "presets": "scsiameseclu.presets",
    "datasets": "scsiameseclu.datasets",
    "module": "scsiameseclu.module",
    "train": "scsiameseclu.train",
    "nn": "scsiameseclu.nn",
    "ot": "scsiameseclu.ot",
    "losses": "scsiameseclu.losses",
}


@pytest.mark.parametrize("short", MODULES)
def test_api_page_lists_exactly_the_public_names(short: str) -> None:
    listed = set(re.findall(rf"^    {short}\.(\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert listed == set(importlib.import_module(MODULES[short]).__all__)


def test_package_exports_what_the_page_promises() -> None:
    package = importlib.import_module("scsiameseclu")
    listed = re.findall(r"^    ~?([a-zA-Z]\w*(?:\.\w+)*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name in listed:
        found: object = package
        for part in name.split("."):
            found = getattr(found, part)
        assert found is not None
