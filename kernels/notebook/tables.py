"""Small HTML tables, as notebooks show them. All text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

SHOWN = 10
"""Rows, and columns, that are shown of more."""

_MORE = "…"
_LONGEST = 80
"""Characters of a cell."""
_UNITS = ("B", "KiB", "MiB", "GiB")


def table(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column names the rows; without a header line where that is empty."""
    lines = [_line(row) for row in rows]
    if header:
        lines.insert(0, f"<tr>{''.join(f'<th>{_text(name)}</th>' for name in header)}</tr>")
    body = "\n".join([f"<caption>{_text(caption)}</caption>", *lines])
    return f'<table class="flashmatch">\n{body}\n</table>'


def facts(caption: str, named: Mapping[str, object]) -> str:
    """A table of two columns: what, and its value."""
    return table(caption, (), named.items())


def ranked(name: str, scores: Any, found: Any) -> str:
    """A table of the first queries and ranks: a score, and what was found.

    Args:
        name: of the result's type.
        scores, found: (Q, k) tensors or arrays. Others, and those without data, are named by their
            shape alone.
    """
    shape: tuple[int, ...] = tuple(getattr(scores, "shape", ()))
    if len(shape) != 2:
        return facts(name, {"shape": shape})
    caption = f"{name}: {shape[0]} queries, {shape[1]} ranks{_place(scores)}"
    few_scores, few = _corner(scores), _corner(found)
    if few_scores is None or few is None:
        return table(caption, (), [])
    more = shape[1] > SHOWN
    header = ["query", *range(min(shape[1], SHOWN)), *[_MORE] * more]
    rows = [
        [q, *(f"{s:.5g} ({x})" for s, x in zip(ss, xs, strict=True)), *[_MORE] * more]
        for q, (ss, xs) in enumerate(zip(few_scores, few, strict=True))
    ]
    if shape[0] > SHOWN:
        rows.append([_MORE] * len(header))
    return table(caption, header, rows)


def size(count: int) -> str:
    """Bytes as people read them."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count / 1024**power:.4g} {_UNITS[power]}"


def _line(row: Sequence[object]) -> str:
    first, *others = (_text(cell) for cell in row)
    return f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"


def _text(value: object) -> str:
    """Escaped and short; lone surrogates, which no browser can be sent, as Python writes them."""
    text = str(value)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + _MORE
    return escape(text.encode("utf-8", "backslashreplace").decode())


def _place(values: Any) -> str:
    device = getattr(values, "device", "cpu")
    return "" if str(device) == "cpu" else f", on {device}"


def _corner(values: Any) -> list[list[Any]] | None:
    """What is shown, as Python's numbers; None where there is nothing to read."""
    if isinstance(values, Tensor) and values.is_meta:
        return None
    try:
        with torch.no_grad():
            return values[:SHOWN, :SHOWN].tolist()
    except Exception:  # a tracer's tensor, say: whoever looks at one wants no traceback
        return None
