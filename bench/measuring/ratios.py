"""Two timings side by side: the ratio of medians, and what the quartiles leave open.

In brackets is the faster quartile of one over the slower of the other, and the reverse.
"""

from dataclasses import dataclass
from typing import Protocol


class Timed(Protocol):
    """Milliseconds, of a ledger's row or of a Timing; None where nothing was timed."""

    @property
    def median_ms(self) -> float | None: ...
    @property
    def p25(self) -> float | None: ...
    @property
    def p75(self) -> float | None: ...


@dataclass(frozen=True)
class Ratio:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(above: Timed, below: Timed) -> Ratio:
    """How many times the one takes what the other takes."""
    (a25, a50, a75), (b25, b50, b75) = _quartiles(above), _quartiles(below)
    return Ratio(a50 / b50, a25 / b75, a75 / b25)


def _quartiles(timed: Timed) -> tuple[float, float, float]:
    if timed.p25 is None or timed.median_ms is None or timed.p75 is None:
        raise ValueError(f"{timed} was not timed")
    return timed.p25, timed.median_ms, timed.p75
