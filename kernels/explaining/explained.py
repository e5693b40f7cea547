"""A search of a bank, looked at while it runs."""

import time
from collections.abc import Callable
from statistics import median

from torch import Tensor

from ..concurrency.fit_thread import in_fit_thread
from ..concurrency.workers import alone
from ..contract.chunks import Rows
from ..contract.matches import Found
from ..contract.request import Request
from ..dispatch import found_in_bank, why_no_triton
from ..storage.prepared import Prepared
from .explanation import Explanation, Stage
from .rates import bytes_per_second, multiplications_per_second
from .stage_clock import RESCORE, SCREEN, StageClock

_LEAST, _MOST, _SECONDS = 3, 25, 0.5
"""Searches that are timed: at least, at most, and for about how long."""


def explained(bank: Prepared, queries: Tensor, request: Request) -> Explanation:
    """What a search of this bank takes. It is done several times, and not counted by the bank."""
    tensors = [queries, *bank.collection.rows.chunks]
    return in_fit_thread(tensors, _explained, bank, queries, request)


def _explained(bank: Prepared, queries: Tensor, request: Request) -> Explanation:
    device, rows = bank.collection.device, bank.collection.rows

    def search() -> Found:
        found = found_in_bank(bank, queries, request)
        found.scores.cpu()  # when the device is done
        return found

    with alone():
        found = search()  # which also prepares what is prepared once
        seconds, clock = _median_seconds(search), StageClock()
        clock.timed(search)
    on_cpu = device.type == "cpu"
    read = found.rescored * rows.channels * rows.dtype.itemsize if on_cpu else 0
    stages = [Stage("search", seconds, None)]
    if on_cpu:
        predicted = _predicted(clock.screens, queries, rows, found.screened, read)
        scale = seconds / sum(clock.seconds.values())  # looking on takes time, too
        stages = [
            Stage(name, own * scale, predicted.get(name)) for name, own in clock.seconds.items()
        ]
    return Explanation(
        queries=len(queries),
        prototypes=len(bank.collection),
        channels=rows.channels,
        k=request.k,
        backend="torch" if why_no_triton(device) else "triton",
        screens=tuple(clock.screens) if on_cpu else (bank.coder.screen,),
        survivors=found.rescored / len(queries) if on_cpu else None,
        repaired=int(found.repaired),
        bytes_screened=found.screened,
        bytes_rescored=read,
        seconds=seconds,
        stages=tuple(stages),
    )


def _predicted(
    screens: list[str], queries: Tensor, rows: Rows, screened: int, rescored: int
) -> dict[str, float]:
    """Seconds of the first of ``screens``, and of reading so many bytes."""
    reads, count = bytes_per_second(), len(queries)
    predicted = {RESCORE: rescored / reads}
    if screens:  # none, where no query may match
        products = multiplications_per_second(screens[0], count, rows.channels)
        predicted[SCREEN] = max(count * len(rows) * rows.channels / products, screened / reads)
    return predicted


def _median_seconds(call: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < _LEAST or (len(times) < _MOST and sum(times) < _SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)
