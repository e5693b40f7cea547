"""The proof of the int8 screen: codes, their errors, and which of them a threshold excludes.

Both sides are moved into a frame: an origin o, then a rotation R, which changes no scalar product.

    metric   query x        prototype y     b(p)         c(q)
    cosine   q/|q|          p/|p| - o       0            x.o
    dot      q              p - o           0            x.o
    l2       q - o          p - o           -|y|^2 / 2   q.o - |o|^2 / 2

    v = x.y + b(p) + c(q)   in every case, with v the screened value of _bounds.py.

A vector is coded by integers in [-127, 127] and one scale: x = a X + d, y = s Y + e. Prototypes of
a group share s. The product of codes X.Y is exact in int32, and by Cauchy-Schwarz

    x.y = a s X.Y + d.(s Y) + x.e  <=  a s X.Y + |d| |s Y| + |x| |e|.

So a prototype can reach a threshold t only if, with the largest |s Y|, |e| and b of its group,

    X.Y >= (t - c - |d| |s Y| - |x| |e| - b) / (a s),

whose right side is one integer for a query and a group, and whose left side is what the integer
units give: a group is excluded by comparing one integer maximum.

Rounding. u = 2^-24. A coordinate of y is computed in fp32 with few roundings: at most two for p/|p|
and one for casting p, each relative to |p| or 1 <= |o| + |y|; one for subtracting o, and those of
the rotation, relative to |y|. |e| is measured on what was computed, with two more roundings for
y - s Y, and its norm is summed in fp64. Queries go the same way in fp64. Everything stored is
raised by far more than what its last operations can lose, 2^-20 of itself, so that the thresholds'
own arithmetic (fp64, sums of five terms) is covered: each term carries a margin of 2^-40 of itself
or more, against roundings of 2^-50.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._bounds import U32, U64

LARGEST_CODE = 127
MAX_CHANNELS = 1 << 15
"""Up to here even products of 255 x 127, as unsigned units form them, sum up within int32."""

LOWEST = -(2**31)
"""A product of codes that no vectors have: what may not match. No threshold lets it pass."""

_RAISE = 1 + 2.0**-20
_FLOOR = 2.0**-100


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


def scale_of(largest: Tensor) -> Tensor:
    """The scale s, fp32, of groups whose largest coordinate has this size."""
    return (largest.float() * (_RAISE / LARGEST_CODE)).clamp(min=_FLOOR)


def code_prototypes(
    vectors: Tensor, scale: Tensor, origin_norm: float, roundings: int, metric: str
) -> CodedRows:
    """Code ``vectors`` (n, C) fp32, in the frame, by each row's ``scale`` (n,) fp32.

    ``roundings``: of the rotation.
    """
    scale = scale[:, None]
    rounded = (vectors / scale).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
    codes = rounded.to(torch.int8)
    norm = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    residual = torch.linalg.vector_norm(
        torch.sub(vectors, rounded.mul_(scale), out=rounded), dim=1, dtype=torch.float64
    )
    computed = (roundings + 16) * U32 * (origin_norm + norm) + _FLOOR
    error = residual * _RAISE + computed
    bias = torch.zeros_like(norm)
    if metric == "l2":
        bias = (norm - computed).clamp_(min=0).square_().mul_(-0.5 / _RAISE)
    return CodedRows(codes, error, (norm + residual) * _RAISE + _FLOOR, bias)


def code_queries(vectors: Tensor, origin_norm: float, shift: Tensor) -> CodedQueries:
    """Code ``vectors`` (Q, C) fp64, in the frame; ``shift`` (Q,) is c as computed in fp64."""
    scale = (vectors.abs().amax(1) / LARGEST_CODE).clamp_(min=_FLOOR)[:, None]
    rounded = (vectors / scale).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
    norm = torch.linalg.vector_norm(vectors, dim=1)
    residual = torch.linalg.vector_norm(vectors - rounded * scale, dim=1)
    reach = origin_norm + norm
    computed = (vectors.shape[1] + 64) * U64 * reach
    return CodedQueries(
        codes=rounded.to(torch.int8),
        scale=scale[:, 0],
        error=residual * _RAISE + computed + _FLOOR,
        norm=norm * _RAISE + computed + _FLOOR,
        shift=shift + computed * reach,
    )


def group_bounds(scale: Tensor, error: Tensor, size: Tensor, bias: Tensor) -> Tensor:
    """(n, 4) fp32 rows of s, |e|, |s Y|, b from the largest of each group (n,): none too small."""
    raised = [value * _RAISE + _FLOOR for value in (error, size)]
    return torch.stack([scale.double(), *raised, bias + bias.abs() * 2.0**-20], 1).float()


def integer_thresholds(queries: CodedQueries, bounds: Tensor, threshold: Tensor) -> Tensor:
    """(Q, G) int32: below it, no product of codes belongs to a score that reaches ``threshold``.

    ``bounds`` (G, 4) from ``group_bounds``; ``threshold`` (Q,) fp32 screened values.
    """
    scale, error, size, bias = bounds.double().unbind(1)
    t = threshold.double()
    t = t - queries.shift - (t.abs() + queries.shift.abs()) * 2.0**-40
    left = torch.stack([t, -queries.error, -queries.norm, torch.full_like(t, -1)], 1)
    right = torch.stack([torch.ones_like(scale), size, error, bias])
    products = (left / queries.scale[:, None]) @ (right / scale)
    lowest = LOWEST + 1
    return products.nan_to_num_(nan=lowest).clamp_(lowest, -lowest).floor_().int()
