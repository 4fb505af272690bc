"""Threads: how many the user allows, and blocks of cells on several of them, with results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 1024

MAX_THREADS = 16
"""More threads wait for memory, and every one holds a block of cells."""


def thread_limit() -> int:
    """Threads that the user allows: by ``OMP_NUM_THREADS``, :func:`torch.set_num_threads` or threadpoolctl.

    When the parallel code of numba (scanpy, pynndescent, umap) runs for the first time in a process, it sets the OpenMP
    pool of the calling thread, which is torch's, to all cores. A new thread has a pool of its own, of the size that was
    asked for.
    """
    return min(torch.get_num_threads(), _in_new_thread(torch.get_num_threads))


@contextmanager
def within_thread_limit() -> Iterator[None]:
    """Keep OpenMP (torch, scikit-learn) and BLAS within :func:`thread_limit` in this block, and as before after it.

    Works as a decorator as well.
    """
    limit = thread_limit()
    controller = ThreadpoolController()
    limits: dict[str, int] = {}
    for pool in controller.info():  # several libraries may share one name
        limits[pool["prefix"]] = min(pool["num_threads"], limits.get(pool["prefix"], limit))
    with controller.limit(limits=limits):
        yield


@contextmanager
def numba_within_thread_limit() -> Iterator[None]:
    """Keep the parallel code of numba within :func:`thread_limit` in this block, and torch as it is.

    Works as a decorator as well. A lower limit, by ``numba.set_num_threads``, holds.
    """
    import numba  # late: takes half a second, and small data do without

    limit = thread_limit()
    _in_new_thread(numba.get_num_threads)  # starts the threads of numba, whose number becomes that of the caller's pool
    before = numba.get_num_threads()
    numba.set_num_threads(min(before, limit))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _in_new_thread(function: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_most: int = MAX_THREADS
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item in order, computed on as many threads as :func:`thread_limit` allows.

    numpy and scipy.sparse release Python's lock while they compute, so blocks of cells run side by side. Items are
    drawn by the calling thread, which may therefore read them from a file, and only a few blocks ahead: memory does not
    grow with their number. Since results come in order, sums of them do not depend on the number of threads.

    Parameters
    ----------
    function
        Works on one item; must not share state with other calls.
    items
        Anything iterable.
    at_most
        Threads at most.
    """
    n_threads = min(thread_limit(), at_most)
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def row_slices(n_rows: int) -> list[slice]:
    """Blocks of rows."""
    return [slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK)]
