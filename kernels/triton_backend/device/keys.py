"""The key of a match: the twin of contract/order.py."""

import triton
import triton.language as tl

from ...contract import order

INF = tl.constexpr(float("inf"))
EMPTY = tl.constexpr(order.EMPTY)
LAST = tl.constexpr(2**63 - 1)  # no key is above it


@triton.jit
def pack(scores, indices):
    """The twin of order.pack: fp32 scores and int64 indices -> int64 keys."""
    bits = scores.to(tl.int32, bitcast=True)
    flipped = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (flipped.to(tl.int64) << 32) | (tl.full((), 0xFFFFFFFF, tl.int64) - indices)


@triton.jit
def scores_of(keys):
    """The twin of order.scores_of; ``keys`` may be EMPTY or EMPTY plus a rank."""
    flipped = (keys >> 32).to(tl.int32)
    bits = flipped ^ ((flipped >> 31) & 0x7FFFFFFF)
    is_empty = flipped == -2147483648
    return tl.where(is_empty, -INF, bits.to(tl.float32, bitcast=True))
