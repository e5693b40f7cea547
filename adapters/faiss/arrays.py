"""Arrays and tensors: what callers give as float32 and int64, and results as what callers gave."""

import operator

import numpy as np
import torch
from torch import Tensor

METRIC_INNER_PRODUCT = 0
METRIC_L2 = 1
METRICS = {METRIC_INNER_PRODUCT: "dot", METRIC_L2: "l2"}
"""FAISS's numbers, and the metrics of ``flashmatch.topk`` that they stand for."""

INT64 = torch.iinfo(torch.int64)
WORST = torch.finfo(torch.float32).max
"""FAISS's distance where there is no match; negative for scalar products."""


def matrix(name: str, x: object, d: int | None = None, copy: bool = False) -> Tensor:
    """(n, d) float32, contiguous: ``x`` itself where it is that already, unless ``copy``."""
    if isinstance(x, Tensor):
        kept = torch.contiguous_format
        tensor = x.detach().to(torch.float32, copy=copy, memory_format=kept)
    elif copy:
        tensor = torch.from_numpy(np.array(x, dtype=np.float32, order="C"))
    else:  # torch wants arrays that may be written to
        tensor = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))
    if tensor.ndim != 2 or d not in (None, tensor.shape[1]):
        wanted = "(n, d)" if d is None else f"(n, {d})"
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(tensor.shape)}")
    return tensor.contiguous()


def int64(name: str, values: object) -> np.ndarray:
    """1-D int64, from whole numbers of any type."""
    given = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {given.shape}")
    with np.errstate(invalid="ignore"):
        whole = given.astype(np.int64)
    if not np.array_equal(whole, given):
        raise ValueError(f"{name} must be whole numbers of 64 bits; got {given[whole != given][0]}")
    return np.ascontiguousarray(whole)


def count(name: str, value: object, least: int) -> int:
    """A Python int of at least ``least``, from any integer."""
    try:
        whole = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(f"{name} must be an int; got {type(value).__name__}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}; got {whole}")
    return whole


def metric_name(metric: int) -> str:
    if metric not in METRICS:
        raise NotImplementedError(
            f"metric must be METRIC_INNER_PRODUCT (0) or METRIC_L2 (1); got {metric!r}"
        )
    return METRICS[metric]


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


def returned(values: Tensor, like: object, out: np.ndarray | Tensor | None = None):
    """``values`` written to ``out``; without one, a tensor if ``like`` is one, else an array."""
    if isinstance(out, Tensor):
        return out.copy_(values)
    if out is not None:
        out[...] = values.cpu().numpy()
        return out
    return values if isinstance(like, Tensor) else values.cpu().numpy()


def distances(scores: Tensor, metric: int) -> Tensor:
    """Scores with FAISS's sign."""
    return scores if metric == METRIC_INNER_PRODUCT else 0.0 - scores  # so that 0 is not -0


def matches(scores: Tensor, indices: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    """Matches (n, <= k) as FAISS's distances and labels (n, k).

    FAISS starts from ranks that hold the largest number, and -1; what is not better never enters.
    """
    missing = k - scores.shape[1]
    scores = torch.nn.functional.pad(scores, (0, missing), value=-WORST)
    indices = torch.nn.functional.pad(indices, (0, missing), value=-1)
    found = scores > -WORST
    return distances(scores.clamp(min=-WORST), metric), indices.masked_fill(~found, -1)


def swig_ptr(array: np.ndarray) -> np.ndarray:
    """The array itself, where FAISS has a pointer to it."""
    return array


def rev_swig_ptr(array: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` elements, as in ``rev_swig_ptr(index.get_xb(), index.ntotal * index.d)``."""
    return array[:n]


def vector_to_array(values: np.ndarray) -> np.ndarray:
    """A copy, as in ``vector_to_array(index.id_map)``."""
    return np.array(values)
