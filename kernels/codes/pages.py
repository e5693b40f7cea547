"""Prototypes as int8 codes, and the order in which they lie.

Codes lie in pages of ``span`` rows. Within a page they are sorted by size, so that the ``group``
neighbours that share a scale and an error bound are alike, and laid out so that group g holds
positions g, g + groups, g + 2 groups, ... of its tile: its maximum is taken across contiguous
scores. ``row_in_page`` leads back from a position to the row.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..concurrency.room import Room
from ..proofs import int8, int8_scan
from .frame import Frame
from .held import HeldCodes, held_for
from .layout import Layout

_TILE_ELEMENTS = 1 << 19


class Codes:
    """Codes of ``count`` rows from ``first_row`` on, in pages, on one device.

    By position: ``held``, codes (n, width) int8 as this machine's product wants them,
    ``row_in_page`` (n,) int16, ``unmatchable`` (n,) bool.
    By group: ``bounds`` (groups, 4) fp32, of ``group_bounds``; for kernels that scan, besides,
    ``scan_terms`` (groups, 4) fp32, which they compare, and ``words`` (groups,) int32, whose bit j
    is set where member j may match. By row: ``norms`` (count,) fp32.

    Those of a bank never change once others can see them. ``parts`` are all of a bank's: whole
    pages, which the next state shares, and behind them the last page, which it codes again.
    """

    def __init__(
        self, frame: Frame, layout: Layout, capacity: int, channels: int, first_row: int = 0
    ) -> None:
        self.frame, self.layout, self.channels = frame, layout, channels
        self.first_row, self.count = first_row, 0
        self.tail: Codes | None = None
        self._allocate(-(-capacity // layout.span))
        self.held = self._empty()
        self._room = Room(len(self.bounds) // layout.groups)

    @property
    def parts(self) -> tuple["Codes", ...]:
        return (self,) if self.tail is None else (self, self.tail)

    @property
    def device(self) -> torch.device:
        return self.frame.origin.device

    @property
    def pages(self) -> int:
        """Pages in use."""
        return -(-self.count // self.layout.span)

    @property
    def nbytes(self) -> int:
        """Bytes held, spare capacity included, by all parts."""
        held = sum(part.held.nbytes for part in self.parts)
        return held + sum(tensor.nbytes for part in self.parts for tensor in part._tensors())

    @property
    def codes(self) -> Tensor:
        """(n, width) int8: a copy where codes are held otherwise."""
        return self.held.read(0, self.pages * self.layout.span)

    @property
    def width(self) -> int:
        return self.layout.width(self.channels)

    def coded_queries(self, queries: Tensor, norms: Tensor) -> int8.CodedQueries:
        """Of finite queries (Q, C) and their norms (Q,) fp64, in the codes that products take."""
        return self.frame.queries(queries, norms, self.held.largest_query_code)

    def write(self, first_page: int, rows: Tensor, norms: Tensor) -> None:
        """Code finite ``rows`` (n, C) with ``norms`` (n,) fp32 into pages from ``first_page`` on.

        What lay there is replaced, what lay behind is dropped.
        """
        span = self.layout.span
        first = first_page * span
        self.count = first + len(rows)
        self.norms[first : self.count] = norms
        step = span * max(1, _TILE_ELEMENTS // (span * self.channels))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            self._write(first_page + start // span, rows[part], norms[part])
        self.held.seal()

    def extended(self, pages: int, more: int) -> "Codes":
        """The first ``pages`` pages, which are whole, with room for ``more`` to be written.

        They are copied where somebody else has written behind them, or where there is no room.
        """
        new, total, rows = self._alike(), pages + more, pages * self.layout.span
        new.count, new.tail = pages * self.layout.span, None
        new.held = self.held.kept(rows)
        if more and (
            total > len(self.bounds) // self.layout.groups or not self._room.claim(pages, total)
        ):
            new._allocate(max(total, pages + pages // 2))
            new._room = Room(total)
            for mine, theirs in zip(
                new._in_use().values(), new._in_use(self).values(), strict=True
            ):
                mine.copy_(theirs)
            new._tell_scans(slice(0, pages))
            new.held = self.held.kept(rows, len(new.unmatchable))
        return new

    def closed(self, rows: Tensor, matchable: Tensor) -> "Codes":
        """With pages that hold ``rows`` as ``matchable`` (all rows,) bool decides."""
        span, new = self.layout.span, self._alike()
        new.unmatchable, new.words = self.unmatchable.clone(), self.words.clone()
        here = rows[(rows >= self.first_row) & (rows < self.first_row + self.count)]
        pages = torch.div(here - self.first_row, span, rounding_mode="floor").unique()
        new.close(pages.to(self.device), matchable[self.first_row :])
        new.tail = None if self.tail is None else self.tail.closed(rows, matchable)
        return new

    def matchable(self, first_page: int, last_page: int) -> Tensor:
        """(n,) bool: which rows of these pages may match."""
        span = self.layout.span
        first, stop = first_page * span, min(last_page * span, self.count)
        positions = (~self.unmatchable[first : last_page * span]).nonzero()[:, 0] + first
        matchable = torch.zeros(stop - first, dtype=torch.bool, device=self.device)
        matchable[self.rows_at(positions) - first] = True
        return matchable

    def rows_at(self, positions: Tensor) -> Tensor:
        """Rows (n,) int64 of code ``positions`` (n,) int64."""
        page = torch.div(positions, self.layout.span, rounding_mode="floor")
        return page * self.layout.span + self.row_in_page[positions]

    def close(self, pages: Tensor, matchable: Tensor) -> None:
        """Let ``matchable`` (>= count,) bool, by row, decide which codes of ``pages`` may match."""
        span = self.layout.span
        offset = torch.arange(span, device=pages.device)
        rows = (pages[:, None] * span + offset).clamp_(max=len(matchable) - 1)
        here = matchable[rows] & (pages[:, None] * span + offset < self.count)
        self.unmatchable.view(-1, span)[pages] = ~here.gather(
            1, self.row_in_page.view(-1, span)[pages].long()
        )
        self._pack_words(pages)

    def _write(self, page: int, rows: Tensor, norms: Tensor) -> None:
        span, group, groups = self.layout.span, self.layout.group, self.layout.tile_groups
        count = -(-len(rows) // span)
        vectors = self.frame.prototypes(rows, norms)
        padded = torch.nn.functional.pad
        largest = torch.maximum(vectors.amax(1), -vectors.amin(1))
        size = largest
        if self.frame.metric == "l2":  # where neighbours share a bound of -|y|^2 / 2
            size = torch.linalg.vector_norm(vectors, dim=1)
        missing = count * span - len(rows)
        rank = padded(size, (0, missing), value=torch.inf).view(count, span)
        order = rank.argsort(1).view(-1, groups, group).transpose(1, 2).reshape(count, span)
        base = torch.arange(0, count * span, span, device=rows.device)[:, None]
        source = (order + base).flatten()
        is_padding = source >= len(rows)
        if missing:
            vectors, largest = padded(vectors, (0, 0, 0, missing)), padded(largest, (0, missing))
        vectors, largest = vectors.index_select(0, source), largest[source]
        scale = int8.scale_of(largest.view(-1, group, groups).amax(1))
        by_row = scale[:, None].expand(-1, group, groups).reshape(-1)
        coded = int8.code_prototypes(
            vectors, by_row, self.frame.origin_norm, self.frame.roundings, self.frame.metric
        )
        at, at_groups = (
            slice(page * span, (page + count) * span),
            slice(page * self.layout.groups, None),
        )
        self.held.write(at.start, coded.codes)
        self.row_in_page[at], self.unmatchable[at] = order.flatten().short(), is_padding
        error, size, bias = (
            values.masked_fill(is_padding, lowest).view(-1, group, groups).amax(1).flatten()
            for values, lowest in ((coded.error, 0), (coded.size, 0), (coded.bias, -torch.inf))
        )
        bias = bias.clamp(min=-1e37)  # a group of padding
        self.bounds[at_groups][: len(scale.flatten())] = int8.group_bounds(
            scale.flatten(), error, size, bias
        )
        self._tell_scans(slice(page, page + count))

    def _tell_scans(self, pages: slice) -> None:
        if self.layout.is_scanned:
            each = self.layout.groups
            groups = slice(pages.start * each, pages.stop * each)
            self.scan_terms[groups] = int8_scan.scan_terms(self.bounds[groups])
            self._pack_words(pages)

    def _pack_words(self, pages: slice | Tensor) -> None:
        if self.layout.is_scanned:
            layout = self.layout
            matchable = ~self.unmatchable.view(-1, layout.span)[pages]
            bits = matchable.view(-1, layout.group, layout.tile_groups).int()
            member = torch.arange(layout.group, device=self.device)[:, None]
            words = (bits << member).sum(1, dtype=torch.int32).view(-1, layout.groups)
            self.words.view(-1, layout.groups)[pages] = words

    def _allocate(self, pages: int) -> None:
        rows, device = pages * self.layout.span, self.device
        self.row_in_page = torch.zeros(rows, dtype=torch.int16, device=device)
        self.unmatchable = torch.ones(rows, dtype=torch.bool, device=device)
        self.bounds = torch.zeros(pages * self.layout.groups, 4, dtype=torch.float32, device=device)
        self.norms = torch.zeros(rows, dtype=torch.float32, device=device)
        told = pages * self.layout.groups if self.layout.is_scanned else 0
        self.scan_terms = torch.zeros(told, 4, dtype=torch.float32, device=device)
        self.words = torch.zeros(told, dtype=torch.int32, device=device)

    def in_use(self) -> dict[str, list[Tensor]]:
        """What ``restore`` needs, by name, part by part, beside codes, frame and layout."""
        parts = [part._in_use() for part in self.parts]
        pieces = {name: [part[name] for part in parts] for name in parts[0]}
        return pieces | {"origin": [self.frame.origin]}

    def code_pieces(self) -> Iterator[Tensor]:
        """The codes themselves, in order, piece by piece."""
        for part in self.parts:
            rows = part.pages * self.layout.span
            step = max(part.held.pack_rows, _TILE_ELEMENTS // self.width)
            for first in range(0, rows, step):
                yield part.held.read(first, min(first + step, rows))

    def restore(
        self, count: int, read: Callable[[str, torch.dtype, tuple[int, ...]], Tensor]
    ) -> None:
        """Become what ``in_use`` told of, with ``count`` rows; ``read`` gives tensors by name."""
        self.count = count
        rows = self.pages * self.layout.span
        self.held.write(0, read("codes", torch.int8, (rows, self.width)))
        self.held.seal()
        for name, own in self._in_use().items():
            own.copy_(read(name, own.dtype, tuple(own.shape)))
        self._tell_scans(slice(0, self.pages))

    def _in_use(self, of: "Codes | None" = None) -> dict[str, Tensor]:
        """Tensors of these codes, or others, as many as these have rows; named as in a file."""
        of, pages = of or self, self.pages
        rows = pages * self.layout.span
        return {
            "place": of.row_in_page[:rows],
            "dead": of.unmatchable[:rows],
            "bounds": of.bounds[: pages * self.layout.groups],
            "norms": of.norms[: self.count],
        }

    def _empty(self) -> HeldCodes:
        """Room for codes of all positions."""
        return held_for(len(self.unmatchable), self.width, self.layout.span, self.device)

    def _alike(self) -> "Codes":
        new = Codes.__new__(Codes)
        new.__dict__.update(self.__dict__)
        return new

    def __getstate__(self) -> dict[str, Any]:
        """Codes as they are, whatever holds them: another machine may hold them otherwise."""
        return self.__dict__ | {"held": self.held.portable(self.pages * self.layout.span)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.held = self._empty()
        self.held.write(0, torch.as_tensor(state["held"]))
        self.held.seal()

    def _tensors(self) -> tuple[Tensor, ...]:
        tensors = self.row_in_page, self.unmatchable, self.bounds, self.norms
        return *tensors, self.scan_terms, self.words
