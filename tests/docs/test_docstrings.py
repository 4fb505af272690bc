"""Every public function describes its arguments."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import scsiameseclu

PACKAGE = "scsiameseclu"
PARTS = ("pp", "tl", "pl", "metrics", "hub", "sklearn", "datasets", "presets", "losses", "ot", "train", "module", "nn")


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public functions and methods of this package, with the names that users call."""
    found = {short: importlib.import_module(f"{PACKAGE}.{short}") for short in PARTS}
    objects = [(f"{short}.{name}", getattr(module, name)) for short, module in found.items() for name in module.__all__]
    for name, value in [("SCSiameseClu", scsiameseclu.SCSiameseClu), *objects]:
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for base in inspect.getmro(value):
                if base.__module__.split(".")[0] == PACKAGE:
                    for member, method in vars(base).items():
                        method = getattr(method, "__func__", method)
                        if not member.startswith("_") and inspect.isfunction(method):
                            yield f"{name}.{member}", method


FUNCTIONS = dict(public_functions())


def described(docstring: str) -> set[str]:
    """Names of the arguments in the section on parameters."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^(\*{0,2}\w[\w*, ]*)(?: : .*)?$", section.group(1) if section else "", flags=re.MULTILINE)
    return {name.strip(" *") for heading in headings for name in heading.split(",")}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_descriptions_are_those_of_the_arguments(name: str) -> None:
    docstring = inspect.getdoc(FUNCTIONS[name]) or ""
    assert "%(" not in docstring
    if listed := described(docstring):
        assert listed == set(inspect.signature(FUNCTIONS[name]).parameters) - {"self", "cls"}


def test_the_same_argument_of_two_functions_reads_the_same() -> None:
    model = scsiameseclu.SCSiameseClu
    line = "indices\n    Row numbers of cells, or a boolean mask over the cells. ``None``: all cells.\n"
    assert line in (inspect.getdoc(model.predict) or "")
    assert line in (inspect.getdoc(model.get_normalized_expression) or "")
