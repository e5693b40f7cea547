"""Indexes in files and bytes, and indexes of FAISS's own."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...kernels.contract.arguments import require_device, require_int
from . import bank_file, streamed, wire
from .errors import InvalidIndexError, MissingIndexError, raised_as_faiss
from .index import Index, require_index
from .readers import FileIOReader, IOReader, VectorIOReader, exactly
from .vectors import as_uint8
from .writers import IOWriter, VectorIOWriter

IO_FLAG_SKIP_STORAGE = 1
IO_FLAG_READ_ONLY = 2
IO_FLAG_ONDISK_SAME_DIR = 4
IO_FLAG_SKIP_IVF_DATA = 8
IO_FLAG_SKIP_PRECOMPUTE_TABLE = 16
IO_FLAG_PQ_SKIP_SDC_TABLE = 32
IO_FLAG_MMAP_IFC = 512
IO_FLAG_MMAP = 0x646F0000 | IO_FLAG_SKIP_IVF_DATA


def write_index(index: Index, fname: str | os.PathLike | IOWriter, io_flags: int = 0) -> None:
    """Write an index to a file, which appears whole or not at all, or to a writer.

    A file is that of a ``PrototypeBank``, which can load it: prepared for search, memory-mapped
    when it is read, with checksums; FAISS cannot read it. A writer is given the bytes that FAISS
    would write, and reads, with a checksum: ``write_index(index, FileIOWriter(path))`` makes a file
    for FAISS. ``io_flags`` are about other indexes.

    Raises:
        TypeError: ``index`` is none of this module, or ``fname`` neither a path nor a writer.
        ValueError, OSError, which are RuntimeErrors: no regular file, or it cannot be written.
    """
    require_index(index)
    require_int("io_flags", io_flags, 0)
    if isinstance(fname, IOWriter):
        wire.write(index, fname)
        return
    path = _path(fname, "PyCallbackIOWriter(file.write) writes to an open file")
    try:
        with raised_as_faiss():
            bank_file.write(index, path)
    except ValueError as error:
        _, _, what = str(error).partition("; ")
        raise InvalidIndexError(f"fname must be a regular file, or none yet; {what}") from error


def read_index(
    fname: str | os.PathLike | IOReader,
    io_flags: int = 0,
    *,
    device: torch.device | str | None = None,
) -> Index:
    """The index in a file, or that a reader reads: written here, or by FAISS.

    Of the file of a bank the vectors are memory-mapped, whatever ``io_flags`` say, which are about
    speed and other indexes. As in FAISS, an ``IndexFlat`` comes back as ``IndexFlatIP`` or
    ``IndexFlatL2``. ``device`` is as of ``IndexFlat``.

    Raises:
        FileNotFoundError, ValueError, which are RuntimeErrors: no such file, or not the bytes of
            such an index, or damaged ones.
    """
    require_int("io_flags", io_flags, 0)
    device = _device(device)
    if isinstance(fname, IOReader):
        return _read(fname, "fname", device)
    path = _path(fname, "PyCallbackIOReader(file.read) reads an open file")
    if not path.is_file():
        what = "the folder " if path.is_dir() else ""
        raise MissingIndexError(f"fname must be an existing file; got {what}{str(path)!r}")
    reader = FileIOReader(path)
    if _is_faiss(begin := reader.read_bytes(4)):
        return wire.read(reader, begin, "fname", device)
    return bank_file.read(path, "fname", device)


def serialize_index(index: Index, io_flags: int = 0) -> np.ndarray:
    """The bytes that ``write_index`` gives a writer, (n,) uint8."""
    require_index(index)
    writer = VectorIOWriter()
    write_index(index, writer, io_flags)
    return writer.data._bytes


def deserialize_index(
    data: object, io_flags: int = 0, *, device: torch.device | str | None = None
) -> Index:
    """The index in bytes, a uint8 array (n,): of ``serialize_index``, of FAISS's, or of a file.

    Raises:
        TypeError: ``data`` are no bytes.
        ValueError, which is a RuntimeError: they are not those of such an index, or damaged.
    """
    require_int("io_flags", io_flags, 0)
    return _read_bytes(as_uint8("data", data), "data", device)


def to_faiss(index: Index) -> Any:
    """A copy of an index of this module as one of FAISS's own, which has to be installed."""
    return _faiss().deserialize_index(serialize_index(index))


def from_faiss(index: Any, *, device: torch.device | str | None = None) -> Index:
    """A copy of an index of FAISS's own: flat, by scalar product or L2, with or without ids."""
    faiss = _faiss()
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index must be an index of FAISS's own; got {type(index).__name__}")
    return _read_bytes(faiss.serialize_index(index), "index", device)


def _read_bytes(data: np.ndarray, argument: str, device: torch.device | str | None) -> Index:
    reader = VectorIOReader()
    reader.data._bytes = data
    return _read(reader, argument, _device(device))


def _read(reader: IOReader, argument: str, device: torch.device) -> Index:
    begin = bytes(exactly(reader, 4, argument))
    read = wire.read if _is_faiss(begin) else streamed.read
    return read(reader, begin, argument, device)


def _is_faiss(begin: bytes) -> bool:
    """FAISS's files begin with a letter I and three more; safetensors' with a small number."""
    return len(begin) == 4 and begin[:1] == b"I" and begin.isalnum()


def _device(device: torch.device | str | None) -> torch.device:
    return require_device("device", "cpu" if device is None else device)


def _path(fname: object, remedy: str) -> Path:
    if not isinstance(fname, (str, os.PathLike)):
        raise TypeError(f"fname must be a path; got {type(fname).__name__} ({remedy})")
    return Path(fname)


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError("an index of FAISS's own needs faiss installed") from error
