"""How fast a bank has to be: so much faster than the best peer, so near to the products alone.

A peer counts with its answer nearly right, though ours has to be right in every place. Ratios are
of medians from one run; in brackets is what the quartiles leave open: the faster quartile of one
over the slower of the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ledger import Row
from limits import CHUNK_BY_CHUNK, ONE_CALL
from shapes import Shape
from table import is_peer, markdown, short

OURS = "flashmatch.PrototypeBank"
NEARLY = 0.99  # of the places: fp32 sums in another order, not another search


@dataclass(frozen=True)
class Bar:
    shape: Shape
    faster: float  # than the best peer, at least
    over: float  # times the products alone, at most


BARS = (
    Bar(Shape(1, 262144, 512), 3, 1.5),
    Bar(Shape(16, 262144, 512), 3.5, 1.8),
    Bar(Shape(256, 262144, 128), 3.5, 2.5),
    Bar(Shape(256, 262144, 768), 2.2, 2),
    Bar(Shape(1024, 131072, 512), 2.5, 1.8),
    Bar(Shape(1024, 131072, 512, k=100), 1.3, 2.5),
)
HEAD = (
    "shape",
    "ms (agreement)",
    "best peer",
    "times faster",
    "bar",
    "",
    "products, one call",
    "chunk by chunk",
    "bar",
    "",
)


@dataclass(frozen=True)
class Ratio:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(above: Row, below: Row) -> Ratio:
    """How many times the one takes what the other takes."""
    (a25, a50, a75), (b25, b50, b75) = _times(above), _times(below)
    return Ratio(a50 / b50, a25 / b75, a75 / b25)


def report(rows: Iterable[Row], ours: str = OURS) -> str:
    """Every bar whose shape was measured, as a Markdown table; empty where none was."""
    timed: dict[Shape, dict[str, Row]] = {}
    for row in rows:
        shape = Shape(row.Q, row.M, row.C, row.k, row.metric, row.dtype)
        timed.setdefault(shape, {})[row.provider] = row
    lines = [line(bar, timed[bar.shape], ours) for bar in BARS if bar.shape in timed]
    return f"\n{markdown(HEAD, lines)}" if lines else ""


def line(bar: Bar, rows: dict[str, Row], ours: str = OURS) -> tuple[str, ...]:
    """One bar: both ratios, and whether each holds."""
    bank = rows.get(ours)
    if bank is None or bank.median_ms is None:
        why = bank.status if bank else "not measured"
        return (str(bar.shape), why, *[""] * (len(HEAD) - 2))
    peer = min(filter(_counts, rows.values()), key=_median, default=None)
    faster = ratio(peer, bank) if peer else None
    limits = [rows.get(name) for name in (ONE_CALL, CHUNK_BY_CHUNK)]
    over = [ratio(bank, row) if row and row.median_ms else None for row in limits]
    most = max((r.median for r in over if r), default=None)  # over the stricter of the limits
    return (
        str(bar.shape),
        short(bank),
        short(peer) if peer else "",
        str(faster or ""),
        f">= {bar.faster:g}",
        _verdict(bank, faster and faster.median >= bar.faster),
        *(str(r or "") for r in over),
        f"<= {bar.over:g}",
        _verdict(bank, most and most <= bar.over),
    )


def _verdict(bank: Row, holds: bool | float | None) -> str:
    if bank.agreement != 1:
        return "missed: not exact"
    return "nothing to compare with" if holds is None else "held" if holds else "missed"


def _counts(row: Row) -> bool:
    return is_peer(row) and row.median_ms is not None and (row.agreement or 0) >= NEARLY


def _median(row: Row) -> float:
    return _times(row)[1]


def _times(row: Row) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, in milliseconds."""
    if row.p25 is None or row.median_ms is None or row.p75 is None:
        raise ValueError(f"{row.provider} was not timed")
    return row.p25, row.median_ms, row.p75
