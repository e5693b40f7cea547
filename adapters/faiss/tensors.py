"""What callers give as vectors, made float32 tensors."""

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense


def matrix(name: str, x: object, d: int | None = None, copy: bool = False) -> Tensor:
    """(n, d) float32, contiguous: ``x`` itself where it is that already, unless ``copy``."""
    tensor = _from_tensor(name, x, copy) if isinstance(x, Tensor) else _from_array(name, x, copy)
    if tensor.ndim != 2 or d not in (None, tensor.shape[1]):
        wanted = "(n, d)" if d is None else f"(n, {d})"
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(tensor.shape)}")
    return tensor.contiguous()


def _from_tensor(name: str, x: Tensor, copy: bool) -> Tensor:
    require_dense(name, x)
    if x.is_complex():
        raise TypeError(f"{name} must be real numbers; got {x.dtype}")
    return x.detach().to(torch.float32, copy=copy, memory_format=torch.contiguous_format)


def _from_array(name: str, x: object, copy: bool) -> Tensor:
    try:
        given = np.asarray(x)
        if given.dtype.kind not in "biufO" or x is None:
            raise TypeError
        if copy:
            return torch.from_numpy(np.array(given, dtype=np.float32, order="C"))
        # torch wants arrays that may be written to
        return torch.from_numpy(np.require(given, np.float32, ["C", "W"]))
    except (TypeError, ValueError) as error:
        what = f"; {error}" if str(error) else f"; got {_shown(x)}"
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} must be numbers of shape (n, d){what}") from None


def _shown(x: object) -> str:
    dtype = getattr(x, "dtype", None)
    return type(x).__name__ if dtype is None else f"an array of {dtype}"
