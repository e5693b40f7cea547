"""Where ``read_index`` takes an index from that is in no file: FAISS's readers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from ...kernels.contract.arguments import require_int
from .errors import InvalidIndexError, raised_as_faiss
from .vectors import UInt8Vector

MEGABYTE = 1 << 20
"""What FAISS asks a callback for at most, unless told."""
PIECE_BYTES = 1 << 24
"""What is read, or written, at once."""


class IOReader(ABC):
    """Bytes, one after another."""

    name = ""
    """What errors call it."""

    @abstractmethod
    def read_bytes(self, totsz: int) -> bytes:
        """The next ``totsz`` bytes; fewer at the end only."""


class PyCallbackIOReader(IOReader):
    """``PyCallbackIOReader(file.read)``: ``callback(n)`` returns at most n bytes, none at the end.

    ``bsz`` is the most that is asked for at once. What follows an index is not read.
    """

    def __init__(self, callback: Callable[[int], bytes], bsz: int = MEGABYTE) -> None:
        if not callable(callback):
            raise TypeError(f"callback must be callable; got {type(callback).__name__}")
        self.callback, self.bsz = callback, require_int("bsz", bsz, 1)

    def read_bytes(self, totsz: int) -> bytes:
        pieces, left = [], totsz
        while left:
            piece = self.callback(min(left, self.bsz))
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise InvalidIndexError(f"callback must return bytes; got {type(piece).__name__}")
            if len(piece) > min(left, self.bsz):
                raise InvalidIndexError(
                    f"callback must return at most {min(left, self.bsz)} bytes; got {len(piece)}"
                )
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


class BufferedIOReader(IOReader):
    """``reader`` itself: an index is read in few large pieces anyway, and nothing beyond it."""

    def __init__(self, reader: IOReader, bsz: int = MEGABYTE) -> None:
        self.reader, self.bsz = require_reader("reader", reader), require_int("bsz", bsz, 1)
        self.name = reader.name

    def read_bytes(self, totsz: int) -> bytes:
        return self.reader.read_bytes(totsz)


class VectorIOReader(IOReader):
    """Of ``data``, which ``copy_array_to_vector(array, reader.data)`` fills."""

    def __init__(self) -> None:
        self.data, self.rp = UInt8Vector(), 0

    def read_bytes(self, totsz: int) -> bytes:
        piece = self.data._bytes[self.rp : self.rp + totsz].tobytes()
        self.rp += len(piece)
        return piece


class FileIOReader(IOReader):
    """Of a file, opened here; FileNotFoundError, which is a RuntimeError, where there is none."""

    def __init__(self, fname: str | os.PathLike) -> None:
        with raised_as_faiss():
            self._file = open(fname, "rb")  # noqa: SIM115
        self.name = os.fsdecode(fname)

    def read_bytes(self, totsz: int) -> bytes:
        return self._file.read(totsz)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def require_reader(name: str, value: object) -> IOReader:
    if not isinstance(value, IOReader):
        raise TypeError(f"{name} must be an IOReader; got {type(value).__name__}")
    return value


def exactly(reader: IOReader, size: int, argument: str) -> bytearray:
    """The next ``size`` bytes. Memory is taken as they arrive, whatever size was announced."""
    taken = bytearray()
    while len(taken) < size:
        piece = reader.read_bytes(min(size - len(taken), PIECE_BYTES))
        if not piece:
            raise invalid(reader, argument, f"it ends {size - len(taken)} bytes too early")
        taken += piece
    return taken


def invalid(reader: IOReader, argument: str, what: str) -> InvalidIndexError:
    """That ``argument``, read by ``reader``, holds no index, and why."""
    name = f"{reader.name!r}: " if reader.name else ""
    return InvalidIndexError(f"{argument} must hold an undamaged index; {name}{what}")
