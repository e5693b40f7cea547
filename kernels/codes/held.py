"""Codes as the product that serves here wants them: a tensor, or packs of fbgemm's."""

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..products import choice, integers, packed
from ..proofs import int8

PACK_ROWS, PACK_ELEMENTS = 1 << 13, 1 << 22
"""Of a pack, at most. fbgemm writes the products of a pack to fresh memory, which should stay in
cache, and each pack is a parallel pass of its own."""


class PlainCodes:
    """Codes (rows, width) int8, any of which can be written over."""

    largest_query_code = int8.LARGEST_CODE
    dtype, lowest = torch.int32, int8.LOWEST
    pack_rows = 1

    def __init__(
        self, rows: int, width: int, device: torch.device, product: str = choice.INT_MM
    ) -> None:
        """``product``: that will serve, or "" where none is exact, and nobody may search them."""
        self.product = product
        self.codes = torch.zeros(rows, width, dtype=torch.int8, device=device)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def write(self, first: int, codes: Tensor) -> None:
        """Put ``codes`` (n, C <= width) at positions from ``first`` on."""
        self.codes[first : first + len(codes), : codes.shape[1]] = codes

    def seal(self) -> None:
        """What was written is complete for now."""

    def read(self, first: int, stop: int) -> Tensor:
        """(stop - first, width) int8, not to be changed."""
        return self.codes[first:stop]

    def portable(self, rows: int) -> Tensor | np.ndarray:
        """The first ``rows``, to be pickled."""
        return self.codes[:rows]

    def kept(self, rows: int, capacity: int = 0) -> "PlainCodes":
        """The first ``rows``, to be written behind: these, or with room for more, a copy."""
        if not capacity:
            return self
        new = PlainCodes(capacity, self.codes.shape[1], self.codes.device, self.product)
        new.write(0, self.codes[:rows])
        return new

    def operand(self, queries: Tensor) -> Tensor:
        """Codes (Q, C) int8 of queries, as ``multiply`` takes them."""
        return queries

    def multiply(self, operand: Tensor, first: int, stop: int, out: Tensor) -> Tensor:
        """(Q, stop - first) ``dtype``, maybe in ``out`` (n,); either axis may be dense."""
        out = out[: len(operand) * (stop - first)]
        return integers.multiply_codes(operand, self.codes[first:stop], out)


class PackedCodes:
    """The same in packs, which never change: one is made anew where it is written to."""

    product = choice.FBGEMM
    largest_query_code = int8.LARGEST_PACKED_QUERY_CODE
    dtype, lowest = torch.float32, -torch.inf

    def __init__(self, width: int, span: int) -> None:
        """``span``: rows of a page; a pack has whole pages."""
        self.width, pages = width, min(PACK_ROWS, PACK_ELEMENTS // width) // span
        self.pack_rows = span * (1 << max(pages, 1).bit_length() - 1)
        self.packs: list[object] = []  # of pack_rows, but for the last
        self.rows = 0
        self._loose = torch.zeros(0, width, dtype=torch.int8, device="cpu")  # not packed yet

    @property
    def nbytes(self) -> int:
        return packed.packed_bytes(self.rows, self.width)

    def write(self, first: int, codes: Tensor) -> None:
        """As of ``PlainCodes``; what lay behind is dropped."""
        whole = first // self.pack_rows
        if len(self.packs) != whole or self.rows != first:
            self._loose, self.packs = self.read(whole * self.pack_rows, first), self.packs[:whole]
        loose = torch.cat([self._loose, pad(codes, (0, self.width - codes.shape[1]))])
        while len(loose) >= self.pack_rows:
            self.packs.append(packed.pack(loose[: self.pack_rows]))
            loose = loose[self.pack_rows :]
        self._loose, self.rows = loose, first + len(codes)

    def seal(self) -> None:
        if len(self._loose):
            self.packs.append(packed.pack(self._loose))
            self._loose = self._loose[:0].clone()

    def read(self, first: int, stop: int) -> Tensor:
        parts = [self._loose[:0]]
        for at in self._packs_of(first, stop):
            low = at * self.pack_rows
            parts.append(packed.unpack(self.packs[at])[max(first - low, 0) : stop - low])
        return torch.cat(parts)

    def portable(self, rows: int) -> np.ndarray:
        """No tensor: another process would find it in shared memory that is gone by then."""
        return self.read(0, rows).numpy()

    def kept(self, rows: int, capacity: int = 0) -> "PackedCodes":
        new = copy.copy(self)
        new.packs = self.packs[: -(-rows // self.pack_rows)]
        new.rows = min(len(new.packs) * self.pack_rows, self.rows)
        return new

    def operand(self, queries: Tensor) -> Tensor:
        return pad(queries, (0, self.width - queries.shape[1])).float()

    def multiply(self, operand: Tensor, first: int, stop: int, out: Tensor) -> Tensor:
        parts = []
        for at in self._packs_of(first, stop):
            low = at * self.pack_rows
            products = packed.multiply_packed(operand, self.packs[at])
            parts.append(products[:, max(first - low, 0) : stop - low])
        if len(parts) == 1:
            return parts[0].contiguous()
        shape = len(operand), stop - first
        return torch.cat(parts, 1, out=out[: shape[0] * shape[1]].view(shape))

    def _packs_of(self, first: int, stop: int) -> range:
        return range(first // self.pack_rows, -(-stop // self.pack_rows) if stop > first else 0)


HeldCodes = PlainCodes | PackedCodes


def held_for(rows: int, width: int, span: int, device: torch.device) -> HeldCodes:
    """Room for codes of ``rows`` that are searched on ``device``."""
    if choice.are_codes_packed(device.type):
        return PackedCodes(width, span)
    product = choice.product_of_codes("cpu") if device.type == "cpu" else choice.INT_MM
    return PlainCodes(rows, width, device, product)
