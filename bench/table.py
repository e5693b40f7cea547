"""Ledger rows as a Markdown table: what agrees, how long it took, how far from the limit."""

from collections.abc import Iterable, Sequence

from ledger import Row, exact_share

HEAD = ("provider", "agreement", "median ms", "p25 to p75", "peak MiB", "over limit", "status")


def table(rows: Iterable[Row]) -> str:
    """One table of the rows of one shape."""
    return markdown(HEAD, [_cells(row) for row in rows])


def summary(rows: Sequence[Row]) -> str:
    """One line per shape: flashmatch's best, the best of the others, and their ratio."""
    lines = []
    for key in dict.fromkeys(map(_shape, rows)):
        timed = [row for row in rows if _shape(row) == key and row.median_ms is not None]
        ours = min((r for r in timed if _is_ours(r)), key=_time, default=None)
        best = min((r for r in timed if not _is_ours(r)), key=_time, default=None)
        if ours and best:
            ratio = f"{_time(best) / _time(ours):.2f}"
            lines.append((key, _short(ours), _short(best), ratio))
    head = ("shape", "flashmatch ms (agreement)", "best other ms (agreement)", "times faster")
    return markdown(head, lines)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def _cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.p25 is None else f"{_number(row.p25)} to {_number(row.p75)}"
    return (
        row.provider,
        "" if row.agreement is None else exact_share(row.agreement),
        _number(row.median_ms),
        spread,
        _number(row.peak_mib),
        _number(row.over_limit),
        row.status,
    )


def _short(row: Row) -> str:
    return f"{row.provider} {_number(row.median_ms)} ({exact_share(row.agreement or 0.0)})"


def _shape(row: Row) -> str:
    return f"{row.Q} x {row.M} x {row.C}, k={row.k}, {row.metric}, {row.dtype}"


def _is_ours(row: Row) -> bool:
    return row.provider.startswith("flashmatch")


def _time(row: Row) -> float:
    return row.median_ms or 0.0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
