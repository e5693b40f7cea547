"""The file of a bank out of a stream, which nobody can map."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from . import bank_file
from .errors import InvalidIndexError
from .index import Index
from .readers import PIECE_BYTES, IOReader, exactly, invalid

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


def read(reader: IOReader, begin: bytes, argument: str, device: torch.device) -> Index:
    """The index in such a file, whose first bytes, ``begin``, were read already.

    The rest goes to a temporary file, as it arrives, which is mapped.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "index"
        with open(path, "wb") as file:
            for piece in _file(reader, begin, argument):
                file.write(piece)
        try:
            return bank_file.read(path, argument, device)
        except InvalidIndexError as error:
            shown = repr(reader.name) if reader.name else "it"
            raise InvalidIndexError(str(error).replace(repr(str(path)), shown)) from error


def _file(reader: IOReader, begin: bytes, argument: str) -> Iterator[bytes | bytearray]:
    length = begin + exactly(reader, 8 - len(begin), argument)
    yield length
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise invalid(reader, argument, f"no index begins with {bytes(length)!r}")
    header = exactly(reader, size, argument)
    yield header
    left = _data_size(header)
    if left is None:
        raise invalid(reader, argument, "its header is none")
    while left:
        piece = exactly(reader, min(left, PIECE_BYTES), argument)
        yield piece
        left -= len(piece)


def _data_size(header: bytes | bytearray) -> int | None:
    """Bytes that follow the header of a safetensors file."""
    try:
        entries = json.loads(header)
        ends = [x["data_offsets"][1] for name, x in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return max(ends, default=0) if all(type(end) is int and end >= 0 for end in ends) else None
