"""Time and memory of searches, fairly: one process, the same data, interleaved repeats."""

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from memory import MIB, reset_resident_peak, resident_kib

SAMPLE_SECONDS = 2e-3  # shorter calls are repeated within a sample, out of the clock's noise


@dataclass(frozen=True)
class Timing:
    median_ms: float
    p25: float
    p75: float
    repeats: int


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Memory that one call adds at its worst, results included; None where nobody counts it.

    On CUDA only what torch allocates is seen.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    if not reset_resident_peak():
        call()
        return None
    before = resident_kib("VmRSS")
    call()
    return max(0, resident_kib("VmHWM") - before) / 1024


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Mean wall-clock seconds of ``calls`` calls in a row, device work included."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def interleave(
    searches: Mapping[str, Callable[[], object]],
    estimates: Mapping[str, float],
    device: torch.device,
    budget: float,
    least: int = 3,
    most: int = 30,
) -> tuple[dict[str, Timing], dict[str, Exception]]:
    """Time already warm searches in turns, so that what slows the machine slows them all.

    Each gets ``budget`` seconds by its own estimate, at least ``least`` samples and at most
    ``most``; those with few are spread over the turns of those with many.
    """
    rounds = {
        name: max(least, min(most, int(budget / max(t, SAMPLE_SECONDS))))
        for name, t in estimates.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in searches}
    failures: dict[str, Exception] = {}
    order = list(searches)
    gc.collect()
    gc.disable()
    try:
        turns = max(rounds.values(), default=0)
        for turn in range(turns):
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                due = (turn + 1) * rounds[name] // turns > turn * rounds[name] // turns
                if not due or name in failures:
                    continue
                calls = max(1, round(SAMPLE_SECONDS / max(estimates[name], 1e-6)))
                try:
                    samples[name].append(seconds_of(searches[name], device, calls))
                except Exception as error:
                    failures[name] = error
    finally:
        gc.enable()
    timings = {name: summarise(samples[name]) for name in searches if name not in failures}
    return timings, failures


def summarise(seconds: list[float]) -> Timing:
    ms = [1e3 * s for s in seconds]
    p25, _, p75 = quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else ms * 3
    return Timing(median(ms), p25, p75, len(ms))
