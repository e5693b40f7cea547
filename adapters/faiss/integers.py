"""Whole numbers as callers have them: of any type, and hashes of 64 bits without a sign."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense, require_int

INT64 = torch.iinfo(torch.int64)
_TURN = 1 << 64


def key(name: str, value: object) -> int:
    """An id: any integer of 64 bits; one without a sign is what FAISS keeps of it, in int64."""
    whole = require_int(name, value)
    if not INT64.min <= whole < _TURN:
        raise ValueError(f"{name} must be a whole number of 64 bits; got {whole}")
    return whole - _TURN if whole > INT64.max else whole


def int64(name: str, values: object) -> np.ndarray:
    """1-D int64, from whole numbers of any type; uint64 keeps its bits."""
    given = _array(name, values)
    if given.ndim == 0 and given.dtype == object:
        raise TypeError(f"{name} must be an array of whole numbers; got {type(values).__name__}")
    if given.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {given.shape}")
    if given.dtype == object:
        return np.array([_element(name, value) for value in given], dtype=np.int64)
    if given.dtype.kind not in "iuf":
        shown = repr(given[0].item()) if len(given) else str(given.dtype)
        raise TypeError(f"{name} must be whole numbers of 64 bits; got {shown}")
    if given.dtype.kind == "f":
        is_whole = (np.trunc(given) == given) & (abs(given) < -float(INT64.min))
        if not is_whole.all():
            raise ValueError(f"{name} must be whole numbers of 64 bits; got {given[~is_whole][0]}")
    return np.ascontiguousarray(given, dtype=np.int64)


def _array(name: str, values: object) -> np.ndarray:
    if isinstance(values, Tensor):
        require_dense(name, values)
        dense = values.detach().cpu()
        return (dense.double() if dense.is_floating_point() else dense).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be one-dimensional; {error}") from None
    if array.dtype.kind == "f" and isinstance(values, Sequence) and array.ndim == 1:
        return np.array([*values, None], dtype=object)[:-1]  # 2^63 among others became a float
    return array


def _element(name: str, value: object) -> int:
    if isinstance(value, (float, np.floating)):
        if not float(value).is_integer():
            raise ValueError(f"{name} must be whole numbers of 64 bits; got {value}")
        return key(name, int(value))
    try:
        return key(name, value)
    except TypeError:
        raise TypeError(f"{name} must be whole numbers of 64 bits; got {value!r}") from None
