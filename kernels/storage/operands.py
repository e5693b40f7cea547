"""What products of prototypes take: made once for a bank, and for one search of raw prototypes.

            fp32 product                            fp64 product
metric      floats        then                      wide           then
cosine      p/|p|, or p   nothing, or times factor  p/|p|, or p    nothing, or over lengths
dot         p             nothing                   p              nothing
l2          p             plus bias, -|p|^2 / 2     p              as the metric says

Cosine's norms are clamped from below. The fp32 values are those of proofs/fp32.py, in its units.
"""

import copy
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.linalg import vector_norm

from ..concurrency.workers import in_workers
from ..contract import finite
from ..contract.chunks import Rows, even_slices
from ..contract.metrics import COSINE_EPS
from ..proofs.fp32 import largest_norm_bound

KEPT_ELEMENTS = 1 << 21
"""Up to so many coordinates a bank keeps its rows in fp32 and fp64: 8 and 16 MiB."""

_TILE_ELEMENTS = 1 << 20
"""Coordinates of rows that are cast, or measured and multiplied, at a time: 4 MiB."""


class Operands:
    """Of rows on a CPU, as given. What nobody has asked for yet is None; nothing is made twice."""

    def __init__(self, rows: Rows, metric: str) -> None:
        self.rows, self.metric = rows, metric
        self.floats: list[Tensor] = [chunk.detach() for chunk in rows.chunks]
        """(M_i, C), fp32 or as given"""
        self.factor: Tensor | None = None
        """(M,) fp32"""
        self.bias: Tensor | None = None
        """(M,) fp32"""
        self.wide: Tensor | None = None
        """(M, C) fp64"""
        self.lengths: Tensor | None = None
        """(M,) fp64"""
        self.norms: Tensor | None = None
        """(M,) fp64 norms of the rows as given"""
        self.longest = math.nan
        """At least the largest norm; NaN until the rows are measured, or where one is no number."""

    @property
    def is_measured(self) -> bool:
        return not math.isnan(self.longest)

    @property
    def are_halves(self) -> bool:
        """Whether all ``floats`` are in bf16."""
        return all(piece.dtype == torch.bfloat16 for piece in self.floats)

    @property
    def nbytes(self) -> int:
        """Bytes held beside the rows as given."""
        lent = {chunk.data_ptr() for chunk in self.rows.chunks}
        made = [self.factor, self.bias, self.wide, self.norms, self.lengths, *self.floats]
        return sum(t.nbytes for t in made if t is not None and t.data_ptr() not in lent)

    def keep(self, nonfinite: Tensor) -> None:
        """Make what a bank keeps. The rows ``nonfinite`` (n,), which never match, are left out."""
        norms = torch.cat([finite.norms(chunk) for chunk in self.floats])
        norms[nonfinite] = 0.0
        self.norms, self.longest = norms, _longest(norms)
        self._weigh(norms)
        if not keeps(self.rows):
            return
        wide = self._all_wide(copy=True)
        wide[nonfinite] = 0.0
        if self.metric == "cosine":
            wide /= norms.clamp(min=COSINE_EPS)[:, None]
            self.factor = None
        self.wide = wide
        as_given = len(self.floats) == 1 and self.floats[0].dtype == torch.float32
        if self.metric == "cosine" or not as_given:
            self.floats = [wide.float()]

    def widened(self, screened: bool) -> "Operands":
        """With ``wide`` and its norms, for one search: what is kept stays as it is.

        ``screened``: by fp32 products, too, which need the norms in fp32.
        """
        if self.wide is not None:
            return self
        new = copy.copy(self)
        new.wide = self._all_wide()
        if new.norms is None:
            is_plain = self.rows.dtype != torch.float64
            new.norms = vector_norm(new.wide, dim=1) if is_plain else finite.norms(new.wide)
            new.longest = _longest(new.norms)
            if screened:
                new._weigh(new.norms)
        if self.metric == "cosine":
            new.lengths = new.norms.clamp(min=COSINE_EPS)
        return new

    def measure(self, workers: int) -> None:
        """Take the norms of rows, by so many threads, if nobody has."""
        if self.is_measured:
            return
        norms = torch.empty(len(self.rows), dtype=torch.float32, device="cpu")

        def part_of(at: slice) -> None:
            for within, tile in self.part(at.start, at.stop).tiles():
                vector_norm(tile, dim=1, out=norms[at][within])

        in_workers([partial(part_of, at) for at in even_slices(len(norms), workers)], workers)
        self.take_norms(norms)

    def take_norms(self, norms: Tensor) -> None:
        """Take the fp32 ``norms`` (M,) for those of the rows."""
        self.longest = largest_norm_bound(norms, self.rows.channels)
        self._weigh(norms)

    def part(self, start: int, stop: int) -> "Operands":
        """Of rows start..stop; memory is shared."""
        if start == 0 and stop == len(self.rows):
            return self
        part = copy.copy(self)
        part.rows = Rows(list(self.rows.pieces(start, stop)))
        part.floats = list(Rows(self.floats).pieces(start, stop))
        for name in ("factor", "bias", "wide", "norms", "lengths"):
            values = getattr(self, name)
            setattr(part, name, None if values is None else values[start:stop])
        return part

    def rounded(self, out: Tensor) -> "Operands":
        """With ``floats`` rounded to bf16, in ``out`` (n, C)."""
        new, start = copy.copy(self), 0
        new.floats = [out[: len(self.rows)]]
        for piece in self.floats:
            for tile in piece.split(max(1, _TILE_ELEMENTS // piece.shape[1])):
                out[start : start + tile.shape[0]].copy_(_nearer(tile))
                start += tile.shape[0]
        return new

    def tiles(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[slice, Tensor]]:
        """Rows (n, C) of ``dtype`` and which they are: large where they are only read."""
        at = 0
        for piece in self.floats:
            is_read = piece.dtype == dtype and self.is_measured
            rows = piece.shape[0]
            if is_read:
                yield slice(at, at + rows), piece
            else:
                step = max(1, _TILE_ELEMENTS // piece.shape[1])
                for start in range(0, rows, step):
                    tile = _nearer(piece[start : start + step]).to(dtype)
                    yield slice(at + start, at + min(start + step, rows)), tile
            at += rows

    def _all_wide(self, copy: bool = False) -> Tensor:
        """The rows in fp64; not a copy where they are one piece and fp64 already, unless asked."""
        pieces = [chunk.detach().to(torch.float64, copy=copy) for chunk in self.rows.chunks]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _weigh(self, norms: Tensor) -> None:
        """Make what goes with the fp32 product of rows as given, which have these norms (M,)."""
        if self.metric == "cosine":
            self.factor = norms.clamp(min=COSINE_EPS).reciprocal_().float()
        elif self.metric == "l2":
            self.bias = norms.square().mul_(-0.5).float()


def _nearer(tile: Tensor) -> Tensor:
    """In fp32, if it is fp16: straight to bf16, torch takes twice as long."""
    return tile.float() if tile.dtype == torch.float16 else tile


def keeps(rows: Rows) -> bool:
    """Whether a bank keeps these in fp32 and fp64."""
    return len(rows) * rows.channels <= KEPT_ELEMENTS


def _longest(norms: Tensor) -> float:
    """At least the largest of the norms (M,) fp64, whose own rounding is far below 2^-20."""
    return float(norms.max()) * (1 + 2.0**-20) if len(norms) else 0.0
