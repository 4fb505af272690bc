"""Names, arguments and defaults of all public objects are listed in ``public_api.txt``.

After an intended change, write this file anew, and describe the change in the changelog:

    python tests/test_public_api.py
"""

import argparse
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scsiameseclu.cli import _parser

SNAPSHOT = Path(__file__).with_name("public_api.txt")
PACKAGE = "scsiameseclu"


def described(name: str, found: Any) -> Iterator[str]:
    """Lines for one public object: its arguments and, for a class, the arguments of its public methods."""
    if inspect.isclass(found):
        yield f"{name}{arguments(found)}"
        # Members that are inherited from other packages differ between releases of these packages.
        own = [base for base in inspect.getmro(found) if base.__module__.split(".")[0] == PACKAGE]
        for member in sorted({member for base in own for member in vars(base) if not member.startswith("_")}):
            value = inspect.getattr_static(found, member)
            value = getattr(value, "__func__", value)
            yield f"{name}.{member}{arguments(value) if callable(value) else ''}"
    elif callable(found):
        yield f"{name}{arguments(found)}"
    else:
        yield name


def arguments(found: Any) -> str:
    """Arguments with defaults, as in a call, without annotations, which differ between versions of Python."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # a class without arguments
        return "()"
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    parameters = [
        each if each.default is each.empty else each.replace(default=Default(each.default)) for each in parameters
    ]
    return str(inspect.Signature(parameters))


class Default:
    """A default value that is written without addresses in memory."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return getattr(self.value, "__name__", None) or repr(self.value)


def command_line() -> Iterator[str]:
    """Lines for every option of every command."""
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for command, parser in sorted(commands.choices.items()):
        for action in parser._actions:
            yield f"$ {PACKAGE} {command} {'/'.join(action.option_strings) or action.dest}"


def public_api() -> str:
    """All public objects, one object a line."""
    package = importlib.import_module(PACKAGE)
    lines = []
    for name in package.__all__:
        found = getattr(package, name)
        if inspect.ismodule(found):
            for each in found.__all__:
                lines += described(f"{name}.{each}", getattr(found, each))
        else:
            lines += described(name, found)
    return "\n".join([*sorted(lines), *command_line()]) + "\n"


def test_public_api_is_what_was_promised() -> None:
    found, promised = public_api().splitlines(), SNAPSHOT.read_text(encoding="utf-8").splitlines()
    changes = [f"- {line}" for line in promised if line not in found]
    changes += [f"+ {line}" for line in found if line not in promised]
    assert not changes, "\n".join(
        ["The public API changed. If it was meant to: python tests/test_public_api.py", *changes]
    )
    assert found == promised


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
