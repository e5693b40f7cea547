"""Ids as people hand them in: integers or strings, in tensors, arrays, columns and sequences."""

import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ...contract.arguments import ID_LIMIT, require_dense, require_int

INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)

_EXPECTED = {
    None: "all integers or all strings",
    "integers": "integers, as all of this bank are",
    "strings": "strings, as all of this bank are",
}

_LISTS = ("to_pylist", "to_list", "tolist")
"""What columns of other libraries call it: pyarrow; pandas and polars; pandas and arrays."""


def as_ids(ids: object, kind: str | None = None) -> Tensor | list[str]:
    """A 1-D int64 tensor on the CPU, or a list of str, from many of them or a single one.

    Args:
        ids: a tensor, an array, a column of a frame, a sequence; an integer or a string.
        kind: "integers" or "strings", where only those will do; None: either, and none at all
            are integers.

    Raises:
        TypeError: something that is neither, or not of that kind.
        ValueError: more than one dimension; integers below 0 or from 2^63 on.
    """
    values = _as_array_or_list(ids, kind)
    if isinstance(values, np.ndarray) and values.ndim > 1:
        raise ValueError(f"ids must be 1-D; got shape {values.shape}")
    if len(values) == 0:
        return [] if kind == "strings" else torch.empty(0, dtype=torch.int64, device="cpu")
    is_named = kind == "strings" or (kind is None and isinstance(values[0], str))
    return _names(values, kind) if is_named else _integers(values, kind)


def _names(values: np.ndarray | list, kind: str | None) -> list[str]:
    names = values.tolist() if isinstance(values, np.ndarray) else values
    if set(map(type, names)) == {str}:
        return names
    for name in names:
        if not isinstance(name, str):
            _refuse(name, kind)
    return [str.__str__(name) for name in names]  # of subclasses, the text alone


def _integers(values: np.ndarray | list, kind: str | None) -> Tensor:
    if isinstance(values, list):  # one by one, to say which of them is none
        array = np.array([_as_id(value, kind) for value in values], dtype=np.int64)
    else:
        array = values
    if array.dtype.kind == "i" and (array < 0).any():
        raise ValueError(f"ids must not be negative; got {shown(array[array < 0])}")
    if array.dtype.kind == "u" and (array >= ID_LIMIT).any():
        raise ValueError(f"ids must be below 2^63; got {shown(array[array >= ID_LIMIT])}")
    return torch.from_numpy(array.astype(np.int64))


def _as_array_or_list(ids: object, kind: str | None) -> np.ndarray | list:
    """An array of integers, or one of several dimensions, or a list of the very objects."""
    if isinstance(ids, Tensor):
        require_dense("ids", ids)
        if ids.numel() and ids.dtype not in INTEGERS:
            _refuse(ids.dtype, kind)
        return ids.detach().cpu().numpy().reshape(-1 if ids.ndim == 0 else ids.shape)
    if isinstance(ids, str):
        return [ids]
    if hasattr(ids, "__array__"):
        array = np.asarray(ids)
        array = array.reshape(1) if array.ndim == 0 else array
        if array.ndim > 1 or array.dtype.kind in "iu":
            return array
        if isinstance(ids, (np.ndarray, np.generic)):
            return array.tolist() if array.dtype.kind in "OTU" else list(array)
    for name in _LISTS:  # an array of a column's strings would lose NULs at their ends
        if hasattr(ids, name):
            return _as_sequence(getattr(ids, name)())
    if hasattr(ids, "to_numpy"):
        return _as_array_or_list(ids.to_numpy(), kind)  # pyright: ignore
    if isinstance(ids, (bytes, bytearray)) or not isinstance(ids, Sequence):
        return [_as_id(ids, kind)]
    return _as_sequence(ids)


def _as_sequence(ids: Sequence) -> np.ndarray | list:
    """What is handed in one by one. 2^63 and smaller ones would be floats in an array."""
    kinds = set() if isinstance(ids, range) else set(map(type, ids))
    if bool in kinds or any(issubclass(kind, str) for kind in kinds):
        return list(ids)
    try:
        array = np.asarray(ids)
    except ValueError:  # rows of several lengths
        return list(ids)
    return array if array.dtype.kind in "iu" else list(ids)


def _as_id(value: object, kind: str | None) -> int:
    try:
        number = require_int("ids", value)
    except TypeError:
        _refuse(value, kind)
    if not 0 <= number < ID_LIMIT:
        rule = "not be negative" if number < 0 else "be below 2^63"
        raise ValueError(f"ids must {rule}; got {number}")
    return number


def _refuse(value: object, kind: str | None) -> NoReturn:
    what = value if isinstance(value, torch.dtype) else reprlib.repr(value)
    raise TypeError(f"ids must be {_EXPECTED[kind]}; got {what}")


def require_unique(ids: Tensor | list[str]) -> None:
    if isinstance(ids, Tensor):
        ordered = ids.sort().values
        repeated = ordered[1:][ordered[1:] == ordered[:-1]].unique()
    elif len(set(ids)) < len(ids):
        repeated = [name for name, count in Counter(ids).items() if count > 1]
    else:
        return
    if len(repeated):
        raise ValueError(f"ids must be unique; got {shown(repeated)} more than once")


def shown(ids: Tensor | np.ndarray | list[str]) -> str:
    """A few of them, in words."""
    few = ids[:5] if isinstance(ids, list) else ids[:5].tolist()
    return ", ".join(map(reprlib.repr, few)) + ", ..." * (len(ids) > 5)
