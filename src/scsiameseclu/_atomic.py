"""Write files so that a process that is killed never leaves incomplete results.

A single file is first written under a temporary name in the same folder. The temporary file is flushed to the disk and
then renamed, which replaces the old file in one step.

Several files that belong together are first written into a hidden folder inside the output folder. The hidden folder is
renamed when all files are complete. Before this renaming, the old results are valid. After the renaming, the new
results are valid, and each file is moved to its place. If a process is killed in between, the next process that uses
the output folder calls :func:`finish`: complete results are moved to their places, incomplete results are deleted.
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
_PARTIAL = f"{_PREFIX}.partial"  # folder of new results that are not complete
_COMPLETE = f"{_PREFIX}.complete"  # folder of complete new results that still have to be moved to their places
_OLD = f"{_PREFIX}.old"  # folder of replaced folders, deleted at the end
_LOCK = f"{_PREFIX}.lock"
_GONE = f"{_PREFIX}.gone"  # file inside the folder of new results: names of old files to delete
_OURS = {_PARTIAL, _COMPLETE, _OLD, _LOCK}

logger = logging.getLogger(__name__)


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replace the file at ``path`` in one step at the end of a ``with`` block. If the block fails, the old file stays.

    Parameters
    ----------
    path
        Path of the file. Missing parent folders are created.

    Yields
    ------
    Temporary path to write the new file to.

    Raises
    ------
    OSError
        If the disk is full. The old file is kept.
    RuntimeError
        If another process still writes to this path after :data:`WAIT` seconds.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays a link: the file that the link points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with locked(target.with_name(f".{target.name}.lock"), WAIT):
        partial.unlink(missing_ok=True)  # left by a process that was killed
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
    """Replace several files and folders in ``folder`` together at the end of a ``with`` block.

    If the block fails, nothing is replaced. Files of ``folder`` with other names are not touched.

    Parameters
    ----------
    folder
        Folder for the results. A missing folder is created.
    wait
        Seconds to wait for another process that writes to this folder.
    gone
        Names of old files in ``folder`` that are deleted if the block writes no new file of the same name.

    Yields
    ------
    An empty temporary folder to write the new files and folders to.

    Raises
    ------
    OSError
        If the disk is full. The old results are kept.
    RuntimeError
        If another process still writes to this folder after ``wait`` seconds.
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
            with suppress(OSError):  # a folder that holds results cannot be removed, and stays
                target.rmdir()


def finish(folder: str | os.PathLike[str]) -> None:
    """Move complete results of a killed process to their places, and delete its incomplete results.

    Call this function before reading results from ``folder``. The folder is not changed if there are no leftovers, or
    if another process is still writing to the folder.

    Raises
    ------
    RuntimeError
        If another process still moves complete results after :data:`WAIT` seconds.
    """
    target = Path(folder)
    if (target / _COMPLETE).exists():
        with locked(target / _LOCK, WAIT):
            _tidy(target)
        logger.info("Moved the complete results of an interrupted process to their places in %s.", target)
    elif any((target / name).exists() for name in _OURS):
        # Ignored errors: another process uses the folder, or the user may not write to the folder.
        with suppress(OSError, RuntimeError), locked(target / _LOCK, 0.0):
            _tidy(target)


def content(folder: Path) -> set[str]:
    """Names of the files and folders in a folder, without the temporary ones of this module.

    The set is empty if the folder does not exist.
    """
    return {path.name for path in folder.iterdir()} - _OURS if folder.is_dir() else set()


def _commit(target: Path, gone: Sequence[str]) -> None:
    """Flush the new results to the disk, mark them as complete, and move them to their places."""
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
    """Move complete results to their places. The move may be interrupted at any point and repeated later."""
    complete, old, gone = target / _COMPLETE, target / _OLD, target / _COMPLETE / _GONE
    if gone.exists():
        for name in gone.read_text(encoding="utf-8").splitlines():
            (target / name).unlink(missing_ok=True)
        gone.unlink()
    for source in sorted(complete.iterdir()):
        place = target / source.name
        # A folder cannot be renamed to the name of an existing folder, so the old folder is moved away first.
        if os.path.lexists(place) and (source.is_dir() or place.is_dir()):
            old.mkdir(exist_ok=True)
            shutil.rmtree(old / source.name, ignore_errors=True)
            os.rename(place, old / source.name)
        os.replace(source, place)
    complete.rmdir()
    shutil.rmtree(old, ignore_errors=True)


def _tidy(target: Path) -> None:
    """Move complete results of a killed process and delete incomplete results. The caller must hold the lock."""
    if (target / _COMPLETE).exists():
        _move(target)
    for name in (_PARTIAL, _OLD):
        shutil.rmtree(target / name, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file, or the list of files of a folder, to the disk."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Raise one clear error when the disk is full, because every library reports a full disk in another way."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number, text = getattr(error, "errno", None), str(error)
        signs = ("No space left on device", "unexpected pos", "PytorchStreamWriter failed writing")
        if number not in (errno.ENOSPC, errno.EDQUOT) and not any(sign in text for sign in signs):
            raise
        raise OSError(
            f"Expected free space on the disk to write {str(target)!r}, found the disk full. The earlier files are "
            "kept. Free some space and write again."
        ) from error


@contextmanager
def locked(path: Path, wait: float) -> Iterator[None]:
    """Hold a lock on the file ``path`` during a ``with`` block, and delete the file at the end.

    The operating system releases the lock when the process ends, even if the process is killed.

    Raises
    ------
    RuntimeError
        If another process still holds the lock after ``wait`` seconds.
    """
    until = time.monotonic() + wait
    descriptor = _acquire(path)
    while descriptor is None:
        if time.monotonic() >= until:
            raise RuntimeError(
                f"Expected that no other process writes to {str(path.parent)!r}, found one that does. Wait until the "
                "other process has ended, or choose another folder."
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
    """Create a file if necessary, and lock it. Return its descriptor, or None if another process holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        _lock(descriptor)
        # The process that held the lock before may have deleted the file after this process opened it.
        held = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        held = False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            logger.warning(
                "The file system of %s does not support locks: let only one process at a time write there.", path.parent
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
