"""How fast a search has to be, on either class of machine: times as fast as its rivals, at least.

A bank's rivals have prepared the prototypes before, as it has; ``topk``'s is torch, given the same
raw vectors. Ours has to be right in every place; of several rivals the fastest counts that is
nearly right. Ratios are of medians from one run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from flashmatch.kernels.products.integers import why_not_fast
from measuring.ledger import Row, by_shape
from measuring.ratios import Ratio, ratio
from measuring.shapes import Shape
from measuring.table import exact_share, is_nearly_right, markdown, median, number, short
from measuring.timing import within
from providers.limits import CHUNK_BY_CHUNK, ONE_CALL
from providers.ours import BANK, TOPK
from providers.registry import select

from .run import Bench

CPU = torch.device("cpu")
VNNI, AVX2 = "VNNI", "AVX2"
CLASSES = {VNNI: "a CPU with VNNI", AVX2: "a CPU without VNNI", "": "no CPU: this one has none"}
RAW = "torch matmul+topk"
BEFORE = "torch matmul+topk, normalised before"
FAISS = "faiss IndexFlat"
BEST = (BEFORE, FAISS, "scikit-learn brute, normalised before", "usearch exact")
BUDGET, LEAST, SLOW = 2.0, 5, 5.0  # seconds and samples of each; what takes longer is timed once
SAMPLE_SECONDS = 10e-3
"""Of the small shapes. One search under three names in a run: within 1.4 to 4 % with these, 1.3 to
12 % with 2 ms (1 and 16 x 1,000 x 128, 32 x 1,259 x 1,280; CPU time of one thread, Xeon with VNNI).
"""


@dataclass(frozen=True)
class Bar:
    """Times as fast, at least, by class of machine; a class that is not named has no bar."""

    shape: Shape
    bank: Mapping[str, float]  # than ``rivals``
    topk: Mapping[str, float]  # than RAW
    goal: float | None = None  # of a bank, beyond its bar
    rivals: tuple[str, ...] = BEST
    beside: tuple[str, ...] = ()  # measured, and no rival
    over: float | None = None  # times the int8 products alone, a bank at most, with VNNI

    @property
    def providers(self) -> set[str]:
        """Who is measured; elsewhere than with VNNI the int8 products take seconds."""
        limits = {ONE_CALL, CHUNK_BY_CHUNK} if self.over and machine() == VNNI else set()
        return {BANK, TOPK, RAW, *self.rivals, *self.beside, *limits}


def _large(
    shape: Shape, bank: float, topk: float, vnni: float, over: float | None, goal: float = 0
) -> Bar:
    return Bar(shape, {AVX2: bank, VNNI: vnni}, {AVX2: topk}, goal, over=over)


def _neighbours(shape: Shape) -> Bar:
    """kNN, with more of k."""
    return Bar(shape, _either(0.8), _either(1), goal=1)


def _small(shape: Shape, topk: float) -> Bar:
    return Bar(shape, _either(0.8), _either(topk), goal=1, rivals=(BEFORE,), beside=(FAISS,))


def _half(shape: Shape) -> Bar:
    """Torch's rival normalises and multiplies in that dtype, and finds what that finds."""
    return Bar(shape, _either(1.2), _either(1.2), rivals=(BEFORE,))


def _either(least: float) -> dict[str, float]:
    return {AVX2: least, VNNI: least}


BARS = (
    _large(Shape(1, 262144, 512), 2, 3, 3.5, over=1.5),
    _large(Shape(16, 262144, 512), 3.5, 2, 4, over=1.8),
    _large(Shape(256, 262144, 128), 1.5, 1.5, 4, over=2.5),
    _large(Shape(256, 262144, 768), 1.3, 1.2, 3.5, over=2),
    _large(Shape(1024, 131072, 512), 1.1, 1, 2.7, over=1.8),
    _large(Shape(1024, 131072, 512, k=100), 0.9, 1, 1.4, over=2.5, goal=1),
    _large(Shape(1024, 131072, 512, k=1000), 0.7, 1, 0.8, over=None, goal=1),
    _neighbours(Shape(5000, 5000, 128, k=50)),
    _neighbours(Shape(512, 25000, 512, k=200)),
    _small(Shape(1, 1000, 128), topk=0.8),
    _small(Shape(16, 1000, 128), topk=0.8),
    _small(Shape(64, 1000, 512), topk=0.8),
    _small(Shape(32, 1259, 1280), topk=1),
    _small(Shape(1, 10000, 256), topk=1.2),
    _small(Shape(100, 10000, 64), topk=1),
    *(_half(Shape(Q, 32768, 512, dtype=d)) for d in ("bfloat16", "float16") for Q in (16, 256)),
)
HEAD = (
    "Q x M x C, k", "bank: ms (agreement)", "best, prepared before", "times as fast", "bar", "",
    "topk: ms (agreement)", "torch, raw", "times as fast", "bar", "",
)  # fmt: skip
OVER_HEAD = ("Q x M x C, k", "bank: ms (agreement)", "one call", "chunk by chunk", "bar", "")
VERDICTS = (5, 10)  # the columns
HELD, MISSED, NOTHING = "held", "missed", "nothing to compare with"


