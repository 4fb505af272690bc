"""Results on disk that are there as a whole, whenever the process that writes them ends.

A file is written under another name beside its place, brought to the disk, and renamed. Several files that belong
together are written into a hidden folder in the folder they are for. Renaming that hidden folder decides: before, the
old results count; from then on the new ones, which are then moved to their places. Whoever comes after a process that
was killed in between finishes what it had decided (:func:`finish`) and removes what it had not.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["content", "finish", "locked", "replaced_entries", "replaced_file"]

WAIT = 30.0
"""Seconds to wait for another process that writes to the same place."""

_PREFIX = ".scsiameseclu"
_PARTIAL = f"{_PREFIX}.partial"  # new results that are not complete
_COMPLETE = f"{_PREFIX}.complete"  # new results that count, not all of them in their places
_OLD = f"{_PREFIX}.old"  # folders that new ones replaced
_LOCK = f"{_PREFIX}.lock"
_GONE = f"{_PREFIX}.gone"  # within the new results: names of old ones to remove
_OURS = {_PARTIAL, _COMPLETE, _OLD, _LOCK}

logger = logging.getLogger(__name__)


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file that replaces the one at ``path`` at the end of the block, in one step, unless the block fails.

    Parameters
    ----------
    path
        Place of the file; its folder is made.

    Yields
    ------
    Path to write to.

    Raises
    ------
    OSError
        If the disk is full; what was there before is kept.
    RuntimeError
        If another process goes on writing to this place.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with locked(target.with_name(f".{target.name}.lock"), WAIT):
        partial.unlink(missing_ok=True)  # of a process that was killed
        try:
            with _explained(target):
                yield partial
                _sync(partial)
                os.replace(partial, target)
                _sync(target.parent)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def replaced_entries(folder: str | os.PathLike[str], wait: float = WAIT, gone: Sequence[str] = ()) -> Iterator[Path]:
    """Replace files and folders of the same names in ``folder``, all together, unless the block fails.

    What else there is in ``folder`` stays as it is.

    Parameters
    ----------
    folder
        Folder for the results; it is made.
    wait
        Seconds to wait for another process that writes to this folder.
    gone
        Names of files in ``folder`` that are removed if they are not replaced.

    Yields
    ------
    An empty folder to write to.

    Raises
    ------
    OSError
        If the disk is full; what was there before is kept.
    RuntimeError
        If another process goes on writing to this folder.
    """
    target = Path(folder)
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    partial = target / _PARTIAL
    try:
        with locked(target / _LOCK, wait):
            _tidy(target)
            partial.mkdir()
            try:
                with _explained(target):
                    yield partial
                    _commit(
                        target, [name for name in gone if (target / name).is_file() and not (partial / name).exists()]
                    )
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        if made:
            with suppress(OSError):  # there are results in it
                target.rmdir()


def finish(folder: str | os.PathLike[str]) -> None:
    """Finish or remove what a process that was killed has left in ``folder``, before the folder is read.

    A folder without such leftovers, or one that a process is writing to, is not changed.
    """
    target = Path(folder)
    if (target / _COMPLETE).exists():
        with locked(target / _LOCK, WAIT):
            _tidy(target)
        logger.info("Finished what an interrupted process had begun to replace in %s.", target)
    elif any((target / name).exists() for name in _OURS):
        with suppress(OSError, RuntimeError), locked(target / _LOCK, 0.0):  # in use, or not ours to clean
            _tidy(target)


def content(folder: Path) -> set[str]:
    """Names in a folder, without names that replacing leaves for a while; empty if there is no such folder."""
    return {path.name for path in folder.iterdir()} - _OURS if folder.is_dir() else set()


def _commit(target: Path, gone: Sequence[str]) -> None:
    """Bring the new results to the disk, let them count, and move them to their places."""
    partial = target / _PARTIAL
    if gone:
        (partial / _GONE).write_text("\n".join(gone), encoding="utf-8")
    entries = sorted(partial.iterdir())
    for path in sorted(partial.rglob("*")):
        _sync(path)
    if len(entries) == 1 and entries[0].is_file() and not gone and not (target / entries[0].name).is_dir():
        os.replace(entries[0], target / entries[0].name)
    elif entries:
        _sync(partial)
        os.rename(partial, target / _COMPLETE)
        _sync(target)
        _move(target)
    _sync(target)


def _move(target: Path) -> None:
    """Move results that count to their places; may be broken off and repeated at any point."""
    complete, old, gone = target / _COMPLETE, target / _OLD, target / _COMPLETE / _GONE
    if gone.exists():
        for name in gone.read_text(encoding="utf-8").splitlines():
            (target / name).unlink(missing_ok=True)
        gone.unlink()
    for source in sorted(complete.iterdir()):
        place = target / source.name
        if os.path.lexists(place) and (source.is_dir() or place.is_dir()):  # a folder cannot be renamed onto another
            old.mkdir(exist_ok=True)
            shutil.rmtree(old / source.name, ignore_errors=True)
            os.rename(place, old / source.name)
        os.replace(source, place)
    complete.rmdir()
    shutil.rmtree(old, ignore_errors=True)


def _tidy(target: Path) -> None:
    """Finish or remove what a killed process has left; only while holding the lock."""
    if (target / _COMPLETE).exists():
        _move(target)
    for name in (_PARTIAL, _OLD):
        shutil.rmtree(target / name, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file, or the list of the entries of a folder, to the disk."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():  # cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say in plain words that the disk is full: writers of files report it in their own ways."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number, text = getattr(error, "errno", None), str(error)
        signs = ("No space left on device", "unexpected pos", "PytorchStreamWriter failed writing")
        if number not in (errno.ENOSPC, errno.EDQUOT) and not any(sign in text for sign in signs):
            raise
        raise OSError(
            f"Expected room on the disk to write {str(target)!r}, found it full. What was there before is kept; make "
            "room and write again."
        ) from error


@contextmanager
def locked(path: Path, wait: float) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends; the file is removed with it.

    Raises
    ------
    RuntimeError
        If another process still holds it after ``wait`` seconds.
    """
    until = time.monotonic() + wait
    descriptor = _acquire(path)
    while descriptor is None:
        if time.monotonic() >= until:
            raise RuntimeError(
                f"Expected that nobody else writes to {str(path.parent)!r}, found another process that does. Wait "
                "until it has ended, or name another place."
            )
        time.sleep(0.05)
        descriptor = _acquire(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Open and lock a file, made if necessary; None if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        _lock(descriptor)
        # The one before may have removed the file after it was opened here.
        held = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        held = False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            logger.warning(
                "The file system of %s has no locks: let only one process at a time write there.", path.parent
            )
            held = True
        elif error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
