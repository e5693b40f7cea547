"""The key of a match: the twin of contract/order.py."""

import triton
import triton.language as tl

from ...contract import order

INF = tl.constexpr(float("inf"))
EMPTY = tl.constexpr(order.EMPTY)
LAST = tl.constexpr(2**63 - 1)  # no key is above it


@triton.jit
def ordered(numbers):
    """fp32, or the bits of one -> int32 in the order of the floats, and back."""
    bits = numbers if numbers.dtype == tl.int32 else numbers.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def pack(scores, indices):
    """The twin of order.pack: fp32 scores and int64 indices -> int64 keys."""
    return (ordered(scores).to(tl.int64) << 32) | (tl.full((), 0xFFFFFFFF, tl.int64) - indices)


@triton.jit
def is_empty(keys):
    """Whether a key is EMPTY, or EMPTY plus a rank."""
    return (keys >> 32).to(tl.int32) == -2147483648


@triton.jit
def scores_of(keys):
    """The twin of order.scores_of; ``keys`` may be EMPTY or EMPTY plus a rank."""
    bits = ordered((keys >> 32).to(tl.int32))
    return tl.where(is_empty(keys), -INF, bits.to(tl.float32, bitcast=True))


@triton.jit
def index_of(keys):
    """The index, int64, of keys that are not EMPTY."""
    return tl.full((), 0xFFFFFFFF, tl.int64) - (keys & 0xFFFFFFFF)
