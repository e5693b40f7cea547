"""Plain tables, as a terminal shows them."""

from collections.abc import Sequence

from .compare import Comparison, Row

_NOTHING = "-"


def comparison_cells(comparison: Comparison) -> list[list[str]]:
    """A header and one row of text for each way of searching."""
    header = ["", "time", "fastest", "added memory", "matches as fp64", "scores"]
    return [header, *(_cells(row) for row in comparison.rows)]


def _cells(row: Row) -> list[str]:
    if row.milliseconds is None:
        return [row.name, _NOTHING, _NOTHING, row.remark, _NOTHING, _NOTHING]
    return [
        row.name,
        f"{row.milliseconds:,.1f} ms",
        _NOTHING if row.fastest is None else f"{row.fastest:,.1f} ms",
        _NOTHING if row.peak_mib is None else f"{row.peak_mib:,.1f} MiB",
        *(_NOTHING if part is None else share(part) for part in (row.agreement, row.scores)),
    ]


def share(part: float) -> str:
    """A share as a percentage that says 100 % only where nothing is missing."""
    text = f"{100 * part:.1f}"
    return f"{'99.9' if text == '100.0' and part < 1 else text} %"


def align(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Columns of text, the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent
        + "   ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
