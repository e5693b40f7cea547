"""Ledger rows as a Markdown table: what agrees, how long it took, how far from the limit."""

from collections.abc import Iterable, Sequence

from ledger import LIMIT, Row, exact_share

HEAD = ("provider", "agreement", "median ms", "p25 to p75", "peak MiB", "over limit", "status")


def table(rows: Iterable[Row]) -> str:
    """One table of the rows of one shape."""
    return markdown(HEAD, [_cells(row) for row in rows])


def summary(rows: Sequence[Row]) -> str:
    """One line per shape: our best, the fastest of the others, the fastest that answers right."""
    lines = []
    for key in dict.fromkeys(map(_shape, rows)):
        timed = [row for row in rows if _shape(row) == key and row.median_ms is not None]
        ours = min((row for row in timed if _is_ours(row)), key=_time, default=None)
        others = sorted((row for row in timed if is_peer(row)), key=_time)
        right = [row for row in others if row.agreement == 1]
        if ours:
            lines.append((key, short(ours), _beside(ours, others[:1]), _beside(ours, right[:1])))
    head = ("shape", "flashmatch: ms (agreement)", "fastest other", "fastest that agrees")
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


def _beside(ours: Row, others: Sequence[Row]) -> str:
    return "".join(f"{short(row)}: {_time(row) / _time(ours):.2f} x" for row in others)


def short(row: Row) -> str:
    return f"{row.provider} {_number(row.median_ms)} ({exact_share(row.agreement or 0.0)})"


def _shape(row: Row) -> str:
    return f"{row.Q} x {row.M} x {row.C}, k={row.k}, {row.metric}, {row.dtype}"


def is_peer(row: Row) -> bool:
    return not _is_ours(row) and row.status != LIMIT


def _is_ours(row: Row) -> bool:
    return row.provider.startswith("flashmatch")


def _time(row: Row) -> float:
    return row.median_ms or 0.0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
