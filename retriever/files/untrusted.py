"""Checkpoints from anywhere: what they ask of memory, known before it is given."""

import io
import os
import pickletools
import zipfile
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from typing import Any, BinaryIO

import torch
from torch import Tensor

_REPEATED_BYTES = 1 << 26
"""Of a view that repeats what it views: 64 MiB."""
_ARCHIVE = b"PK\x03\x04"
"""torch's archives begin like this; what it wrote before them is so many pickles, then numbers:"""
_PICKLES = 5


def require_no_bomb(file: BinaryIO) -> None:
    """Refuse what would take more memory than the file has bytes, before it is unpacked."""
    is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    file.seek(0)
    if not is_archive:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as pickles:  # reads no more than there is
            _require_no_buffers(pickles, _PICKLES)
    else:
        with zipfile.ZipFile(file) as archive:
            _require_stored(archive.infolist(), os.fstat(file.fileno()).st_size)
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    _require_no_buffers(io.BytesIO(archive.read(name)), 1)
    file.seek(0)


def _require_stored(records: list[zipfile.ZipInfo], size: int) -> None:
    """torch stores records as they are; compressed ones could be of any size."""
    total = sum(record.file_size for record in records)
    if total > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(f"it would unpack to {total} bytes from {size}")


def _require_no_buffers(pickles: Any, count: int) -> None:
    """Of what torch lets a pickle call, ``bytearray(n)`` alone fills n bytes out of nothing."""
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(pickles):
            if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                raise ValueError("it makes buffers, which are no tensors")


def require_sizes(content: Any, size: int) -> None:
    """Refuse tensors of more than the file's ``size``, and views that repeat without end."""
    parts = list(content.values()) if isinstance(content, Mapping) else [content]
    parts += [part for inner in parts if isinstance(inner, Mapping) for part in inner.values()]
    for tensor in (part for part in parts if is_plain(part)):
        held, laid_out = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        if held > size:
            raise ValueError(f"a tensor of {held} bytes is in a file of {size}")
        if laid_out > max(held, _REPEATED_BYTES):
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} repeats {held} bytes")


def is_plain(value: object) -> bool:
    """A tensor that a weight can be copied from."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_quantized or value.is_meta)
