"""The time of searches, fairly: the same data, samples in turns; and the time that is left."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, TypeVar

import torch

SAMPLE_SECONDS = 2e-3  # shorter calls are repeated within a sample, out of the clock's noise
OVER = "minutes are over; not measured: "  # by which a log says what was not begun
Item = TypeVar("Item")


@dataclass(frozen=True)
class Timing:
    median_ms: float
    p25: float
    p75: float
    repeats: int


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Mean wall-clock seconds of ``calls`` calls in a row, device work included."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def interleave(
    clocks: Mapping[str, Callable[[int], float]],
    estimates: Mapping[str, float],
    budget: float,
    least: int = 3,
    most: int = 30,
    sample: float = SAMPLE_SECONDS,
) -> tuple[dict[str, Timing], dict[str, Exception]]:
    """Time already warm searches in turns, so that what slows the machine slows them all.

    A clock makes as many calls in a row as it is told and gives their mean seconds. Each search
    gets ``budget`` seconds by its own estimate, at least ``least`` samples and at most ``most``;
    those with few are spread over the turns of those with many. Calls shorter than ``sample``
    seconds are repeated within one.
    """
    rounds = {
        name: max(least, min(most, int(budget / max(t, sample)))) for name, t in estimates.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in clocks}
    failures: dict[str, Exception] = {}
    order = list(clocks)
    gc.collect()
    gc.disable()
    try:
        turns = max(rounds.values(), default=0)
        for turn in range(turns):
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                due = (turn + 1) * rounds[name] // turns > turn * rounds[name] // turns
                if not due or name in failures:
                    continue
                try:
                    samples[name].append(clocks[name](calls_within(sample, estimates[name])))
                except Exception as error:
                    failures[name] = error
    finally:
        gc.enable()
    timings = {name: summarise(samples[name]) for name in clocks if name not in failures}
    return timings, failures


def calls_within(sample: float, estimate: float) -> int:
    """How many calls of ``estimate`` seconds make a sample."""
    return max(1, round(sample / max(estimate, 1e-6)))


def quartiles_of(side: str, timing: Timing | None) -> dict[str, Any]:
    """The cells of a row that has several timings."""
    return {
        f"{side}_ms": timing and timing.median_ms,
        f"{side}_p25": timing and timing.p25,
        f"{side}_p75": timing and timing.p75,
    }


def summarise(seconds: list[float]) -> Timing:
    ms = [1e3 * s for s in seconds]
    p25, _, p75 = quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else ms * 3
    return Timing(median(ms), p25, p75, len(ms))


def within(minutes: float, items: Sequence[Item]) -> Iterator[Item]:
    """The items that are asked for before the minutes are over; prints which were not."""
    end = time.monotonic() + 60 * minutes
    for i, item in enumerate(items):
        if time.monotonic() > end:
            print(f"\n{minutes:.3g} {OVER}{', '.join(map(str, items[i:]))}", flush=True)
            return
        yield item