def machine() -> str:
    """The class of this machine, as torch sees it, in this process; nothing where it has no bars.

    AVX-512 without VNNI counts as AVX2.
    """
    if not why_not_fast("cpu"):
        return VNNI
    return AVX2 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else ""


def chosen(shapes: Sequence[Shape]) -> list[Bar]:
    """The bars of these shapes, or all. Raises ValueError for a shape without a bar."""
    if missing := set(shapes) - {bar.shape for bar in BARS}:
        raise ValueError(f"bench bars takes shapes that have a bar; got {min(map(str, missing))}")
    return [bar for bar in BARS if not shapes or bar.shape in shapes]


def measure(
    bars: Sequence[Bar], names: Sequence[str], minutes: float
) -> Iterator[tuple[Shape, list[Row]]]:
    """The rows of each bar that can be begun within ``minutes``, of who is concerned alone."""
    bench = Bench(CPU, (), BUDGET, LEAST, SAMPLE_SECONDS, SLOW)
    for bar in within(minutes, bars):
        bench.providers = [p for p in select(bench.device, names) if p.name in bar.providers]
        yield bar.shape, bench.rows(bar.shape)


def report(rows: Sequence[Row], where: str | None = None) -> str:
    """Every bar whose shape was measured, as Markdown, by those of the machine's class.

    Empty where no bar was measured. ``where``: a class; None = this machine's.
    """
    timed, where = by_shape(rows), machine() if where is None else where
    found = [(bar, timed[bar.shape]) for bar in BARS if bar.shape in timed]
    if not found:
        return ""
    lines = [line(bar, each, where) for bar, each in found]
    over = [over_line(bar, each) for bar, each in found if bar.over and where == VNNI]
    texts = [markdown(HEAD, lines), _caption(rows[0], lines, where)]
    if over:
        texts.append("A bank over the int8 products alone (torch._int_mm), which find nothing:")
        texts.append(markdown(OVER_HEAD, over))
    return "\n" + "\n\n".join(texts)


def _caption(row: Row, lines: Iterable[Sequence[str]], where: str) -> str:
    verdicts = [cells[i] for cells in lines for i in VERDICTS]
    missed = sum(verdict.startswith(MISSED) for verdict in verdicts)
    return (
        f"{verdicts.count(HELD)} held, {missed} missed, by the bars of {CLASSES[where]}. "
        f"{row.device}, torch {row.torch}, commit {row.commit}: medians of interleaved calls in "
        "one process, in brackets what the quartiles leave open; cosine, float32 unless said."
    )


def line(bar: Bar, rows: Mapping[str, Row], where: str) -> tuple[str, ...]:
    """One bar: both ratios, and whether each holds."""
    alone = len(bar.rivals) == 1
    rivals = [
        row
        for row in map(rows.get, bar.rivals)
        if row and row.median_ms is not None and (alone or is_nearly_right(row))
    ]
    best, raw = min(rivals, key=median, default=None), rows.get(RAW)
    least = bar.bank.get(where)
    goal = f", goal {bar.goal:g}" if least and bar.goal and least < bar.goal else ""
    return (
        bar.shape.title,
        *_side(rows.get(BANK), best, short, least, goal),
        *_side(rows.get(TOPK), raw, _ms, bar.topk.get(where)),
    )


def _side(ours: Row | None, rival: Row | None, named, least: float | None, goal: str = "") -> tuple:
    """Ours, its rival, times as fast, the bar, the verdict."""
    against = rival if rival and rival.median_ms is not None else None
    beside = named(against) if against else rival.status if rival else ""
    bar = "" if least is None else f">= {least:g}{goal}"
    if ours is None or ours.median_ms is None:
        return (ours.status if ours else "not measured", beside, "", bar, "")
    times = ratio(against, ours) if against else None
    return (_ms(ours), beside, str(times or ""), bar, _verdict(ours, times, least))


def _verdict(ours: Row, times: Ratio | None, least: float | None) -> str:
    if ours.agreement != 1:
        return f"{MISSED}: not exact"
    if least is None:
        return "no bar"
    if times is None:
        return NOTHING
    return HELD if times.median >= least else MISSED


def over_line(bar: Bar, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """A bank beside the products, all in one call and chunk by chunk; the stricter is the bar."""
    bank = rows.get(BANK)
    if bank is None or bank.median_ms is None or bar.over is None:
        return (bar.shape.title, "not measured", "", "", "", "")
    limits = [rows.get(name) for name in (ONE_CALL, CHUNK_BY_CHUNK)]
    over = [ratio(bank, row) if row and row.median_ms else None for row in limits]
    most = max((r.median for r in over if r), default=None)
    verdict = NOTHING if most is None else HELD if most <= bar.over else MISSED
    return (
        bar.shape.title,
        _ms(bank),
        *(str(r or "") for r in over),
        f"<= {bar.over:g}",
        verdict if bank.agreement == 1 else f"{MISSED}: not exact",
    )


def _ms(row: Row) -> str:
    return f"{number(row.median_ms)} ({exact_share(row.agreement or 0.0)})"
