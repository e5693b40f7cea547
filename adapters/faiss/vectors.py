"""FAISS's C++ vectors: here arrays, with the methods that scripts call on them."""

import math

import numpy as np

from ...kernels.contract.arguments import require_int
from .errors import OutOfRangeError


class Vector(np.ndarray):
    """A 1-D array, as an index has it in ``id_map`` and ``codes``: ``at(i)``, ``size()``.

    Everything else is numpy's.
    """

    @property
    def size(self) -> "_Size":  # pyright: ignore[reportIncompatibleMethodOverride]
        """A number to numpy and its users, and what FAISS's scripts call: ``size()``."""
        return _Size(math.prod(self.shape))

    def at(self, index: int):
        """The element, a Python int. IndexError, which is a RuntimeError, beyond the last."""
        return _at(self, index)


class _Size(int):
    def __call__(self) -> int:
        return int(self)


class UInt8Vector:
    """Bytes, empty at first: the ``data`` of ``VectorIOWriter`` and ``VectorIOReader``."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._bytes, dtype=dtype, copy=copy)  # pyright: ignore

    def __len__(self) -> int:
        return len(self._bytes)

    def size(self) -> int:
        return len(self)

    def at(self, index: int) -> int:
        """The byte. IndexError, which is a RuntimeError, beyond the last."""
        return _at(self._bytes, index)

    def clear(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def swap(self, other: "UInt8Vector") -> None:
        """Exchange the bytes, as in ``reader.data.swap(writer.data)``."""
        self._bytes, other._bytes = other._bytes, self._bytes


def vector_to_array(v: object) -> np.ndarray:
    """A copy, as in ``vector_to_array(index.id_map)``."""
    return np.array(v)


def vector_float_to_array(v: object) -> np.ndarray:
    """``vector_to_array``: in FAISS, too, it takes vectors of any type."""
    return vector_to_array(v)


def copy_array_to_vector(a: object, v: UInt8Vector) -> None:
    """Make ``v``, as the ``data`` of a ``VectorIOReader``, hold the bytes ``a`` (n,) uint8."""
    if not isinstance(v, UInt8Vector):
        raise TypeError(f"v must be a UInt8Vector; got {type(v).__name__}")
    v._bytes = as_uint8("a", a).copy()


def as_uint8(name: str, data: object) -> np.ndarray:
    """1-D uint8, of an array of that, or of bytes."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return np.frombuffer(data, dtype=np.uint8)
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim != 1:
        what = f"{array.dtype} {array.shape}" if array.dtype != object else type(data).__name__
        raise TypeError(f"{name} must be a one-dimensional uint8 array, or bytes; got {what}")
    return np.ascontiguousarray(array)


def swig_ptr(array: np.ndarray) -> np.ndarray:
    """The array itself, where FAISS has a pointer to it."""
    return array


def rev_swig_ptr(array: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` elements, as in ``rev_swig_ptr(index.get_xb(), index.ntotal * index.d)``."""
    return array[:n]


def _at(array: np.ndarray, index: int):
    place = require_int("index", index, 0)
    if place >= len(array):
        raise OutOfRangeError(f"index must be below size() = {len(array)}; got {place}")
    return array.item(place)
