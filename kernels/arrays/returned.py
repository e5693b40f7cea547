"""The way back: answers in the kind of array that was asked with."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .columns import is_column
from .taken import is_rows

Found = TypeVar("Found")
_NARROWER = {torch.int64: torch.int32, torch.float64: torch.float32}


def in_kind_of(given: object, found: Found) -> Found:
    """``found``, a tensor, or a named tuple or dict of them, in the kind of ``given``.

    Tensors for a tensor. For an array whose namespace has ``from_dlpack`` (JAX, CuPy), arrays of
    that namespace, where the tensors are, without a copy. For a sequence, the kind of its first
    element, if that is an array. For all else, NumPy arrays.

    A namespace without int64 or float64, as JAX's unless it is told otherwise, gets int32 and
    float32.

    Raises:
        ValueError: an index does not fit into int32, where there is no int64.
    """
    if isinstance(given, Tensor):
        return found
    return _each(found, _way_back(given))


def _each(found: Any, back: Callable[[Tensor], Any]) -> Any:
    if isinstance(found, Tensor):
        return back(found)
    if isinstance(found, dict):
        return {name: _each(value, back) for name, value in found.items()}
    if isinstance(found, tuple):
        return type(found)(*(_each(value, back) for value in found))
    return found  # names, of which every library's user gets NumPy's array


def _way_back(given: Any) -> Callable[[Tensor], Any]:
    while is_rows(given) and len(given):
        given = given[0]
    if isinstance(given, Tensor):
        return lambda tensor: tensor
    namespace = _namespace(given)
    return _to_numpy if namespace is None else lambda tensor: _to_namespace(tensor, namespace)


def _namespace(given: Any) -> Any:
    """Where the functions are that make such arrays, or None: NumPy's make them."""
    if isinstance(given, (np.ndarray, np.generic)) or is_column(given):
        return None
    if hasattr(given, "__array_namespace__"):
        found = given.__array_namespace__()
    else:
        found = sys.modules.get(type(given).__module__.partition(".")[0])
    of_dlpack = hasattr(given, "__dlpack__") and hasattr(found, "from_dlpack")
    return found if of_dlpack else None


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.numpy(force=True)


def _to_namespace(tensor: Tensor, namespace: Any) -> Any:
    tensor = tensor.detach()
    info = getattr(namespace, "__array_namespace_info__", None)
    if info is not None and str(tensor.dtype).removeprefix("torch.") not in info().dtypes():
        tensor = _narrowed(tensor)
    return namespace.from_dlpack(tensor)


def _narrowed(tensor: Tensor) -> Tensor:
    dtype = _NARROWER.get(tensor.dtype, tensor.dtype)
    if dtype == torch.int32 and tensor.numel() and int(tensor.max()) >= 2**31:
        raise ValueError(
            "queries must be of a library with int64, for indices from 2^31 on; "
            f"got the index {int(tensor.max())}"
        )
    return tensor.to(dtype)
