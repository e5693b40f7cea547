"""How fast a bank has to be: so much faster than the best peer, so near to the products alone.

A peer counts with its answer nearly right, though ours has to be right in every place. Ratios are
of medians from one run.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from measuring.ledger import Row, by_shape
from measuring.ratios import ratio
from measuring.shapes import Shape
from measuring.table import is_nearly_right, is_peer, markdown, median, short
from providers.limits import CHUNK_BY_CHUNK, ONE_CALL
from providers.ours import BANK


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
    "shape", "ms (agreement)", "best peer", "times faster", "bar", "",
    "products, one call", "chunk by chunk", "bar", "",
)  # fmt: skip


def report(rows: Iterable[Row]) -> str:
    """Every bar whose shape was measured, as a Markdown table; empty where none was."""
    timed = by_shape(rows)
    lines = [line(bar, timed[bar.shape]) for bar in BARS if bar.shape in timed]
    return f"\n{markdown(HEAD, lines)}" if lines else ""


def line(bar: Bar, rows: dict[str, Row]) -> tuple[str, ...]:
    """One bar: both ratios, and whether each holds."""
    bank = rows.get(BANK)
    if bank is None or bank.median_ms is None:
        why = bank.status if bank else "not measured"
        return (str(bar.shape), why, *[""] * (len(HEAD) - 2))
    peer = min(filter(_counts, rows.values()), key=median, default=None)
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
    return is_peer(row) and row.median_ms is not None and is_nearly_right(row)
