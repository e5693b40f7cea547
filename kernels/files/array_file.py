"""A matrix in an .npy file, memory-mapped. Nothing in the file is executed, nor believed."""

import math
import os
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

_DTYPES = {2: torch.float16, 4: torch.float32, 8: torch.float64}
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def is_array_file(path: str | os.PathLike) -> bool:
    """By its first bytes, or else by its name."""
    with open(path, "rb") as file:
        return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX or str(path).endswith(".npy")


def open_array(path: str | os.PathLike) -> Tensor:
    """The matrix of an .npy file: (rows, channels), float16, float32 or float64, in either order.

    Mapped, and private: what is written to the tensor does not reach the file. Only numbers of the
    other byte order are read into memory.

    Raises:
        ValueError: naming ``path``: no such matrix, or not as many bytes as its header says.
    """
    with open(path, "rb") as file:
        shape, is_fortran, dtype = _described(path, file)
        start, end = file.tell(), os.fstat(file.fileno()).st_size
    count = math.prod(shape)
    if end - start != count * dtype.itemsize:
        _refuse_array(path, f"of {end - start} bytes where {count * dtype.itemsize} belong")
    if count == 0:
        return torch.empty(shape, dtype=_DTYPES[dtype.itemsize], device="cpu")
    values = _mapped_values(os.fsdecode(path), start, end, dtype)
    return values.view(shape[::-1]).T if is_fortran else values.view(shape)


def _described(path: str | os.PathLike, file: BinaryIO) -> tuple[tuple[int, int], bool, np.dtype]:
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version}, for fields with names")
        shape, is_fortran, dtype = _HEADERS[version](file)
    except Exception as error:  # its header is a Python literal: whatever parsing one raises
        reason = str(error).partition("\n")[0]
        raise ValueError(f"path must be an .npy file; got {str(path)!r}: {reason}") from error
    if dtype.kind != "f" or dtype.itemsize not in _DTYPES:
        _refuse_array(path, f"of {'pickled objects' if dtype.hasobject else dtype}")
    if len(shape) != 2 or min(shape) < 0:
        _refuse_array(path, f"of shape {shape}")
    return (shape[0], shape[1]), is_fortran, dtype


def _mapped_values(path: str, start: int, end: int, dtype: np.dtype) -> Tensor:
    """(count,) of the bytes start..end, where a whole number of them lies."""
    storage = torch.UntypedStorage.from_file(path, False, end)
    raw = torch.asarray(storage[start:end], dtype=torch.uint8, device="cpu")
    if dtype.isnative and start % dtype.itemsize == 0:
        return raw.view(_DTYPES[dtype.itemsize])
    native = raw.numpy().view(dtype).astype(dtype.newbyteorder("="))
    return torch.from_numpy(native)


def _refuse_array(path: str | os.PathLike, what: str) -> NoReturn:
    raise ValueError(
        "path must be an .npy file of one matrix of float16, float32 or float64; "
        f"got {str(path)!r} {what}"
    )
