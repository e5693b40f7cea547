"""Ledger rows as a Markdown table: what agrees, how long it took, how far from the limit."""

from collections.abc import Iterable, Sequence

from .ledger import LIMIT, Row, by_shape, exact_share

NEARLY = 0.99  # of the places: fp32 sums in another order, not another search
HEAD = ("provider", "agreement", "median ms", "p25 to p75", "peak MiB", "over limit", "status")


def table(rows: Iterable[Row]) -> str:
    """One table of the rows of one shape."""
    return markdown(HEAD, [_cells(row) for row in rows])


def summary(rows: Sequence[Row]) -> str:
    """One line per shape: our best, the fastest of the others, the fastest that answers right."""
    lines = []
    for shape, found in by_shape(rows).items():
        timed = [row for row in found.values() if row.median_ms is not None]
        ours = min(filter(is_ours, timed), key=median, default=None)
        others = sorted(filter(is_peer, timed), key=median)
        right = [row for row in others if row.agreement == 1]
        if ours:
            lines.append(
                (str(shape), short(ours), _beside(ours, others[:1]), _beside(ours, right[:1]))
            )
    head = ("shape", "flashmatch: ms (agreement)", "fastest other", "fastest that agrees")
    return markdown(head, lines)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(map(line, (head, ["---"] * len(head), *lines)))


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.p25 is None else f"{number(row.p25)} to {number(row.p75)}"
    return (
        row.provider,
        "" if row.agreement is None else exact_share(row.agreement),
        number(row.median_ms),
        spread,
        number(row.peak_mib),
        number(row.over_limit),
        row.status,
    )


def _beside(ours: Row, others: Sequence[Row]) -> str:
    return "".join(f"{short(row)}: {median(row) / median(ours):.2f} x" for row in others)


def short(row: Row) -> str:
    return f"{row.provider} {number(row.median_ms)} ({exact_share(row.agreement or 0.0)})"


def is_peer(row: Row) -> bool:
    return not is_ours(row) and row.status != LIMIT


def is_ours(row: Row) -> bool:
    return row.provider.startswith("flashmatch")


def is_nearly_right(row: Row) -> bool:
    return (row.agreement or 0) >= NEARLY


def median(row: Row) -> float:
    """For rows that were timed."""
    return row.median_ms or 0.0


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
