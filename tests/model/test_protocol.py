"""The model has all attributes that the mixins need."""

import ast
from pathlib import Path

import pytest

from scsiameseclu.model import SCSiameseClu, _protocol

PROTOCOL = next(
    node
    for node in ast.walk(ast.parse(Path(_protocol.__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
)
METHODS = [node.name for node in PROTOCOL.body if isinstance(node, ast.FunctionDef)]
ATTRIBUTES = [node.target.id for node in PROTOCOL.body if isinstance(node, ast.AnnAssign)]


@pytest.mark.parametrize("name", METHODS)
def test_the_model_has_every_method_and_property_of_the_protocol(name):
    assert hasattr(SCSiameseClu, name)


def test_a_model_has_every_attribute_of_the_protocol(trained):
    assert [name for name in ATTRIBUTES if not hasattr(trained, name)] == []


def test_the_protocol_hides_nothing_when_the_model_runs():
    assert _protocol.ModelProtocol is object
