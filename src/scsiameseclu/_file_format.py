"""Files of a saved model: nested values in JSON, arrays in safetensors, and a manifest with the digests of all files.

The files contain no code, and reading the files runs no code. The digests show whether a file is damaged, missing or
from another model before any value of the file is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray

__all__ = ["MANIFEST", "Manifest", "check_storable", "package_version", "read_state", "reason", "write_state"]

FORMAT = "scsiameseclu model"
VERSION = 1
MANIFEST, VALUES, ARRAYS = "manifest.json", "model.json", "model.safetensors"

_PACKAGES = ("scsiameseclu", "scvi-tools", "torch")
_TENSORS = {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32}
_TENSORS |= {torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64}
_STRINGS, _DATES = re.compile(r"<U\d{1,6}"), re.compile(r"<[mM]8(\[\w+\])?")
# Exceptions that are raised while values are decoded from a file with unexpected content.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)


def write_state(folder: Path, state: Mapping[str, Any], prefix: str = "", beside: Sequence[str] = ()) -> None:
    """Write nested values to files, and write the manifest of these files.

    Parameters
    ----------
    folder
        Folder to write to.
    state
        Dictionaries, lists and tuples of storable values. Storable are None, booleans, numbers, text, numpy scalars,
        numpy arrays (of numbers, dates, text, or storable objects), pandas indices and tensors. Reading returns
        subclasses of dictionaries and arrays as plain dictionaries and arrays, and tensors on the CPU. All other values
        are returned unchanged.
    prefix
        Text that is put before the names of the files.
    beside
        Names of further files in ``folder`` that belong to the model. The manifest also holds the digests of these
        files.

    Raises
    ------
    TypeError
        If a value is of any other type.
    """
    arrays: dict[str, torch.Tensor] = {}
    values = _encode(dict(state), arrays, "")
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in arrays.items()}
    contents = {
        prefix + VALUES: json.dumps(values, allow_nan=False, separators=(",", ":")).encode(),
        prefix + ARRAYS: safetensors.torch.save(tensors),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    entries = {name: _entry(len(content), hashlib.sha256(content)) for name, content in contents.items()}
    entries |= {name: _entry_of(folder / name) for name in beside}
    written_by = {name: package_version(name) for name in _PACKAGES}
    manifest = {"format": FORMAT, "version": VERSION, "written_by": written_by, "files": entries}
    (folder / (prefix + MANIFEST)).write_bytes(_sealed(manifest))


def check_storable(state: Mapping[str, Any], name: str) -> None:
    """Check that :func:`write_state` can write all values.

    Parameters
    ----------
    state
        Values, as for :func:`write_state`.
    name
        Name of the values in the error message.

    Raises
    ------
    TypeError
        If a value is of a type that cannot be stored.
    """
    _encode(dict(state), {}, name)


@dataclass(frozen=True)
class Manifest:
    """List of the files of a saved model, with the size and the digest that each file must have.

    Parameters
    ----------
    folder
        Folder of the model.
    prefix
        Text at the start of the names of the files.
    files
        Size in bytes (``"bytes"``) and digest (``"sha256"``) of every file, by the name of the file.
    written_by
        Version of this package that wrote the files.
    """

    folder: Path
    prefix: str
    files: dict[str, dict[str, Any]]
    written_by: str

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> Manifest:
        """Read the manifest of a folder.

        Raises
        ------
        OSError
            If the manifest is missing or cannot be read.
        ValueError
            If the manifest is damaged, is not a manifest of this package, or was written by a newer version.
        """
        path = folder / (prefix + MANIFEST)
        content = path.read_bytes()
        try:
            manifest = json.loads(content)
            if content != _sealed({key: value for key, value in manifest.items() if key != "sha256"}):
                raise ValueError("the digest does not fit the content")
            if manifest["format"] != FORMAT:
                raise ValueError(f"the format is {manifest['format']!r}")
            number, writer = int(manifest["version"]), manifest["written_by"]["scsiameseclu"]
            files = {
                str(name): {"bytes": entry["bytes"], "sha256": entry["sha256"]}
                for name, entry in manifest["files"].items()
            }
        except MALFORMED as error:
            raise _damaged(path, f"other content ({reason(error)})") from error
        if number > VERSION:
            raise ValueError(
                f"Expected a model in format {VERSION} or older, found format {number} in {str(path)!r}, written by "
                f"scsiameseclu {writer}. The installed version is {package_version()}. Install scsiameseclu {writer} "
                "or newer to load the model."
            )
        return cls(folder, prefix, files, str(writer))

    def lists(self, name: str) -> bool:
        """Whether the manifest lists a file. ``name`` is the file's name without the prefix."""
        return self.prefix + name in self.files

    def content(self, name: str) -> bytes:
        """Read a file, after comparing its digest with the manifest. ``name`` is the file's name without the prefix.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is missing, damaged or from another model.
        """
        path, entry = self._expected(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise _damaged(path, "none") from error
        _compare(path, entry, _entry(len(content), hashlib.sha256(content)))
        return content

    def check(self, name: str) -> Path:
        """Compare the digest of a file with the manifest, and return the path of the file.

        Unlike :meth:`content`, this method does not load the file into memory. ``name`` is the file's name without the
        prefix.

        Raises
        ------
        OSError, ValueError
            As :meth:`content`.
        """
        path, entry = self._expected(name)
        try:
            _compare(path, entry, _entry_of(path))
        except FileNotFoundError as error:
            raise _damaged(path, "none") from error
        return path

    def check_all(self) -> None:
        """Compare the digests of all files with the manifest.

        Raises
        ------
        OSError, ValueError
            As :meth:`content`.
        """
        for name in self.files:
            self.check(name.removeprefix(self.prefix))

    def _expected(self, name: str) -> tuple[Path, dict[str, Any]]:
        path = self.folder / (self.prefix + name)
        if not self.lists(name):
            raise _damaged(self.folder / (self.prefix + MANIFEST), f"no entry for {path.name!r}")
        return path, self.files[self.prefix + name]


def read_state(manifest: Manifest) -> dict[str, Any]:
    """Read the values that :func:`write_state` wrote.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is missing, damaged, from another model, or has unexpected content.
    """
    values, arrays = manifest.content(VALUES), manifest.content(ARRAYS)
    path = manifest.folder / (manifest.prefix + VALUES)
    try:
        state = _decode(json.loads(values), safetensors.torch.load(arrays))
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__} instead of a dictionary")
    except (*MALFORMED, safetensors.SafetensorError) as error:
        raise _damaged(path, f"unexpected values ({reason(error)})") from error
    return state


