"""Where ``write_index`` puts an index that goes to no file: FAISS's writers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from ...kernels.contract.arguments import require_int
from .errors import raised_as_faiss
from .readers import MEGABYTE
from .vectors import UInt8Vector


class IOWriter(ABC):
    """Takes bytes, one after another."""

    name = ""
    """What errors call it."""

    @abstractmethod
    def write_bytes(self, b: bytes) -> None:
        """Put these behind those before."""

    def flush(self) -> None:  # noqa: B027
        """Let go of what waits; ``write_index`` does at its end."""


class PyCallbackIOWriter(IOWriter):
    """``PyCallbackIOWriter(file.write)``: ``callback`` is given bytes, at most ``bsz`` at once."""

    def __init__(self, callback: Callable[[bytes], object], bsz: int = MEGABYTE) -> None:
        if not callable(callback):
            raise TypeError(f"callback must be callable; got {type(callback).__name__}")
        self.callback, self.bsz = callback, require_int("bsz", bsz, 1)

    def write_bytes(self, b: bytes) -> None:
        for start in range(0, len(b), self.bsz):
            self.callback(bytes(b[start : start + self.bsz]))


class BufferedIOWriter(IOWriter):
    """Gives ``writer`` pieces of ``bsz`` bytes, and the last one when an index is written."""

    def __init__(self, writer: IOWriter, bsz: int = MEGABYTE) -> None:
        self.writer, self.bsz = require_writer("writer", writer), require_int("bsz", bsz, 1)
        self.name, self._waiting = writer.name, bytearray()

    def write_bytes(self, b: bytes) -> None:
        self._waiting += b
        whole = len(self._waiting) // self.bsz * self.bsz
        for start in range(0, whole, self.bsz):
            self.writer.write_bytes(bytes(self._waiting[start : start + self.bsz]))
        del self._waiting[:whole]

    def flush(self) -> None:
        if self._waiting:
            self.writer.write_bytes(bytes(self._waiting))
            self._waiting.clear()
        self.writer.flush()


class VectorIOWriter(IOWriter):
    """To ``data``: ``vector_to_array(writer.data)`` is a uint8 array."""

    def __init__(self) -> None:
        self.data = UInt8Vector()
        self._pieces: list[bytes] = []

    def write_bytes(self, b: bytes) -> None:
        self._pieces.append(bytes(b))

    def flush(self) -> None:
        joined = b"".join([self.data._bytes.tobytes(), *self._pieces])
        self.data._bytes = np.frombuffer(bytearray(joined), dtype=np.uint8)
        self._pieces.clear()


class FileIOWriter(IOWriter):
    """To a file, emptied or made here; what the system refuses is OSError and RuntimeError."""

    def __init__(self, fname: str | os.PathLike) -> None:
        with raised_as_faiss():
            self._file = open(fname, "wb")  # noqa: SIM115
        self.name = os.fsdecode(fname)

    def write_bytes(self, b: bytes) -> None:
        with raised_as_faiss():
            self._file.write(b)

    def flush(self) -> None:
        self._file.flush()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def require_writer(name: str, value: object) -> IOWriter:
    if not isinstance(value, IOWriter):
        raise TypeError(f"{name} must be an IOWriter; got {type(value).__name__}")
    return value
