"""Which codes a collection has, if any: made, extended, closed, state by state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codes.frame import fitted_frame
from ..codes.layout import Layout
from ..codes.pages import Codes
from ..notebook.bars import bar, is_watched
from .clean_rows import cleaned, is_in_range
from .collection import Collection

SCREENS = ("auto", "int8", "float")

_STEP_ELEMENTS = 1 << 23
"""Elements coded at a time: 32 MiB in fp32."""

_SAMPLE = 2048
"""Rows that a frame is fitted to; with fewer, it is fitted anew when there are four times more."""


@dataclass(frozen=True)
class Coder:
    """How the rows of a collection are coded, and their codes. Never changes."""

    metric: str
    asked: str
    """The screen the caller asked for, one of SCREENS."""
    layout: Layout | None
    """None where the screen is float."""
    codes: Codes | None = None
    fitted_on: int = 0
    """How many rows there were when the frame was fitted."""
    too_large: bool = False
    """Whether the screen is float because of norms that codes cannot have."""

    @property
    def screen(self) -> str:
        return "float" if self.layout is None else "int8"

    @property
    def product(self) -> str:
        """That of codes by torch, or nothing where there are none."""
        return "" if self.codes is None else self.codes.held.product

    @property
    def nbytes(self) -> int:
        return 0 if self.codes is None else self.codes.nbytes

    def coded(
        self, collection: Collection, start: int, exclude: bool, progress: bool | None
    ) -> tuple[Collection, "Coder"]:
        """With codes of the rows from ``start`` on, too; with ``start`` 0 of all, anew.

        The collection then excludes those that are not finite. Raises ValueError at such unless
        ``exclude``.
        """
        rows, device = collection.rows, collection.device
        new, first = self._with_room(collection, start)
        codes, excluded = new.codes, []
        with _bar(len(rows) - first, progress) as advance:
            for part, at, stop in steps(codes, first, len(rows), rows.channels):
                vectors, norms, bad = cleaned(rows, at, stop, device, exclude)
                if bad is not None:
                    excluded.append(bad.nonzero()[:, 0] + at)
                if part is None or not is_in_range(norms):
                    codes = None  # the others, too, are looked at for what is not finite
                elif codes is not None:
                    part.write((at - part.first_row) // part.layout.span, vectors, norms)
                advance(stop - at)
        if excluded:
            collection = collection.excluding(torch.cat(excluded))
        if codes is None:
            too_large = new.layout is not None or new.too_large
            return collection, replace(new, layout=None, codes=None, too_large=too_large)
        matchable = collection.matchable()
        if matchable is not None:
            for part in codes.parts:
                fresh = max(first - part.first_row, 0) // part.layout.span
                pages = torch.arange(fresh, part.pages, device=device)
                part.close(pages, matchable[part.first_row :])
        return collection, new

    def closed(self, rows: Tensor, collection: Collection) -> "Coder":
        """With codes that match no more where ``rows`` are no longer in the collection."""
        matchable = collection.matchable()
        if self.codes is None or matchable is None:
            return self
        return replace(self, codes=self.codes.closed(rows, matchable))

    def _with_room(self, collection: Collection, start: int) -> tuple["Coder", int]:
        """With room for the codes of all rows, and the first of those that are not in it yet."""
        rows = collection.rows
        if self.layout is None:
            return self, start
        few = self.fitted_on < min(_SAMPLE, len(rows) // 4 + 1)
        if self.codes is None or start == 0 or few:
            frame = fitted_frame(rows.sample(_SAMPLE, collection.device), self.metric)
            codes = Codes(frame, self.layout, len(rows), rows.channels)
            return replace(self, codes=codes, fitted_on=len(rows)), 0
        kept, whole = (count // self.layout.span for count in (self.codes.count, len(rows)))
        if kept == 0:
            codes = Codes(self.codes.frame, self.layout, len(rows), rows.channels)
            return replace(self, codes=codes), 0
        codes, first = self.codes.extended(kept, whole - kept), whole * self.layout.span
        if first < len(rows):
            codes.tail = Codes(
                codes.frame, self.layout, len(rows) - first, rows.channels, first_row=first
            )
        return replace(self, codes=codes), kept * self.layout.span


def steps(
    codes: Codes | None, first: int, stop: int, channels: int
) -> Iterator[tuple[Codes | None, int, int]]:
    """Rows first..stop in pieces that fit in memory, each with the codes that it belongs to."""
    span = 1 if codes is None else codes.layout.span
    step = span * max(1, _STEP_ELEMENTS // (span * channels))
    if codes is not None:  # in whole packs, or they are unpacked to be continued
        step = max(step // codes.held.pack_rows, 1) * codes.held.pack_rows
    for part in (None,) if codes is None else codes.parts:
        end = stop if part is None or part.tail is None else part.tail.first_row
        for at in range(first, end, step):
            yield part, at, min(at + step, end)
        first = max(first, end)


@contextmanager
def _bar(rows: int, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """What to call with the rows that are done; None shows a bar where somebody sees it."""
    if not (is_watched() if progress is None else progress):
        yield lambda count: None
        return
    how = {"unit": "row", "unit_scale": True, "delay": 2, "leave": False}
    with bar(total=rows, desc="preparing", **how) as shown:
        yield shown.update
