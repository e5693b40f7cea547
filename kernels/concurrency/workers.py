"""Tasks shared among threads each of which works by itself, instead of each operation among all.

Threads that share every operation meet after each, and wait for the slowest: beside other programs
that is a time slice of the system's, hundreds of times a search, spent spinning. These meet once.
Where nothing else runs they are the slower way: they wait for Python's lock instead.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from .fresh_threads import fresh_threads

_Result = TypeVar("_Result")

_BUSY = 1.25
"""Threads that want to run, for each processor: this many, if a search alone is at work, is 1."""


_this_thread = threading.local()
"""``is_alone``: no workers, however busy the machine is."""


@contextmanager
def alone() -> Iterator[None]:
    """Searches of this thread have one worker, itself: nothing of them happens elsewhere."""
    before, _this_thread.is_alone = getattr(_this_thread, "is_alone", False), True
    try:
        yield
    finally:
        _this_thread.is_alone = before


def workers_for(most: int) -> int:
    """How many workers a search should have, at most ``most``: 1 unless other programs run, too.

    Told by the system's load average of a minute; where there is none, 1.
    """
    if most <= 1 or not hasattr(os, "getloadavg") or getattr(_this_thread, "is_alone", False):
        return 1
    is_busy = os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)
    return min(most, torch.get_num_threads()) if is_busy else 1


def in_workers(tasks: Sequence[Callable[[], _Result]], workers: int) -> list[_Result]:
    """What the tasks return, in their order, by so many threads at a time; gradients unrecorded.

    Each has its share of the threads that torch would use here. What a task raises is raised here,
    and those not begun by then are dropped. Starting two takes 0.12 ms (Intel Xeon, Sapphire
    Rapids).
    """
    threads = torch.get_num_threads()
    workers = min(workers, len(tasks), threads)
    if workers <= 1:
        return [task() for task in tasks]

    # What is made in inference mode can be written to in that mode alone.
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def begin() -> None:
        torch.set_num_threads(threads // workers)
        torch.set_flush_denormal(False)

    def begun(task: Callable[[], _Result]) -> _Result:
        with mode():
            return task()

    try:
        with fresh_threads(workers, begin) as executor:
            return [future.result() for future in [executor.submit(begun, task) for task in tasks]]
    finally:
        torch.set_num_threads(threads)  # of threads begun from now on; this one's never changed
