"""Whatever a caller calls vectors, as tensors; what is none of it, refused by name.

A tensor passes as it is, for one ``isinstance``. ``contract/arguments.py`` then looks at dtypes
and shapes, of all alike.
"""

import os
import reprlib
from collections.abc import Callable, Sequence
from functools import reduce
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contract.naming import named
from ..files.tensor_file import open_matrix
from .columns import called, is_column, parts_of
from .memory import tensor_of

AnyArray = Any
"""A tensor; an array of NumPy or of any library with ``__dlpack__``, ``__cuda_array_interface__``,
``__array_interface__`` or ``__array__``; a column of pyarrow, pandas or polars; a sequence of rows.
"""
_CPU = 1  # kDLCPU of DLPack
_TAKEN = "a tensor, an array, a column or a sequence of rows"


def as_vectors(name: str, value: AnyArray) -> Tensor:
    """``value`` as a tensor, whose dtype and shape nobody has looked at yet.

    It shares the memory of an array, and of a column in one part. Python's numbers become float64,
    which holds integers exactly to 2^53.

    Raises:
        TypeError, ValueError: naming ``name``; not what ``AnyArray`` says, nulls, rows of several
            lengths.
    """
    return value if isinstance(value, Tensor) else _tensor(name, value, np.float64)


def as_tensor(name: str, value: AnyArray) -> Tensor:
    """As ``as_vectors``, but Python's integers stay integers."""
    return value if isinstance(value, Tensor) else _tensor(name, value, None)


def as_mask(value: AnyArray | None, device: torch.device) -> Tensor | None:
    """A mask: a tensor as it is; what is of another kind on ``device``, without being looked at."""
    if value is None or isinstance(value, Tensor):
        return value
    return as_tensor("mask", value).to(device)


def as_threshold(value: float | AnyArray) -> float | Tensor:
    """A threshold: a number as it is, and one for each query as a tensor."""
    is_number = isinstance(value, (Number, np.number))
    return value if is_number else as_vectors("threshold", value)  # pyright: ignore


def as_prototypes(value: AnyArray | str | os.PathLike) -> Tensor | Sequence[Tensor]:
    """One tensor, or one for each chunk.

    A sequence of what has two axes is one of chunks; so is a column in several parts. A path is
    that of an .npy or .safetensors file, memory-mapped.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming ``prototypes``.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (str, os.PathLike)):
        with named(path="prototypes"):
            return open_matrix(value)
    if is_rows(value):
        if all(isinstance(chunk, Tensor) and chunk.ndim != 1 for chunk in value):
            return value
        if _axes(value[0]) > 1:
            return [as_vectors(f"prototypes[{i}]", chunk) for i, chunk in enumerate(value)]
    elif is_column(value):
        parts = _parts("prototypes", value, np.float64)
        return parts[0] if len(parts) == 1 else parts
    elif not _is_array(value):
        raise TypeError(
            "prototypes must be a tensor, an array, a column, a sequence of rows or chunks, or a "
            f"path; got {called(value)}"
        )
    return as_vectors("prototypes", value)


def is_rows(value: object) -> bool:
    """Whether it is a sequence, like a list, and no array."""
    no_rows = (str, bytes, bytearray, memoryview)
    return isinstance(value, Sequence) and not isinstance(value, no_rows)


def _tensor(name: str, value: AnyArray, integers: type | None) -> Tensor:
    """``integers``: the dtype of Python's integers; None = int64."""
    if isinstance(value, Tensor):
        return value
    if is_column(value):
        parts = _parts(name, value, integers)
        return parts[0] if len(parts) == 1 else _joined(name, parts, torch.cat)
    if is_rows(value):
        return _of_rows(name, value, integers)
    if not _is_array(value):
        raise TypeError(f"{name} must be {_TAKEN}; got {called(value)}")
    return _of_array(name, value, integers)


def _parts(name: str, column: Any, integers: type | None) -> list[Tensor]:
    try:
        parts = parts_of(name, column)
    except (TypeError, ValueError) as error:
        if str(error).startswith(name):
            raise
        raise _unreadable(name, column, error) from error
    except NotImplementedError as error:  # of Arrow's types without an array
        raise _unreadable(name, column, error) from error
    return [_tensor(name, part, integers) for part in parts]


