"""Threads for one call, and forks that wait until such threads are gone.

Python is done with a thread before the system is. On its way out the thread frees what libraries
keep for it, MKL behind a lock. A process forked meanwhile inherits that lock locked, and waits for
it at its first matrix product, for ever: 1 of 40 to 150 forks right after a search in two threads
(AMD EPYC, 2 vCPU, torch 2.15).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_PATIENCE = 0.5
"""Seconds that a fork waits at most; 300 times on the machine above it took 0.02 to 0.4 ms."""

_ended: deque[int] = deque(maxlen=64)
"""The system's numbers of threads that Python is done with; those before are gone by now."""


@contextmanager
def fresh_threads(
    count: int, begin: Callable[[], object] | None = None
) -> Iterator[ThreadPoolExecutor]:
    """An executor of up to ``count`` threads that start anew, with ``begin``; they end with it.

    Tasks that have not begun by its end are dropped.
    """
    numbers: list[int] = []

    def begun() -> None:
        numbers.append(threading.get_native_id())
        if begin is not None:
            begin()

    executor = ThreadPoolExecutor(count, "flashmatch", begun)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        _ended.extend(numbers)


def _see_off() -> None:
    """Waits until the system is done with the threads that ended, where it tells (Linux)."""
    leaving, until = set(_ended), time.monotonic() + _PATIENCE
    while any(map(_is_there, leaving)) and time.monotonic() < until:
        time.sleep(1e-4)
    _ended.clear()


def _is_there(number: int) -> bool:
    return os.path.exists(f"/proc/self/task/{number}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_see_off)
