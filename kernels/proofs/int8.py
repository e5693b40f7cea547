"""The proof of the int8 screen: codes, their errors, and which of them a threshold excludes.

Both sides are moved into a frame: an origin o, then a rotation R, which changes no scalar product.

    metric   query x        prototype y     b(p)         c(q)
    cosine   q/|q|          p/|p| - o       0            x.o
    dot      q              p - o           0            x.o
    l2       q - o          p - o           -|y|^2 / 2   q.o - |o|^2 / 2

    v = x.y + b(p) + c(q)   in every case, with v the screened value of proofs/fp32.py.

A vector is coded by integers in [-127, 127] and one scale: x = a X + d, y = s Y + e. Prototypes of
a group share s. Fewer steps for a query (below) make |d| larger, which is measured, and change
nothing else. The product of codes X.Y is exact in int32, and by Cauchy-Schwarz

    x.y = a s X.Y + d.(s Y) + x.e  <=  a s X.Y + |d| |s Y| + |x| |e|.

So a prototype can reach a threshold t only if, with the largest |s Y|, |e| and b of its group,

    X.Y >= (t - c - |d| |s Y| - |x| |e| - b) / (a s),

whose right side is one integer for a query and a group, and whose left side is what the integer
units give: a group is excluded by comparing one integer maximum.

Units without VNNI multiply unsigned by signed numbers and add pairs of products in int16, which
saturates. With X in [-63, 63] they are given X + 64, in [1, 127]: two products are at most 2 * 127
* 127 < 2^15 in size, nothing saturates, and 64 times the sum of Y is subtracted in int32, where up
to MAX_CHANNELS terms of 127 * 127 fit. What comes out is X.Y rounded to fp32. Rounding to nearest
keeps order: where X.Y >= t, its rounding is not below that of t. So thresholds rounded alike, to
nearest, exclude nothing that thresholds of real numbers would not.

Rounding. u = 2^-24. y is computed in fp32: |p|, off by C/2 + 1 roundings, two for p/|p|, one for
casting p, each relative to |p| or 1 <= |o| + |y|; one for subtracting o, and those of the rotation,
relative to |y|. |e| is measured on what was computed, with two more roundings for y - s Y. A GPU
that codes in passing may be off by 2 more in each square root and quotient. ``code_prototypes``
allows C + 16 roundings and those of the rotation, which is more than all of them. Norms
summed in fp32 are off by C/2 + 1 roundings, and by underflow: 2^-126 for each square. Queries go
the same way in fp64. Everything stored is raised by far more than what its last operations can
lose, 2^-20 of itself, so that the thresholds' own arithmetic (fp64, sums of five terms) is covered:
each term carries a margin of 2^-40 of itself or more, against roundings of 2^-50.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .fp32 import LARGEST, LARGEST_NORM, U32, U64, fp64_slack

LARGEST_CODE = 127
LARGEST_PACKED_QUERY_CODE = 63
"""Of queries, where unsigned units add pairs of products in int16."""
MAX_CHANNELS = 1 << 15
"""Up to here even products of 255 x 127, as unsigned units form them, sum up within int32."""

LOWEST = -(2**31)
"""A product of codes that no vectors have: what may not match. No threshold lets it pass."""

RAISE = 1 + 2.0**-20
TINY = 2.0**-100


class CodedRows(NamedTuple):
    """Prototypes as integers; row i belongs to group ``group_of(i)`` of whoever coded them."""

    codes: Tensor
    """(n, C) int8"""
    error: Tensor
    """(n,) fp64, at least |e|"""
    size: Tensor
    """(n,) fp64, at least |s Y|"""
    bias: Tensor
    """(n,) fp64, at least b"""


class CodedQueries(NamedTuple):
    """Queries as integers."""

    codes: Tensor
    """(Q, C) int8"""
    scale: Tensor
    """(Q,) fp64, a"""
    error: Tensor
    """(Q,) fp64, at least |d|"""
    norm: Tensor
    """(Q,) fp64, at least |x|"""
    shift: Tensor
    """(Q,) fp64, at least c"""


def floor_of(channels: int) -> float:
    """More than underflow takes from a norm that is summed in fp32."""
    return math.sqrt(channels) * 2.0**-62


def scale_of(largest: Tensor) -> Tensor:
    """The scale s, fp32, of groups whose largest coordinate has this size."""
    return (largest.float() * (RAISE / LARGEST_CODE)).clamp(min=TINY)


def code_prototypes(
    vectors: Tensor, scale: Tensor, origin_norm: float, roundings: int, metric: str
) -> CodedRows:
    """Code ``vectors`` (n, C) fp32, in the frame, by each row's ``scale`` (n,) fp32.

    ``roundings``: of the rotation. Raises ValueError beyond MAX_CHANNELS.
    """
    channels, scale = vectors.shape[1], scale[:, None]
    _require_channels(channels)
    rounded = (vectors / scale).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
    codes = rounded.to(torch.int8)
    norm = torch.linalg.vector_norm(vectors, dim=1).double()
    rounded.mul_(scale).sub_(vectors)
    residual = torch.linalg.vector_norm(rounded, dim=1).double()
    roundings += channels + 16
    summed, floor = 1 + roundings * U32, floor_of(channels)
    computed = roundings * U32 * (origin_norm + norm) + floor
    bias = torch.zeros_like(norm)
    if metric == "l2":
        bias = (norm / summed - computed).clamp_(min=0).square_().mul_(-0.5 / RAISE)
    size = (norm + residual) * summed + floor
    return CodedRows(codes, residual * summed + computed, size, bias)


def code_queries(
    vectors: Tensor, origin_norm: float, shift: Tensor, largest: int = LARGEST_CODE
) -> CodedQueries:
    """Code ``vectors`` (Q, C) fp64, in the frame, by integers up to ``largest``; ``shift`` (Q,) is
    c as computed in fp64.

    What underflows in a norm is far below TINY. Raises ValueError beyond MAX_CHANNELS.
    """
    _require_channels(vectors.shape[1])
    scale = (vectors.abs().amax(1) / largest).clamp_(min=TINY)[:, None]
    rounded = (vectors / scale).round_().clamp_(-largest, largest)
    norm = torch.linalg.vector_norm(vectors, dim=1)
    residual = torch.linalg.vector_norm(vectors - rounded * scale, dim=1)
    reach = origin_norm + norm
    computed = (vectors.shape[1] + 64) * U64 * reach
    return CodedQueries(
        codes=rounded.to(torch.int8),
        scale=scale[:, 0],
        error=residual * RAISE + computed + TINY,
        norm=norm * RAISE + computed + TINY,
        shift=shift + 2 * computed * reach,  # two sums of C, up to reach^2 and half
    )


def _require_channels(channels: int) -> None:
    if channels > MAX_CHANNELS:
        raise ValueError(
            f"codes must have at most {MAX_CHANNELS} channels, or their products overflow int32; "
            f"got {channels}"
        )


def group_bounds(scale: Tensor, error: Tensor, size: Tensor, bias: Tensor) -> Tensor:
    """(n, 4) fp32 rows of s, |e|, |s Y|, b from the largest of each group (n,): none too small."""
    raised = [value * RAISE + TINY for value in (error, size)]
    return torch.stack([scale.double(), *raised, bias + bias.abs() * 2.0**-20], 1).float()


def integer_thresholds(
    queries: CodedQueries, bounds: Tensor, threshold: Tensor, like: Tensor | None = None
) -> Tensor:
    """(Q, G): below it, no product of codes belongs to a score that reaches ``threshold``.

    ``bounds`` (G, 4) from ``group_bounds``; ``threshold`` (Q,) fp32 screened values. ``like`` are
    products (Q, G), whose dtype and order in memory it takes: int32, or fp32 rounded to nearest.
    Always above LOWEST in int32, and finite in fp32; where nothing can be said, the least such
    number.
    """
    scale, error, size, bias = bounds.double().unbind(1)
    # Every other number here is finite, and small enough that no product overflows.
    t = threshold.double().nan_to_num(nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
    t = t - queries.shift - (t.abs() + queries.shift.abs()) * 2.0**-40
    left = torch.stack([t, -queries.error, -queries.norm, torch.full_like(t, -1)], 1)
    right = torch.stack([torch.ones_like(scale), size, error, bias])
    out = None if like is None else torch.empty_like(like, dtype=torch.float64)
    products = _products(left / queries.scale[:, None], right / scale, out)
    # Casting rounds towards zero: up, by less than one, where negative.
    return (
        products.sub_(1)
        .clamp_(LOWEST + 1, -LOWEST - 1)
        .to(torch.int32 if like is None else like.dtype)
    )


def _products(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """(Q, n) @ (n, G) fp64 in ``out``, in which each term errs by itself.

    cuBLAS may emulate fp64 by integers that share a scale along a row or a column (its
    documentation, "Floating Point Emulation"), and these terms are far apart in size.
    """
    if left.device.type == "cpu":
        return torch.mm(left, right, out=out)
    total = torch.mul(left[:, :1], right[0], out=out)
    for term in range(1, len(right)):
        total.addcmul_(left[:, term, None], right[term])
    return total


UPPER_MARGIN = 2.0**-20
UPPER_FLOOR = 2.0**-120


def query_terms(queries: CodedQueries, norms: Tensor, origin_norm: float, metric: str) -> Tensor:
    """(4, Q) fp32 rows of a, |d|, |x| and c; l2: c - |q|^2 / 2. For ``group_upper_bounds``.

    ``norms`` (Q,) fp64 are those of the queries as given. c is -inf for a query whose norm is not
    finite, and +inf for one whose products may overflow fp32. For l2, c was q.o - |o|^2 / 2, and
    |q|^2 / 2 is subtracted here; fp64_slack times (|q| + |o|)^2 covers the roundings of both.
    """
    shift = queries.shift
    if metric == "l2":
        slack = fp64_slack(queries.codes.shape[1]) * (norms + origin_norm).square()
        shift = shift + slack - 0.5 * norms.square()
    unbounded = (queries.norm > LARGEST_NORM) | ~(shift.abs() <= LARGEST_NORM**2)
    shift = shift.masked_fill(unbounded, torch.inf).masked_fill(~norms.isfinite(), -torch.inf)
    return torch.stack([queries.scale, queries.error, queries.norm, shift]).float()


def group_upper_bounds(terms: Tensor, bounds: Tensor, maxima: Tensor, metric: str) -> Tensor:
    """(Q, G) fp32 upper bounds of scores, in fp32: what the kernels evaluate; none too small.

    ``terms`` (4, Q) from ``query_terms``; ``bounds`` (G, 4) from ``group_bounds``; ``maxima``
    (Q, G) int32, the largest X.Y of each group. -inf where there is none (LOWEST) or the query may
    not match; +inf where numbers are too large to tell. Else

        u = sum + 2^-20 reach + 2^-120,  sum = a s X.Y + |d||sY| + |x||e| + b + c,
        reach = |a s X.Y| + |d||sY| + |x||e| + |b| + |c|,      for l2 twice that.

    Rounding, in units of u32 = 2^-24 relative to the terms' sizes: fp64 -> fp32 of a, |d|, |x|, c:
    1 each; int32 -> fp32 of X.Y: 1; two products for the first term, one for the next two: so at
    most 4 on any term. Four additions, in any order or fused: 4 of the reach, as are the four that
    make the reach itself. Adding the margin: 1 more of |sum| + margin. Together below 10 u32 (1 +
    2^-20) reach, and the margin is 16 u32 of a reach that is at most 5 u32 too small.
    Flushing to zero costs 2^-126 in at most 12 places: a, s >= 2^-100 are normal, and so is the
    integer multiple s X.Y. Doubling is exact. Nothing overflows to -inf: |x| and |sY| are at most
    10^18, so |a s X.Y|, |b| and |c| are below 10^37 (where b of padding lies), or u is +inf.

    The score as the contract evaluates it, in fp64, may lie (C + 8) 2^-52 |x| (|o| + |y|) from the
    real one (cosine, dot; for l2 that of (|x| + |y|)^2). |e| has counted (C + roundings + 16) u32
    (|o| + |y|) where at most (C / 2 + roundings + 8) occur, which leaves 2^-21 |x| (|o| + |y|); for
    l2, the slack of c has |x|^2, and the raising of b, by 2^-21 |y|^2 at least, the last square.
    """
    scale, error, size, bias = bounds.unbind(1)
    a, d, x, c = terms[:, :, None]
    product = maxima.float() * scale * a
    spread, residual = d * size, x * error
    total = product + spread + residual + bias + c
    reach = product.abs() + spread + residual + bias.abs() + c.abs()
    upper = total + (reach * UPPER_MARGIN + UPPER_FLOOR)
    upper = upper * 2 if metric == "l2" else upper
    in_range = (upper == upper) & (size <= LARGEST_NORM)
    upper = torch.where(in_range, upper, torch.inf)
    return torch.where((maxima == LOWEST) | (c == -torch.inf), -torch.inf, upper)
