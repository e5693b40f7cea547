"""All rows within a limit, by the very distances that are returned.

Products of vectors in fp64, as fast as they can be had, bound the square of every distance from
below: |q - p|^2 = |q|^2 + |p|^2 - 2 q.p, less than what all its roundings can come to. Pairs whose
bound is within the limit are measured, and their distance decides. Few are measured in vain: the
bound is off by some 2^-43 of the vectors' squares.
"""

import torch
from torch import Tensor

from ..kernels.concurrency.fit_thread import in_fit_thread
from ..kernels.contract.metrics import COSINE_EPS
from ._measured import MeasuredRows

_ROWS = 1 << 12
_PRODUCTS = 1 << 21  # at a time: 16 MiB


def within(rows: MeasuredRows, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All rows at most as far as a limit: those whose distance, rounded to its dtype, is <= it.

    Args:
        queries: (Q, C) float32 or float64, on the rows' device.
        limits: (Q,) float64 or float32, each query's, not NaN; on the rows' device.

    Returns:
        For the m pairs found, by query, then by index: queries (m,) int64, distances (m,) in the
        dtype of ``limits``, indices (m,) int64.

    Time is O(Q M C + m C). Memory beyond the result is some 100 MiB at most, and as much as the
    result's.
    """
    suited, queries = rows.in_units_of(queries)
    return in_fit_thread([queries, rows.rows], _within, suited, queries, limits)


def _within(rows: MeasuredRows, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    step = max(1, _PRODUCTS // min(_ROWS, len(rows.rows)))
    parts = [
        (start, _of_part(rows, queries[start : start + step], limits[start : start + step]))
        for start in range(0, len(queries), step)
    ]
    owners, distances, indices = zip(*(found for _, found in parts), strict=True)
    owners = [found + start for (start, _), found in zip(parts, owners, strict=True)]
    return torch.cat(owners), torch.cat(distances), torch.cat(indices)


def _of_part(rows: MeasuredRows, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    most, q = _largest_bounds(rows, queries, limits), _ready(rows, queries)
    found = []
    for start in range(0, len(rows.rows), _ROWS):
        p = _ready(rows, rows.rows[start : start + _ROWS])
        bounds = torch.addmm(_offsets(rows, p), q, p.T, alpha=-2)
        owners, indices = (~(bounds > most[:, None])).nonzero(as_tuple=True)  # NaN, too, is open
        indices += start
        distances = rows.rounded(rows.to_pairs(queries, owners, indices), limits.dtype)
        inside = distances <= limits[owners]
        found.append((owners[inside], distances[inside], indices[inside]))
    owners, distances, indices = (torch.cat(blocks) for blocks in zip(*found, strict=True))
    order = owners.argsort(stable=True)
    return owners[order], distances[order], indices[order]


def _ready(rows: MeasuredRows, vectors: Tensor) -> Tensor:
    """Of which products are made: in fp64, and for cosines of length 1, or less where short."""
    vectors = vectors.double()
    if rows.distance != "cosine":
        return vectors
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms.clamp(min=COSINE_EPS)


def _offsets(rows: MeasuredRows, ready: Tensor) -> Tensor:
    """What bounds have besides products, of one side (n,): squares of lengths, less the error.

    Of n terms in any order, a sum of products is off by n 2^-53 |q| |p| at most, and squares by as
    much of themselves; |q| |p| is at most (|q|^2 + |p|^2) / 2. The distance that decides is off by
    less.
    """
    if rows.distance == "cosine":
        return ready.new_zeros(len(ready))
    return ready.square().sum(dim=1) * (1 - _error(ready))


def _error(vectors: Tensor) -> float:
    return (vectors.shape[1] + 16) * 2.0**-50


def _largest_bounds(rows: MeasuredRows, queries: Tensor, limits: Tensor) -> Tensor:
    """(Q,): pairs of a larger bound are beyond the limit. 2 (1 - cos) <= 2 limit, of cosines."""
    q, error = _ready(rows, queries), _error(queries)
    of_dtype = torch.finfo(limits.dtype)
    least = 2 * of_dtype.smallest_normal * of_dtype.eps  # distances may be rounded to 0
    wide = limits.double() * (1 + 4 * of_dtype.eps) + least
    if rows.distance == "cosine":
        return 2 * (wide + error - 1)
    wide = wide / rows.unit
    squares = wide.square() if rows.distance == "euclidean" else wide / rows.unit
    underflow = queries.shape[1] * 2.0**-1060
    return squares * (1 + error) + underflow - _offsets(rows, q)
