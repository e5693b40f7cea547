"""What torch and NumPy hold while something runs, threads of workers included."""

import bisect
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashmatch.kernels.storage import operands
from flashmatch.kernels.torch_backend.cpu import shares

_TASK = "a worker's task"


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that torch's CPU allocator and NumPy held beyond what they held before ``call``.

    At least that: the peaks of both are added. torch counts for one thread only, so tasks for
    workers run here, one after another, and count as if all workers were where the largest peaks.
    """
    in_tasks, numpy_in_tasks = [], []

    def one_by_one(tasks: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
        workers, results = min(workers, len(tasks)), []
        for task in tasks:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with torch.profiler.record_function(_TASK):
                results.append(task())
            numpy_in_tasks.append(workers * (tracemalloc.get_traced_memory()[1] - before) + before)
            in_tasks.append(workers)
        return results

    with _profiled():
        pass  # what the first one imports is no memory of the call's
    with pytest.MonkeyPatch.context() as patch, _profiled() as profile, _Traced():
        patch.setattr(shares, "in_workers", one_by_one)
        patch.setattr(operands, "in_workers", one_by_one)
        call()
        by_numpy = max([tracemalloc.get_traced_memory()[1], *numpy_in_tasks])
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    profile.profiler = None  # it refers to itself, so that gigabytes would wait for a collection
    memory = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    assert memory
    times = [at for at, _ in memory]
    held = [0, *accumulate(nbytes for _, nbytes in memory)]
    peaks = [max(held)]
    tasks = [event for event in events if event.name() == _TASK]
    for task, workers in zip(tasks, in_tasks, strict=True):
        first = bisect.bisect_left(times, task.start_ns())
        last = bisect.bisect_right(times, task.end_ns())
        peaks.append(held[first] + workers * (max(held[first : last + 1]) - held[first]))
    return max(peaks) + by_numpy


def _profiled() -> torch.profiler.profile:
    return torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )


class _Traced:
    """tracemalloc, which NumPy tells of its arrays, while this lasts."""

    def __enter__(self) -> None:
        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


class LargestResult(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return out
