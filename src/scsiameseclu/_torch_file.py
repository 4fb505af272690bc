"""Read torch files (checkpoints and the ``model.pt`` of scvi-tools) without running code in these files."""

from __future__ import annotations

import functools
import logging
import pickle
import re
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.torch_version import TorchVersion

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

__all__ = ["read_torch_file"]

SAFE_TORCH = "2.10"
"""First version of torch whose restricted unpickler has no known flaw."""

logger = logging.getLogger(__name__)


def read_torch_file(path: str | os.PathLike[str], allowed: Sequence[Any] = ()) -> Any:
    """Read tensors and plain values from a file written by :func:`torch.save`. Tensors are loaded to the CPU.

    A torch file is a pickle, and reading a pickle can call any function. The restricted unpickler of torch
    (``weights_only=True``) only calls the few functions that build tensors and plain values.

    Parameters
    ----------
    path
        Path of the file.
    allowed
        Further classes and functions that may be called, as for :func:`torch.serialization.add_safe_globals`.

    Raises
    ------
    OSError
        If the file is missing or cannot be opened.
    ValueError
        If the file is damaged, or contains calls of other functions. These functions are not called.
    """
    _check_archive(path)
    _warn_of_old_torch()
    try:
        with _only(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected nothing but tensors and plain values in {str(path)!r}, found other content, which was not run "
            f"({_reason(error)}). A file from an unknown source may be an attack: get the file from its author again."
        ) from error
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise _damaged(path, f"a file that torch cannot read ({_reason(error)})") from error


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Compare the content of the file with the checksums that are stored in the file. Torch ignores the checksums."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise _damaged(path, "no torch archive, or an incomplete archive")
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise _damaged(path, f"a damaged archive ({_reason(error)})") from error
    if damaged is not None:
        raise _damaged(path, f"other bytes in its part {damaged!r}")


def _damaged(path: str | os.PathLike[str], found: str) -> ValueError:
    return ValueError(
        f"Expected {str(path)!r} as torch wrote it, found {found}. Get the file from its source again, or write the "
        "file again."
    )


def _reason(error: Exception) -> str:
    """Reason in an error message of torch, without the advice of torch to load the file without restrictions."""
    text = str(error)
    if called := re.search(r"GLOBAL (\S+)", text):
        return f"a call of {called[1]}"
    said = re.search(r"WeightsUnpickler error:\s*([^\n]+)", text)
    return said[1].rstrip(". ") if said else " ".join(text.split())[:200] or type(error).__name__


@contextmanager
def _only(allowed: Sequence[Any]) -> Iterator[None]:
    """Allow only the given classes and functions during a ``with`` block.

    Classes and functions that other packages have allowed are forbidden during the block.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@functools.cache
def _warn_of_old_torch() -> None:
    if TorchVersion(torch.__version__) < SAFE_TORCH:
        logger.warning(
            "torch %s has a security flaw that a crafted file can use (CVE-2026-24747). Install torch %s or newer "
            "before reading checkpoints or model.pt files from other people.",
            torch.__version__,
            SAFE_TORCH,
        )
