"""Number of threads that the user allows, and computation of blocks of cells on several threads."""

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
"""Largest number of threads. More threads are not faster, because they wait for memory, and each holds a block."""


def thread_limit() -> int:
    """Number of threads that the user allows by ``OMP_NUM_THREADS``, :func:`torch.set_num_threads` or threadpoolctl.

    When parallel code of numba (scanpy, pynndescent, umap) runs for the first time in a process, numba sets the OpenMP
    pool of the calling thread to all cores. Torch uses the same pool. The number is therefore also read in a new
    thread, whose pool still has the size that the user chose.
    """
    return min(torch.get_num_threads(), _in_new_thread(torch.get_num_threads))


@contextmanager
def within_thread_limit() -> Iterator[None]:
    """Limit the threads of OpenMP (torch, scikit-learn) and BLAS to :func:`thread_limit` during a ``with`` block.

    The previous numbers of threads are restored after the block. The function is also a decorator.
    """
    limit = thread_limit()
    controller = ThreadpoolController()
    limits: dict[str, int] = {}
    for pool in controller.info():  # several thread pools may have the same prefix
        limits[pool["prefix"]] = min(pool["num_threads"], limits.get(pool["prefix"], limit))
    with controller.limit(limits=limits):
        yield


@contextmanager
def numba_within_thread_limit() -> Iterator[None]:
    """Limit the threads of numba to :func:`thread_limit` during a ``with`` block.

    The threads of torch are not changed. A lower limit that was set by ``numba.set_num_threads`` stays valid. The
    function is also a decorator.
    """
    import numba  # imported only when needed, because the import takes half a second

    limit = thread_limit()
    # The first call starts the threads of numba, which changes the OpenMP pool of the calling thread. A new thread
    # makes this call, so the pool of the present thread does not change.
    _in_new_thread(numba.get_num_threads)
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

    numpy and scipy.sparse release the global lock of Python (GIL) while they compute, so several blocks of cells are
    processed at the same time. Only the calling thread iterates over the items, so the items may be read from a file.
    Only a few items are read ahead, so memory does not grow with the number of items. Results are returned in the order
    of the items, so sums of the results do not depend on the number of threads.

    Parameters
    ----------
    function
        Function of one item. Calls of the function must not share state.
    items
        Items to process.
    at_most
        Largest number of threads.
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
    """Divide rows into blocks of at most 1,024 rows."""
    return [slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK)]
