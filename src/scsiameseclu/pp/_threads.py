"""Blocks of cells on several threads, with results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 1024

MAX_THREADS = 16
"""More threads wait for memory, and every one holds a block of cells."""


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_most: int = MAX_THREADS
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in their order, computed on as many threads as torch uses on the CPU.

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
    n_threads = min(torch.get_num_threads(), at_most)
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
