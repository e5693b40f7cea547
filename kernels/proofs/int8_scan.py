"""The proof of a scan of int8 codes: thresholds in fp32, of which no product of a match is below.

proofs/int8.py excludes a group by one integer for a query and a group. A scan has no time for fp64:
it compares in fp32 what four multiply-adds give, of numbers prepared for each side.
"""

import torch
from torch import Tensor

from .fp32 import LARGEST_NORM

SCAN_MARGIN = 2.0**-20
SCAN_FLOOR = 2.0**-120
LEAST_PRODUCT = -(2.0**30)
"""Below every product of codes, and above LOWEST: 127 * 127 * MAX_CHANNELS < 2^30."""
LARGEST_THRESHOLD = 1e37
LARGEST_QUOTIENT = 3e38


def scan_terms(bounds: Tensor) -> Tensor:
    """(n, 4) fp32 rows of 1 / s, S, E, B from rows of ``group_bounds``, for ``scan_thresholds``.

    S = |s Y| / s and E = |e| / s, raised, in steps of the codes; B = b / s. S is infinite where
    nothing bounds the group.
    """
    scale, error, size, bias = bounds.double().unbind(1)
    bias = bias + bias.abs() * SCAN_MARGIN
    error = error * (1 + SCAN_MARGIN) / scale + SCAN_MARGIN
    size = (size * (1 + SCAN_MARGIN) / scale).masked_fill(~(size <= LARGEST_NORM), torch.inf)
    return torch.stack([1 / scale, size, error, bias / scale], 1).float()


def scan_thresholds(terms: Tensor, groups: Tensor, threshold: Tensor, metric: str) -> Tensor:
    """(Q, G) fp32: a product of codes below it belongs to no score that reaches ``threshold``.

    What the kernels evaluate, in fp32, where a product is first rounded to fp32, which keeps order.
    ``terms`` (4, Q) from ``query_terms``; ``groups`` (G, 4) from ``scan_terms``; ``threshold`` (Q,)
    fp32 scores, t or for l2 half of them. With M = 2^-20,

        T = (t - c - M (|t| + |c|) - 2^-120) / a,    D = (1 + M) |d| / a,    X = (1 + M) |x| / a,
        threshold = T / s - (D S + X E + B / a),

    which is what integer_thresholds has, from another side.

    Rounding, in units of u32, relative to what stands for each term. T / s: a score that rounds to
    t lies 1 below it at most, c and a are off by 1 each, three operations make T, 1 / s and the
    product 1 each: 8 of (|t| + |c|) / (a s). D S: |d| and a 1 each, D has 3 more, S 1, the product
    1: 7; X E alike. B / a: B 1, a 1, two operations: 4. Three additions are 3 of them all. That is
    11, and each term is moved by 16 of itself: M (|t| + |c|), twice M of D S and X E, M of |b|.
    Flushing to zero: t - c may lose 2^-126, which 2^-120 covers; a quotient T below 2^-126 loses at
    most 2^-126 / s <= 2^-26 of a product, and the other terms far less, which E covers: it is at
    least M more than |e| / s, and X >= 1.
    Range. t is taken for at most 10^37, which no score reaches whose norms are at most 10^18, and T
    for at most 3 10^38: both only lower the threshold. T / s may overflow to +inf only where it is
    above 2^128, and then the rest, if finite, leaves more than 2^107: no product is as large. What
    else overflows makes -inf or NaN, which is taken for LEAST_PRODUCT, and so are c = +inf and
    S = +inf, of which nothing is known. c = -inf lets nothing pass but of groups with S = +inf.
    """
    a, d, x, c = terms[:, :, None]
    t = (threshold * 0.5 if metric == "l2" else threshold)[:, None].clamp(max=LARGEST_THRESHOLD)
    top = (t - c - ((t.abs() + c.abs()) * SCAN_MARGIN + SCAN_FLOOR)) / a
    nothing = c == -torch.inf
    top = top.clamp(max=LARGEST_QUOTIENT).masked_fill(nothing, torch.inf)
    d, x = ((each * (1 + SCAN_MARGIN) / a).masked_fill(nothing, 0) for each in (d, x))
    inverse, size, error, bias = groups.unbind(1)
    slack = d * size + x * error + bias / a
    return torch.fmax(top * inverse - slack, torch.full_like(a, LEAST_PRODUCT))
