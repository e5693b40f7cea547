"""Results as what callers gave: arrays or tensors, made here or given to be written to."""

import numpy as np
import torch
from torch import Tensor

from .metrics import distances

Array = np.ndarray | Tensor

WORST = torch.finfo(torch.float32).max
"""FAISS's distance where there is no match; negative for scalar products."""


def require_out(name: str, out: object, shape: tuple[int, ...], dtype: str) -> None:
    """``out`` is None, or an array or tensor to write such a result to."""
    if out is None:
        return
    if not isinstance(out, (np.ndarray, Tensor)):
        raise TypeError(f"{name} must be an array or a tensor; got {type(out).__name__}")
    if str(out.dtype).removeprefix("torch.") != dtype:
        raise TypeError(f"{name} must be {dtype}; got {out.dtype}")
    if tuple(out.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(out.shape)}")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError(f"{name} must be writable")


def returned(values: Tensor, like: object, out: Array | None = None):
    """``values`` written to ``out``; without one, a tensor if ``like`` is one, else an array."""
    if isinstance(out, Tensor):
        return out.copy_(values)
    if out is not None:
        out[...] = values.cpu().numpy()
        return out
    return values if isinstance(like, Tensor) else values.cpu().numpy()


def matches(scores: Tensor, indices: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    """Matches (n, <= k) as FAISS's distances and labels (n, k).

    FAISS starts from ranks that hold the largest number, and -1; what is not better never enters.
    """
    missing = k - scores.shape[1]
    scores = torch.nn.functional.pad(scores, (0, missing), value=-WORST)
    indices = torch.nn.functional.pad(indices, (0, missing), value=-1)
    found = scores > -WORST
    return distances(scores.clamp(min=-WORST), metric), indices.masked_fill(~found, -1)