def package_version(name: str = "scsiameseclu") -> str:
    """Version of an installed package; ``"unknown"`` if the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


# -- digests ----------------------------------------------------------------------------------------------------------


def _sealed(manifest: dict[str, Any]) -> bytes:
    """Bytes of a manifest, which include a digest of the manifest itself.

    A given manifest always has the same bytes, so any other bytes in the file mean that the file was changed.
    """
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": digest}, sort_keys=True, indent=2) + "\n").encode()


def _entry(size: int, digest: Any) -> dict[str, Any]:
    return {"bytes": size, "sha256": digest.hexdigest()}


def _entry_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return _entry(path.stat().st_size, hashlib.file_digest(file, "sha256"))


def _compare(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    if found != expected:
        sizes = f"{found['bytes']} bytes instead of {expected['bytes']}"
        raise _damaged(path, sizes if found["bytes"] != expected["bytes"] else "other bytes")


def _damaged(path: Path, found: str) -> ValueError:
    return ValueError(
        f"Expected {str(path)!r} as it was saved with the model, found {found}. The file is damaged, incomplete or "
        "from another model: copy the whole folder from its source again, or save the model again."
    )


def reason(error: Exception) -> str:
    """Type and text of an error, on one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# -- values to JSON and back ------------------------------------------------------------------------------------------


