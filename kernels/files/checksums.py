"""Checksums of tensors in a file: of each block of rows, of the header, and of all of these.

CRC-32 finds every change of up to 32 bits in a row, and others with a probability of 1 - 2^-32
(zlib's). It does not find what somebody changed who then computed it anew.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 20
"""Of a block: whole rows, as many as fit, at least one. Part of the format."""


def block_rows(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Rows, along the first axis, that have a checksum of their own."""
    row = torch.Size(shape[1:]).numel() * dtype.itemsize
    return max(1, BLOCK_BYTES // max(1, row))


def block_count(shape: Sequence[int], dtype: torch.dtype) -> int:
    rows = shape[0] if len(shape) else 1
    return -(-rows // block_rows(shape, dtype))


def of_header(
    metadata: Mapping[str, str], tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]
) -> int:
    """Of what a header says, not of how it says it."""
    entries = sorted((name, str(dtype), list(shape)) for name, (dtype, shape) in tensors.items())
    return zlib.crc32(json.dumps([dict(metadata), entries], sort_keys=True).encode())


class Running:
    """The checksums of one tensor as its bytes come in."""

    def __init__(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        self.blocks: list[int] = []
        row = torch.Size(shape[1:]).numel() * dtype.itemsize
        self._size = max(1, block_rows(shape, dtype) * row)
        self._sum = self._filled = 0

    def add(self, data: memoryview) -> None:
        while len(data):
            part = data[: self._size - self._filled]
            self._sum = zlib.crc32(part, self._sum)
            self._filled, data = self._filled + len(part), data[len(part) :]
            if self._filled == self._size:
                self._end_block()

    def ended(self) -> list[int]:
        """Of every block, the last one included."""
        if self._filled:
            self._end_block()
        return self.blocks

    def _end_block(self) -> None:
        self.blocks.append(self._sum)
        self._sum = self._filled = 0


def of_all(sums: Iterable[int]) -> int:
    return zlib.crc32(b"".join(value.to_bytes(4, "little") for value in sums))


def as_bytes(tensor: Tensor) -> memoryview:
    """What a file has of a tensor on the CPU; a view where it can be one."""
    if tensor.numel() == 0:  # whose strides no view likes
        return memoryview(b"")
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
