"""Processes that a test kills while they write.

A process with threads must not be forked to run torch, numba or HDF5. A lock that another thread holds would stay
locked in the child, or the child would crash. The children are therefore forked by a server that has only imported the
package.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

Write = Callable[[], Any]

PRELOADED = ["pytest", "scanpy", "scsiameseclu.cli", "scsiameseclu.model", "scsiameseclu.tl", "matplotlib.pyplot"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
"""Names of the audit events that count as steps on the file system."""


def killed_at_step(step: int, prepare: Callable[..., Write], *args: Any) -> bool:
    """Write in a child that is killed at its ``step``-th step on the file system; False if there were fewer steps."""
    return _status(_write_once, step, prepare, args) == -signal.SIGKILL


def killed_after(seconds: float, prepare: Callable[..., Write], *args: Any) -> None:
    """Write repeatedly in a child that is killed some seconds after its first writing."""
    if _status(_write_forever, seconds, prepare, args) == 0:
        raise AssertionError("Expected a child that writes until it is killed, found one that ended.")


def _status(target: Callable[..., None], when: float, prepare: Callable[..., Write], args: tuple[Any, ...]) -> int:
    """Exit status of a child: 0, or the status of a killed process."""
    context = multiprocessing.get_context("forkserver")
    _start_server(context)
    ready, signals = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r") as errors:
        child = context.Process(target=target, args=(signals, errors.name, when, prepare, args))
        child.start()
        signals.close()  # close this end, so that the end of the child is noticed
        try:
            if target is _write_forever and ready.poll(120):
                ready.recv()
                time.sleep(when)
                child.kill()
        except EOFError:
            pass  # the child ended before it was ready, which its status shows
        child.join(120)
        if child.exitcode not in (0, -signal.SIGKILL):
            child.kill()
            raise AssertionError(f"The child ended with status {child.exitcode}. It wrote:\n{errors.read()}")
        return child.exitcode


def _start_server(context: Any) -> None:
    """Start the server unless it runs already; its children inherit its environment."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        context.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _write_once(signals: Connection, errors: str, step: float, prepare: Callable[..., Write], args: Any) -> None:
    write = _prepared(errors, prepare, args)
    left = [step]

    def hook(event: str, _: Any) -> None:
        if event in STEPS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write()
    os._exit(0)


def _write_forever(signals: Connection, errors: str, _: float, prepare: Callable[..., Write], args: Any) -> None:
    write = _prepared(errors, prepare, args)
    write()  # the first writing imports the modules that it needs
    signals.send("ready")
    while True:
        write()


def _prepared(errors: str, prepare: Callable[..., Write], args: tuple[Any, ...]) -> Write:
    """Redirect the standard error of the child to a file, and prepare the writing."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
    faulthandler.enable()
    return prepare(*args)