def _is_array(value: object) -> bool:
    protocols = ("__dlpack__", "__cuda_array_interface__", "__array_interface__", "__array__")
    return not isinstance(value, type) and any(hasattr(value, p) for p in protocols)


def _of_array(name: str, value: Any, integers: type | None) -> Tensor:
    if isinstance(value, np.ndarray):
        return _of_numpy(name, value, integers)
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            return _of_dlpack(value)
        if not hasattr(value, "__cuda_array_interface__"):
            return _of_numpy(name, np.asarray(value), integers)
        if not torch.cuda.is_available():
            raise TypeError("it lies on a GPU, and torch has no CUDA here")
        return torch.as_tensor(value, device="cuda")
    except MemoryError:
        raise
    except Exception as error:  # every library has its own
        if isinstance(error, (TypeError, ValueError)) and str(error).startswith(name):
            raise
        raise _unreadable(name, value, error) from error


def _of_dlpack(value: Any) -> Tensor:
    try:
        return torch.from_dlpack(value)
    except Exception:
        is_on_cpu = int(value.__dlpack_device__()[0]) == _CPU
        if is_on_cpu and hasattr(value, "__array__"):  # a dtype, or a layout, that DLPack has not
            return tensor_of(np.asarray(value))
        raise


def _of_numpy(name: str, array: np.ndarray, integers: type | None) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        if hidden := np.ma.count_masked(array):
            raise ValueError(f"{name} must have no masked entries; got {hidden}")
        array = np.ma.getdata(array)
    if array.dtype == object and array.ndim == 1:
        return _of_rows(name, array.tolist(), integers)
    try:
        return tensor_of(array)
    except TypeError:
        raise TypeError(
            f"{name} must be of a dtype that torch has; got an array of {array.dtype}"
        ) from None


def _of_rows(name: str, rows: Sequence[Any], integers: type | None) -> Tensor:
    kinds = {type(row) for row in rows}
    if all(issubclass(kind, (list, tuple, Number, np.generic)) for kind in kinds):
        return _of_numbers(name, rows, integers)
    forms = {(row.shape, row.dtype) for row in rows} if kinds == {np.ndarray} else set()
    if len(forms) == 1 and rows[0].dtype != object:
        return _of_numpy(name, np.stack(rows), integers)
    tensors = [_tensor(f"{name}[{i}]", row, integers) for i, row in enumerate(rows)]
    return _joined(name, tensors, torch.stack)


def _of_numbers(name: str, rows: Sequence[Any], integers: type | None) -> Tensor:
    try:
        array = np.array(rows)
    except ValueError as error:  # rows of several lengths, or something else inside them
        raise _unreadable(name, rows, error) from None
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be numbers; got {reprlib.repr(rows)}")
    if integers is not None and array.dtype.kind in "iu":
        array = array.astype(integers)
    return _of_numpy(name, array, integers)


def _joined(name: str, parts: Sequence[Tensor], join: Callable[..., Tensor]) -> Tensor:
    """``join``: torch.stack, of rows, or torch.cat, of parts."""
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1 and not all(dtype.is_floating_point for dtype in dtypes):
        raise TypeError(f"{name} must have one dtype; got {', '.join(sorted(map(str, dtypes)))}")
    shapes = {tuple(part.shape[join is torch.cat :]) for part in parts}
    if len(shapes) > 1:
        least, *_, most = sorted(shapes)
        raise ValueError(f"{name} must have rows of one length; got shapes {least} and {most}")
    widest = reduce(torch.promote_types, dtypes)
    try:
        return join([part.to(widest) for part in parts])
    except RuntimeError as error:  # on several devices
        raise _unreadable(name, parts, error) from error


def _axes(value: Any) -> int:
    """How many axes there are: of a sequence, by what comes first in it."""
    if is_rows(value):
        return 1 + (_axes(value[0]) if len(value) else 0)
    ndim = getattr(value, "ndim", None)
    if isinstance(ndim, int) and not is_column(value):
        return ndim
    return as_tensor("prototypes[0]", value).ndim if _is_array(value) or is_column(value) else 0


def _unreadable(name: str, value: object, error: Exception) -> Exception:
    reason = str(error).partition("\n")[0] or type(error).__name__
    what = f"{name} must be {_TAKEN} that torch can read; got {called(value)}"
    return (ValueError if isinstance(error, ValueError) else TypeError)(f"{what} ({reason})")
