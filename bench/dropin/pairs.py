"""What is ours and its original in turns: the same data, the same run, the same answer.

Each of ``ORIGINALS`` is a module of this package that gives ``CASES``. It imports the original at
its top, so that where that is not installed its cases are absent, and said to be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from measuring import ledger
from measuring.timing import interleave, quartiles_of, seconds_of

ORIGINALS = (
    "embeddings",
    "faiss",
    "metrics",
    "mmpretrain",
    "sklearn",
    "calls.faiss",
    "calls.torch",
)
DEVICE = torch.device("cpu")
BUDGET = 2.0  # seconds of timed calls for either


@dataclass(frozen=True)
class Pair:
    """The two calls to compare, prepared: fitted, added, loaded."""

    original: Callable[[], object]
    ours: Callable[[], object]
    share: Callable[[Any, Any], float]  # of the two results: how much of them is equal


@dataclass(frozen=True)
class Case:
    adapter: str  # "faiss IndexFlatIP.search", or a call: "PrototypeBank.pairs beside faiss"
    distribution: str  # whose version the row has
    size: str  # "256 x 262144 x 128, k = 10"
    prepare: Callable[[], Pair]


@dataclass(frozen=True)
class Row:
    adapter: str
    version: str
    size: str
    original_ms: float
    original_p25: float
    original_p75: float
    ours_ms: float
    ours_p25: float
    ours_p75: float
    times_faster: float
    repeats: int
    equal: float  # share of the results that agree
    device: str
    torch: str
    commit: str
    date: str


def run(names: Sequence[str], results: Path | None) -> int:
    """Measure the cases whose adapter contains one of ``names``, or all; append their rows."""
    rows = []
    for case in cases():
        if not names or any(name in case.adapter for name in names):
            rows.append(measure(case))
            print(_line(rows[-1]), flush=True)
    if rows and results:
        ledger.append(rows, results, "dropin")
    unequal = [row.adapter for row in rows if row.equal < 1]
    if unequal:
        print("not equal:", *unequal, sep="\n  ")
    return 1 if unequal else 0


def cases() -> Iterator[Case]:
    for name in ORIGINALS:
        try:
            module = import_module(f"{__package__}.{name}")
        except ImportError as error:
            print(f"{name}: absent ({error})")
            continue
        yield from module.CASES


def measure(case: Case) -> Row:
    pair = case.prepare()
    share = pair.share(pair.original(), pair.ours())
    calls = {"original": pair.original, "ours": pair.ours}
    clocks = {name: partial(seconds_of, call, DEVICE) for name, call in calls.items()}
    estimates = {name: clock() for name, clock in clocks.items()}
    timings, failures = interleave(clocks, estimates, BUDGET)
    if failures:
        raise next(iter(failures.values()))
    original, ours = timings["original"], timings["ours"]
    return Row(
        adapter=case.adapter,
        version=ledger.version_of(case.distribution),
        size=case.size,
        **quartiles_of("original", original),
        **quartiles_of("ours", ours),
        times_faster=original.median_ms / ours.median_ms,
        repeats=ours.repeats,
        equal=share,
        **ledger.origin(DEVICE),
    )


def _line(row: Row) -> str:
    cells = {key: f"{v:.3g}" if isinstance(v, float) else v for key, v in asdict(row).items()}
    return (
        "{adapter} {version}, {size}: {original_ms} ms, ours {ours_ms} ms ({times_faster} times), "
        "equal {equal}"
    ).format(**cells)
