"""Nested values are the same after writing and reading, and damage of a file is detected and named."""

import json
import math
import random
import shutil
from collections import OrderedDict, defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from scsiameseclu import _file_format
from scsiameseclu._file_format import ARRAYS, MANIFEST, VALUES, Manifest, check_storable, read_state, write_state

FILES = [MANIFEST, VALUES, ARRAYS]
SCALARS = [
    None,
    True,
    False,
    0,
    -1,
    2**200,
    "",
    "text",
    "\x00\ud800é\n",
    "$tuple",
    0.1,
    -0.0,
    1e-320,
    math.inf,
    -math.inf,
]
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def same(first, second):
    """Equal in value and type, NaN included."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, pd.Index):
        return first.equals(second) and first.dtype == second.dtype and same(first.name, second.name)
    if isinstance(first, np.ndarray):
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        if first.dtype == object:
            return same(first.ravel().tolist(), second.ravel().tolist())
        return first.tobytes() == second.tobytes()
    if isinstance(first, float | np.floating) and math.isnan(first):
        return math.isnan(second)
    return (
        first == second and math.copysign(1, first) == math.copysign(1, second)
        if isinstance(first, float)
        else first == second
    )


def written(folder, state, **options):
    write_state(folder, state, **options)
    return read_state(Manifest.read(folder, options.get("prefix", "")))


def an_array(draw):
    shape = [draw.randrange(4) for _ in range(draw.randrange(4))]
    kind = draw.choice([*DTYPES, "U", "O", "M8[ns]", "m8[D]"])
    size = math.prod(shape)
    if kind == "U":
        return np.array([draw.choice(["", "a", "éß"]) for _ in range(size)], dtype="<U3").reshape(shape)
    if kind == "O":
        array = np.empty(size, dtype=object)
        array[:] = [draw.choice(SCALARS) for _ in range(size)]
        return array.reshape(shape)
    if kind[0] in "mM":
        return np.array([draw.randrange(-9, 9) for _ in range(size)], dtype="i8").astype(kind).reshape(shape)
    values = [draw.choice([0, 1, np.nan, -np.inf]) if kind[0] == "f" else draw.randrange(2) for _ in range(size)]
    return np.array(values, dtype=kind).reshape(shape)


def a_value(draw, depth=3):
    match draw.randrange(9 if depth else 5):
        case 0 | 1:
            return draw.choice([*SCALARS, math.nan])
        case 2:
            return an_array(draw)
        case 3:
            dtypes = [torch.bfloat16, torch.float32, torch.int64, torch.bool]
            return torch.ones([draw.randrange(3) for _ in range(draw.randrange(3))]).to(draw.choice(dtypes))
        case 4:
            return draw.choice(
                [np.float32(0.1), np.int64(7), np.bool_(True), np.str_("x"), pd.Index(["a", "b"], name="n")]
            )
        case 5:
            return [a_value(draw, depth - 1) for _ in range(draw.randrange(4))]
        case 6:
            return tuple(a_value(draw, depth - 1) for _ in range(draw.randrange(4)))
    keys = ["a", "a/b", "b", "$array", "__metadata__", "", 3, (1, "x"), np.str_("k"), False]
    return {key: a_value(draw, depth - 1) for key in draw.sample(keys, draw.randrange(4))}


@pytest.mark.parametrize("seed", range(60))
def test_any_nested_values_come_back(tmp_path, seed):
    state = {str(number): a_value(random.Random(f"{seed}{number}")) for number in range(5)}
    assert same(written(tmp_path, state), state)


def test_every_scalar_and_type_of_array_comes_back(tmp_path):
    arrays = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in DTYPES}
    paths = {"a/b": np.arange(2), "a": {"b": np.arange(3)}}
    state = {"scalars": SCALARS, "arrays": arrays, "paths": paths, "t": {"same": torch.ones(2)}}
    assert same(written(tmp_path, state), state)


def test_plain_forms_of_subclasses_and_layouts_come_back(tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    shared = torch.arange(4)
    nested = defaultdict(dict, {"x": OrderedDict(y=1)})
    state = {
        "t": grid.T,
        "step": grid[::2, ::-1],
        "big": grid.astype(">f8"),
        "map": nested,
        "one": shared,
        "two": shared[1:],
    }
    found = written(tmp_path, state)
    assert np.array_equal(found["t"], grid.T) and np.array_equal(found["step"], grid[::2, ::-1])
    assert found["big"].dtype == np.float64 and np.array_equal(found["big"], grid)
    assert type(found["map"]) is dict and found["map"] == {"x": {"y": 1}}
    assert torch.equal(found["one"], shared) and torch.equal(found["two"], shared[1:])
    found["t"][0, 0] = 7.0  # arrays are writable


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        1j,
        np.zeros(2, dtype=complex),
        np.zeros(2, dtype="S3"),
        np.zeros(2, dtype=[("a", "i4")]),
        np.ma.masked_array([1, 2], [True, False]),
        np.longdouble(1),
        pd.Series([1]),
        pd.MultiIndex.from_tuples([(1, 2)]),
        pd.Timestamp("2020"),
        np.array([object()], dtype=object),
        torch.zeros(2, dtype=torch.complex64),
        random.Random,
        len,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_other_types_are_refused_by_name(tmp_path, value):
    with pytest.raises(TypeError, match="deep/here/0"):
        write_state(tmp_path, {"deep": {"here": [value]}})
    with pytest.raises(TypeError, match=r"registry/x.* to one of these types"):
        check_storable({"x": value}, "registry")
    assert not any(tmp_path.iterdir())


def test_the_same_values_make_the_same_files(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name, {"a": np.arange(3), "b": torch.ones(2), "c": ["x", 1.5]})
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data.bin").write_bytes(bytes(range(256)) * 40)
    state = {"weights": torch.randn(40, 30), "names": np.array(["a", "b"], dtype=object), "n": {"x": [1, 2.5, None]}}
    write_state(tmp_path / "model", state, beside=["data.bin"])
    return tmp_path / "model"


def read_all(folder):
    manifest = Manifest.read(folder)
    manifest.check("data.bin")
    return read_state(manifest)


def refused(folder, name):
    """Reading the folder raises an error of one line that names the file and says what to do."""
    with pytest.raises(ValueError, match="copy the whole folder") as caught:
        read_all(folder)
    assert str(folder / name) in str(caught.value) or name == MANIFEST
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*FILES, "data.bin"])
@pytest.mark.parametrize("n_flips", [60, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found(folder, name, n_flips):
    draw, path = random.Random(name), folder / name
    content = path.read_bytes()
    for _ in range(n_flips):
        position = draw.randrange(len(content))
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        refused(folder, name)
    path.write_bytes(content)
    read_all(folder)


@pytest.mark.parametrize("name", [*FILES, "data.bin"])
def test_cut_zeroed_lengthened_and_missing_files_are_found(folder, name):
    path = folder / name
    content = path.read_bytes()
    zeroed = content[: len(content) // 3] + bytes(min(4096, len(content) // 3)) + content[len(content) // 3 * 2 :]
    for damaged in (
        b"",
        content[:-1],
        content[: len(content) // 2],
        content + b"\n",
        zeroed,
        bytes(len(content)),
        b"null",
        b"[]",
    ):
        path.write_bytes(damaged)
        refused(folder, name)
    path.unlink()
    with pytest.raises(FileNotFoundError if name == MANIFEST else ValueError, match=name):
        read_all(folder)


def test_files_of_another_model_are_found(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    write_state(tmp_path / "other", {"weights": torch.randn(40, 30)})
    for name in FILES[1:]:
        own = (folder / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, folder / name)
        refused(folder, name)
        (folder / name).write_bytes(own)
    shutil.copy(tmp_path / "other" / MANIFEST, folder / MANIFEST)
    refused(folder, MANIFEST)


def test_a_newer_format_says_who_wrote_it_and_what_to_do(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_file_format, "VERSION", 7)
        patch.setattr(_file_format, "package_version", lambda name="scsiameseclu": "9.8")
        write_state(folder, {"unknown": [1]})
    with pytest.raises(
        ValueError, match=r"found format 7 .* scsiameseclu 9\.8\. .* Install scsiameseclu 9\.8 or newer"
    ):
        Manifest.read(folder)


@pytest.mark.parametrize(
    "values",
    [
        [],
        3,
        None,
        "text",
        {"a": {"$array": "/nowhere"}},
        {"a": {"$array": []}},
        {"a": {"$what": 1}},
        {"a": {"$float": "x"}},
        {"a": {"$dict": [[1]]}},
        {"a": {"$dict": [[{}, 1]]}},
        {"a": {"$scalar": 3}},
        {"a": {"$objects": [1, 2], "shape": [3]}},
        {"a": {"$objects": 3}},
        {"a": {"$strings": ["a"], "shape": [1], "dtype": "O"}},
        {"a": {"$strings": ["a"]}},
        {"a": {"$dates": "/x", "dtype": "V8"}},
        {"a": {"$index": 3}},
    ],
    ids=repr,
)
def test_values_of_the_wrong_shape_are_one_error(folder, values):
    """Digests do not protect against files that were changed on purpose."""
    reseal(folder, json.dumps(values).encode())
    refused(folder, VALUES)


def test_very_deep_or_broken_json_is_one_error(folder):
    for content in (
        b"[" * 100_000,
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b"{",
        b"\xff\xfe",
        b'{"a": 1' + b"0" * 5000 + b"}",
    ):
        reseal(folder, content)
        refused(folder, VALUES)


def reseal(folder, values):
    (folder / VALUES).write_bytes(values)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["sha256"]
    manifest["files"][VALUES] = _file_format._entry_of(folder / VALUES)
    (folder / MANIFEST).write_bytes(_file_format._sealed(manifest))


@pytest.mark.parametrize("prefix", ["", "first_"])
def test_files_that_nothing_reads_are_compared_too(tmp_path, prefix):
    (tmp_path / f"{prefix}data.bin").write_bytes(b"content")
    write_state(tmp_path, {"n": 1}, prefix=prefix, beside=[f"{prefix}data.bin"])
    Manifest.read(tmp_path, prefix).check_all()
    (tmp_path / f"{prefix}data.bin").write_bytes(b"Content")
    with pytest.raises(ValueError, match="data.bin.*copy the whole folder"):
        Manifest.read(tmp_path, prefix).check_all()
