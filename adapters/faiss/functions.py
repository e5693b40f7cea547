"""FAISS's functions that belong to no index."""

import copy

import numpy as np
import torch
from torch import Tensor

from ...kernels import topk
from .arrays import METRIC_L2, count, matches, matrix, metric_name, returned
from .flat import IndexFlat
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index

_WRAPPERS = {
    "Flat": None,
    "IDMap,Flat": IndexIDMap,
    "Flat,IDMap": IndexIDMap,
    "IDMap2,Flat": IndexIDMap2,
    "Flat,IDMap2": IndexIDMap2,
}
_BLOCK_ELEMENTS = 1 << 18


def index_factory(
    d: int, description: str, metric: int = METRIC_L2, *, device: torch.device | str | None = None
) -> Index:
    """The index described: ``"Flat"``, ``"IDMap,Flat"`` or ``"IDMap2,Flat"``.

    Raises:
        NotImplementedError, which is a RuntimeError: any other description or metric.
    """
    if description not in _WRAPPERS:
        known = ", ".join(map(repr, _WRAPPERS))
        raise NotImplementedError(f"description must be one of {known}; got {description!r}")
    flat, wrapper = IndexFlat(d, metric, device=device), _WRAPPERS[description]
    return flat if wrapper is None else wrapper(flat)


def clone_index(index: Index) -> Index:
    """An index of its own with the same vectors and ids."""
    return copy.deepcopy(index)


def downcast_index(index: Index) -> Index:
    """The index itself: none is ever of a more general type than it is."""
    return index


def knn(xq: object, xb: object, k: int, metric: int = METRIC_L2, metric_arg: float = 0.0) -> tuple:
    """The ``k`` rows of ``xb`` (m, d) nearest to each of ``xq`` (n, d), without an index.

    Returns distances (n, k) and row numbers (n, k), as ``Index.search`` does; tensors where ``xq``
    is one. ``metric_arg`` is for metrics that are not here.
    """
    name = metric_name(metric)
    queries, k = matrix("xq", xq), count("k", k, 0)
    rows = matrix("xb", xb, queries.shape[1])
    found = topk(queries, rows, min(k, len(rows)), metric=name, nonfinite="exclude")
    return tuple(returned(values, xq) for values in matches(*found, k, metric))


def normalize_L2(x: np.ndarray | Tensor) -> None:
    """Divide each row of ``x`` (n, d), a contiguous float32 array or tensor, by its norm, in place.

    Norms and quotients are fp64's, rounded once. Rows of zeros stay.
    """
    rows = _writable(x)
    for part in rows.split(max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1]))):
        norms = torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=torch.float64)
        part.copy_(part.double() / norms.masked_fill_(norms == 0, 1))


def _writable(x: np.ndarray | Tensor) -> Tensor:
    if not isinstance(x, (np.ndarray, Tensor)):
        raise TypeError(f"x must be an array or a tensor; got {type(x).__name__}")
    if str(x.dtype).removeprefix("torch.") != "float32":
        raise TypeError(f"x must be float32, since it is changed in place; got {x.dtype}")
    contiguous = x.flags.c_contiguous if isinstance(x, np.ndarray) else x.is_contiguous()
    if x.ndim != 2 or not contiguous:
        raise ValueError(f"x must have shape (n, d) and be contiguous; got shape {tuple(x.shape)}")
    if isinstance(x, Tensor):
        return x.detach()
    if not x.flags.writeable:
        raise ValueError("x must be writable, since it is changed in place")
    return torch.from_numpy(x)


def omp_set_num_threads(n: int) -> None:
    """``torch.set_num_threads``."""
    torch.set_num_threads(count("n", n, 1))


def omp_get_max_threads() -> int:
    """``torch.get_num_threads``."""
    return torch.get_num_threads()


def get_num_gpus() -> int:
    """0: no index is moved to a GPU; it is made there, with ``device="cuda"``."""
    return 0
