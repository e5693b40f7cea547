"""Vectors divided by their Euclidean norms: fp64's norms and quotients, rounded once."""

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense

_BLOCK_ELEMENTS = 1 << 18


def normalize_L2(x: np.ndarray | Tensor) -> None:
    """Divide each row of ``x`` (n, d), a contiguous float32 array or tensor, by its norm, in place.

    Norms and quotients are fp64's, rounded once. Rows of zeros stay.
    """
    _normalize(_writable(x))


def normalized(rows: Tensor) -> Tensor:
    """A copy of ``rows`` (n, d) float32, divided."""
    copy = rows.clone()
    _normalize(copy)
    return copy


def _normalize(rows: Tensor) -> None:
    for part in rows.split(max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1]))):
        norms = torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=torch.float64)
        part.copy_(part.double() / norms.masked_fill_(norms == 0, 1))


def _writable(x: np.ndarray | Tensor) -> Tensor:
    if not isinstance(x, (np.ndarray, Tensor)):
        raise TypeError(f"x must be an array or a tensor; got {type(x).__name__}")
    if str(x.dtype).removeprefix("torch.") != "float32":
        raise TypeError(f"x must be float32, since it is changed in place; got {x.dtype}")
    if isinstance(x, Tensor):
        require_dense("x", x)
    contiguous = x.flags.c_contiguous if isinstance(x, np.ndarray) else x.is_contiguous()
    if x.ndim != 2 or not contiguous:
        raise ValueError(f"x must have shape (n, d) and be contiguous; got shape {tuple(x.shape)}")
    if isinstance(x, Tensor):
        return x.detach()
    if not x.flags.writeable:
        raise ValueError("x must be writable, since it is changed in place")
    return torch.from_numpy(x)
