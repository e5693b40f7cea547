"""Nearest rows and all distances of two sets of vectors, without an index."""

import torch
from torch import Tensor

from ...kernels import topk
from ...kernels.contract.arguments import require_int
from .arrays import Array, matches, returned
from .metrics import METRIC_L2, distances, metric_name
from .tensors import matrix

_BLOCK_PAIRS = 1 << 20
"""Distances computed at once: 24 MiB in fp64."""


def knn(xq: object, xb: object, k: int, metric: int = METRIC_L2, metric_arg: float = 0.0) -> tuple:
    """The ``k`` rows of ``xb`` (m, d) nearest to each of ``xq`` (n, d), without an index.

    Returns distances (n, k) and row numbers (n, k), as ``Index.search`` does; tensors where ``xq``
    is one. ``metric_arg`` is for metrics that are not here.
    """
    name = metric_name(metric)
    queries, k = matrix("xq", xq), require_int("k", k, 0)
    rows = matrix("xb", xb, queries.shape[1])
    found = topk(queries, rows, min(k, len(rows)), metric=name, nonfinite="exclude")
    return tuple(returned(values, xq) for values in matches(*found, k, metric))


def pairwise_distances(
    xq: object, xb: object, metric: int = METRIC_L2, metric_arg: float = 0
) -> Array:
    """All distances (n, m) float32 of ``xq`` (n, d) and ``xb`` (m, d), the bits of ``knn``'s.

    A tensor where ``xq`` is one. Vectors with NaN or inf have the distances that arithmetic gives.
    Time is O(n m d). ``metric_arg`` is for metrics that are not here.
    """
    name = metric_name(metric)
    queries = matrix("xq", xq)
    rows = matrix("xb", xb, queries.shape[1]).to(queries.device)
    found = torch.empty(len(queries), len(rows), device=queries.device)
    if found.numel():
        step = max(1, _BLOCK_PAIRS // len(rows))
        for part, block in zip(found.split(step), queries.split(step), strict=True):
            part.copy_(distances(_scores(block, rows, name), metric))
    return returned(found, xq)


def _scores(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    strange = ~queries.isfinite().all(1), ~rows.isfinite().all(1)
    found = topk(queries.nan_to_num(0, 0, 0), rows.nan_to_num(0, 0, 0), len(rows), metric=metric)
    scores = torch.empty_like(found.scores).scatter_(1, found.indices, found.scores)
    for row in strange[0].nonzero()[:, 0].tolist():
        scores[row] = _arithmetic(queries[row], rows, metric)
    for row in strange[1].nonzero()[:, 0].tolist():
        scores[:, row] = _arithmetic(rows[row], queries, metric)
    return scores


def _arithmetic(vector: Tensor, rows: Tensor, metric: str) -> Tensor:
    if metric == "dot":
        return (rows.double() * vector).sum(1).float()
    return -(rows.double() - vector).square().sum(1).float()
