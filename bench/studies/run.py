"""One shape, every provider: answer first, then time, and a row for each whatever happens."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from measuring import ledger
from measuring.gate import Truth, agreement, truth
from measuring.ledger import LIMIT, Row, described, version_of
from measuring.memory import peak_mib
from measuring.shapes import Shape, make
from measuring.timing import (
    SAMPLE_SECONDS,
    Timing,
    calls_within,
    interleave,
    seconds_of,
    summarise,
    within,
)
from providers.provider import Product, Provider, Search, Unsupported

from .roofline import Roofline

SLOW_SECONDS = 2.5
SHORT_SECONDS = 0.2  # below, looking at memory takes a noticeable part of the time


@dataclass
class Entry:
    """What becomes known of one provider on one shape."""

    provider: Provider
    search: Search | Product | None = None
    estimate: float = 0.0
    peak: float | None = None
    agreement: float | None = None
    timing: Timing | None = None
    status: str = "ok"


@dataclass
class Bench:
    device: torch.device
    providers: Sequence[Provider]
    budget: float = 1.0  # seconds of timed calls per provider and shape
    least: int = 3  # timed calls, of those that are not slow
    sample: float = SAMPLE_SECONDS  # shorter calls are repeated within a sample
    slow: float = SLOW_SECONDS  # a search that takes more is timed once
    rooflines: Roofline = field(init=False)

    def __post_init__(self) -> None:
        self.rooflines = Roofline(self.device)

    def rows(self, shape: Shape) -> list[Row]:
        queries, prototypes = make(shape, self.device)
        limit = self.rooflines.limit_ms(shape, queries, prototypes)
        right = truth(queries, prototypes, shape.k, shape.metric)
        entries = [self._gated(p, shape, queries, prototypes, right) for p in self.providers]
        self._time([e for e in entries if e.search and not e.timing], queries)
        rows = [self._row(entry, shape, limit, len(right.checked)) for entry in entries]
        del entries, queries, prototypes
        gc.collect()
        torch.cuda.empty_cache()
        return rows

    def _gated(
        self, provider: Provider, shape: Shape, queries: Tensor, prototypes: Tensor, right: Truth
    ) -> Entry:
        """Prepare, search once, compare; once more for memory and a first idea of the time."""
        entry = Entry(provider)
        try:
            search = provider.prepare(prototypes, shape)
            self._watch(entry, lambda: self._judge(entry, search(queries), right))
            if self.device.type == "cuda" or entry.estimate <= self.slow:
                self._watch(entry, lambda: search(queries))  # warm: imported, compiled
            if entry.estimate < SHORT_SECONDS:
                entry.estimate = self._estimate(lambda: search(queries))
            if entry.estimate > self.slow:
                entry.timing = summarise([entry.estimate])  # and that is its one sample
            entry.search = search
        except Unsupported as reason:
            entry.status = f"skipped: {reason}"
        except Exception as error:  # one provider's trouble is a row, not the end of the run
            entry.status = described(error)
        return entry

    def _estimate(self, call: Callable[[], object]) -> float:
        """Of a short call more than one tells: the first are slower than those that are timed."""
        seconds = seconds_of(call, self.device)
        calls = calls_within(self.sample, seconds)
        return seconds if calls == 1 else seconds_of(call, self.device, calls)

    def _watch(self, entry: Entry, call: Callable[[], object]) -> None:
        """Peak memory and a first idea of the time, from one call."""
        start = time.perf_counter()
        peak = peak_mib(call, self.device)
        seen = self.device.type == "cpu" or entry.provider.counted_by_torch
        entry.peak = peak if seen else None
        entry.estimate = time.perf_counter() - start

    def _judge(self, entry: Entry, found: tuple[Tensor, Tensor] | Tensor, right: Truth) -> None:
        if entry.provider.answers:
            entry.agreement = agreement(right, found[1])
        else:
            entry.status = LIMIT

    def _time(self, entries: list[Entry], queries: Tensor) -> None:
        def clock(search: Search | Product) -> Callable[[int], float]:
            def seconds(calls: int) -> float:
                if calls > 1:  # short ones: the caches, and the threads, were another's
                    search(queries)
                return seconds_of(lambda: search(queries), self.device, calls)

            return seconds

        timings, failures = interleave(
            {e.provider.name: clock(e.search) for e in entries if e.search},
            {e.provider.name: e.estimate for e in entries},
            self.budget,
            self.least,
            sample=self.sample,
        )
        for entry in entries:
            entry.timing = timings.get(entry.provider.name)
            if entry.provider.name in failures:
                entry.status = described(failures[entry.provider.name])

    def _row(self, entry: Entry, shape: Shape, limit: float, checked: int) -> Row:
        timing = entry.timing
        return Row(
            provider=entry.provider.name,
            version=version_of(*entry.provider.distributions),
            **asdict(shape),
            median_ms=timing and timing.median_ms,
            p25=timing and timing.p25,
            p75=timing and timing.p75,
            repeats=timing.repeats if timing else 0,
            peak_mib=entry.peak,
            agreement=entry.agreement,
            checked=checked,
            limit_ms=limit,
            over_limit=timing and timing.median_ms / limit,
            **ledger.origin(self.device),
            triton=version_of("triton"),
            status=entry.status,
        )


def run(bench: Bench, shapes: Sequence[Shape], minutes: float) -> Iterator[tuple[Shape, list[Row]]]:
    """The rows of each shape that can be begun within ``minutes``."""
    for shape in within(minutes, shapes):
        yield shape, bench.rows(shape)