def _encode(value: Any, arrays: dict[str, torch.Tensor], where: str) -> Any:
    """Convert a value to JSON types. Arrays and tensors are put into ``arrays``, named by the path of the value."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, dict):
        items = {key: _encode(item, arrays, f"{where}/{key}") for key, item in value.items()}
        if all(type(key) is str and not key.startswith("$") for key in items):
            return items
        return {"$dict": [[_encode(key, arrays, f"{where}/keys"), item] for key, item in items.items()]}
    if type(value) in (list, tuple):
        parts = [_encode(item, arrays, f"{where}/{number}") for number, item in enumerate(value)]
        return parts if type(value) is list else {"$tuple": parts}
    if isinstance(value, torch.Tensor) and value.dtype in _TENSORS:
        return {"$tensor": _stored(value, arrays, where)}
    if isinstance(value, np.generic):
        return {"$scalar": _encode(np.asarray(value), arrays, where)}
    if type(value) is pd.Index:
        return {"$index": _encode(value.to_numpy(), arrays, where), "name": _encode(value.name, arrays, where)}
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return _encode_array(np.asarray(value), arrays, where)
    raise _not_storable(value, where)


def _encode_array(array: NDArray[Any], arrays: dict[str, torch.Tensor], where: str) -> dict[str, Any]:
    array = np.ascontiguousarray(array).reshape(array.shape).astype(array.dtype.newbyteorder("<"), copy=False)
    kind = array.dtype.kind
    shape: list[int] = list(array.shape)
    if kind == "O":
        parts = [_encode(item, arrays, f"{where}/{number}") for number, item in enumerate(array.ravel())]
        return {"$objects": parts, "shape": shape}
    if kind == "U":
        return {"$strings": array.ravel().tolist(), "shape": shape, "dtype": array.dtype.str}
    if kind in "mM":
        return {"$dates": _stored(torch.tensor(array.view(np.int64)), arrays, where), "dtype": array.dtype.str}
    if kind in "biuf" and array.dtype.itemsize <= 8:
        return {"$array": _stored(torch.tensor(array), arrays, where)}
    raise _not_storable(array, where)


def _stored(tensor: torch.Tensor, arrays: dict[str, torch.Tensor], where: str) -> str:
    name = where
    while name in arrays:  # two paths can be equal if a key contains a slash
        name += "'"
    arrays[name] = tensor
    return name


def _not_storable(value: Any, where: str) -> TypeError:
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    return TypeError(
        "Expected values that can be stored with a model (numbers, text, dates, arrays, tensors, and dictionaries, "
        f"lists and tuples of such values), found {kind} as {where!r}. Convert the value to one of these types."
    )


def _decode(value: Any, arrays: Mapping[str, torch.Tensor]) -> Any:
    """Inverse of :func:`_encode`."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {key: _decode(item, arrays) for key, item in value.items()}
    content = value[tag]
    match tag:
        case "$float":
            return float(content)
        case "$dict":
            return {_decode(key, arrays): _decode(item, arrays) for key, item in content}
        case "$tuple":
            return tuple(_decode(item, arrays) for item in content)
        case "$tensor":
            return arrays[content]
        case "$array":
            return arrays[content].numpy()
        case "$scalar":
            return _decode(content, arrays)[()]
        case "$index":
            return pd.Index(_decode(content, arrays), name=_decode(value["name"], arrays))
        case "$dates":
            return arrays[content].numpy().view(_dtype(value["dtype"], _DATES))
        case "$strings":
            return np.array(content, dtype=_dtype(value["dtype"], _STRINGS)).reshape(value["shape"])
        case "$objects":
            objects = np.empty(len(content), dtype=object)
            for number, item in enumerate(content):
                objects[number] = _decode(item, arrays)
            return objects.reshape(value["shape"])
    raise ValueError(f"unknown type {tag!r}")


def _dtype(name: str, allowed: re.Pattern[str]) -> np.dtype[Any]:
    if not allowed.fullmatch(name):
        raise ValueError(f"unknown dtype {name!r}")
    return np.dtype(name)
