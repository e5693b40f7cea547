"""Vectors as others hand them over, lists and arrays, as tensors that flashmatch takes."""

import warnings

import numpy as np
import torch
from torch import Tensor

from ..kernels.arrays.memory import tensor_of
from ..kernels.contract.arguments import require_dense

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def as_vectors(name: str, value: object) -> Tensor:
    """A (rows, channels) tensor of floats: a view of ``value`` where torch can have one.

    ``value`` is a tensor, an array, or a list of rows that are tensors, arrays or numbers; one row
    alone (C,) is taken for (1, C), and nothing at all for (0, 0). Integers become float64, which
    holds them exactly to 2^53, and floats of fewer than 16 bits float32.

    Raises:
        TypeError, ValueError: sparse or complex, or not one or two axes of numbers.
    """
    tensor = _tensor(name, value)
    require_dense(name, tensor)
    tensor = tensor.detach()
    if tensor.is_complex():
        raise TypeError(f"{name} must be real; got {tensor.dtype}")
    if tensor.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (rows, channels); got {tuple(tensor.shape)}")
    if tensor.dtype not in FLOATING:
        tensor = tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)
    if tensor.ndim == 2:
        return tensor
    return tensor[None] if len(tensor) else tensor.reshape(0, 0)


def _tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, (list, tuple)) and len(value) and isinstance(value[0], Tensor):
            return torch.stack(list(value))
        if isinstance(value, (list, tuple)) and len(value) and isinstance(value[0], np.ndarray):
            value = np.stack(value)
        if isinstance(value, np.ndarray):
            return tensor_of(value)
        with warnings.catch_warnings():
            # A read-only file may be mapped here, and nobody writes to it.
            warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
            return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor, an array or a list of rows; "
            f"got {type(value).__name__} ({error})"
        ) from error
