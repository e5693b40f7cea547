"""Searches where processors are busy, beside torch's own product and topk under the same load.

Two loads: loops that never rest, a process each, beside a search with as many threads as torch
takes; and a search with two threads that have one processor. Answers are gated before there is a
load. Samples are in turns, and long, so that each waits for a processor as often as its rival.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from measuring import ledger
from measuring.gate import agreement, truth
from measuring.links import ROOT
from measuring.ratios import ratio
from measuring.shapes import Shape, make
from measuring.table import line, markdown, number
from measuring.timing import Timing, interleave, seconds_of, within
from providers.ours import BANK, TOPK
from providers.registry import PROVIDERS

from .bars import BEFORE, HELD, MISSED, RAW

CPU = torch.device("cpu")
SHAPES = (Shape(1, 65536, 512), Shape(64, 200_000, 512), Shape(16, 1000, 128))
PAIRS = ((BANK, BEFORE), (TOPK, RAW))  # ours, and torch's that is given the same
OVER = 1.5  # times what torch takes, at most
SAMPLES, SAMPLE_SECONDS = 7, 50e-3
THREADS = 2  # on one processor
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")  # they decide how threads wait
LOOP = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):  # not beyond the benchmark's end, however it ends
    for _ in range(10**6):
        pass
"""
HEAD = ("load", "Q x M x C, k", "search", "ms", "torch: ms", "times torch's", "bar", "")


@dataclass(frozen=True)
class Beside:
    """One of ours beside its rival, under one load."""

    load: str
    shape: Shape
    search: str
    ours: Timing
    torch: Timing
    exact: bool

    @property
    def verdict(self) -> str:
        if not self.exact:
            return f"{MISSED}: not exact"
        return HELD if ratio(self.ours, self.torch).median <= OVER else MISSED

    def cells(self) -> tuple[str, ...]:
        return (
            self.load,
            self.shape.title,
            self.search,
            number(self.ours.median_ms),
            number(self.torch.median_ms),
            str(ratio(self.ours, self.torch)),
            f"<= {OVER:g}",
            self.verdict,
        )


def run(loops: int, shapes: Sequence[Shape], minutes: float) -> int:
    """Print the table, line by line; 1 where an answer of ours is wrong."""
    waits = "".join(f", {name}={os.environ[name]}" for name in WAITS if name in os.environ)
    print(
        f"{ledger.device_name(CPU)}, torch {torch.__version__}, commit {ledger.commit()}{waits}\n"
    )
    print(markdown(HEAD, ()), flush=True)
    beside = f"beside {loops} busy loop{'s' if loops != 1 else ''}"
    status = print_all(beside, loops, shapes, minutes / 2)
    if not hasattr(os, "sched_setaffinity"):
        print("\nthreads cannot be held to one processor here; not measured", flush=True)
        return status
    # Torch's threads ask how many processors they have when it is loaded: a process is held first.
    hold = partial(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))})
    texts = ["--minutes", str(minutes / 2), "--shapes", *map(str, shapes)]
    command = [sys.executable, str(ROOT / "bench"), "busy", "--held", *texts]
    return subprocess.run(command, preexec_fn=hold).returncode or status


def run_held(shapes: Sequence[Shape], minutes: float) -> int:
    """The lines of a process that is held to one processor."""
    torch.set_num_threads(THREADS)
    return print_all(f"{THREADS} threads on one processor", 0, shapes, minutes)


def print_all(load: str, loops: int, shapes: Sequence[Shape], minutes: float) -> int:
    found = []
    for shape in within(minutes, shapes):
        for beside in compare(load, loops, shape):
            found.append(beside)
            print(line(beside.cells()), flush=True)
    return 0 if all(beside.exact for beside in found) else 1


def compare(load: str, loops: int, shape: Shape) -> list[Beside]:
    """Both of ours with their rivals, all in turns."""
    queries, prototypes = make(shape, CPU)
    right = truth(queries, prototypes, shape.k, shape.metric)
    calls: dict[str, Callable[[], object]] = {}
    exact: dict[str, bool] = {}
    for provider in PROVIDERS:
        if provider.name in (name for pair in PAIRS for name in pair):
            search = provider.prepare(prototypes, shape)
            exact[provider.name] = agreement(right, search(queries)[1]) == 1
            calls[provider.name] = partial(search, queries)
    estimates = {name: min(seconds_of(call, CPU) for _ in range(2)) for name, call in calls.items()}
    clocks = {name: partial(seconds_of, call, CPU) for name, call in calls.items()}
    with busy(loops):
        timings, failures = interleave(clocks, estimates, 0, SAMPLES, sample=SAMPLE_SECONDS)
    for failure in failures.values():
        raise failure
    return [
        Beside(load, shape, ours, timings[ours], timings[theirs], exact[ours])
        for ours, theirs in PAIRS
    ]


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that never rest, each of which has begun."""
    command = [sys.executable, "-I", "-c", LOOP, str(os.getpid())]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(loops)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()
