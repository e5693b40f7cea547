"""The key of a match, the twin of contract/order.py, and how keys are ranked."""

import triton
import triton.language as tl

from ...contract import order

INF = tl.constexpr(float("inf"))
EMPTY = tl.constexpr(order.EMPTY)
RANKS = tl.constexpr(32)  # keys compared with as many others at a time
DIGITS = tl.constexpr(16)  # of the 32 of a bound: the k-th need not be known better


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


@triton.jit
def reached_by(values, k):
    """A number that at least k of the ``values`` reach: of int64 the k-th largest, which is exact.

    Of fp32 it is near the largest such, or -inf. By bisection of their bits, from the highest.
    """
    if values.dtype == tl.int64:
        low = tl.full((), -(2**63), tl.int64)
        for i in range(64):
            middle = low + (tl.full((), 1, tl.int64) << (63 - i))
            low = tl.where(tl.sum((values >= middle).to(tl.int32), axis=0) >= k, middle, low)
        reached = low
    else:
        bits = ordered(values)
        low = tl.full((), -(2**31), tl.int64)
        for i in tl.static_range(DIGITS):
            middle = low + (1 << (31 - i))
            enough = tl.sum((bits >= middle.to(tl.int32)).to(tl.int32), axis=0) >= k
            low = tl.where(enough, middle, low)
        reached = ordered(low.to(tl.int32)).to(tl.float32, bitcast=True)
        reached = tl.where(reached == reached, reached, -INF)  # bits below those of -inf
    return reached


@triton.jit
def take(found, n_found, k):
    """Leave the k best of ``n_found`` keys, best first, in ``found``, and return the k-th score.

    A key's place is the number of keys above it: no two are equal but those of nothing, which k
    others are above. The places that k and more others are above lie behind the n_found, unread.
    """
    offs = tl.arange(0, RANKS)
    tl.debug_barrier()
    for i in range(0, n_found, RANKS):
        own = tl.load(found + i + offs, mask=i + offs < n_found, other=EMPTY)
        rank = tl.zeros((RANKS,), tl.int32)
        for j in range(0, n_found, RANKS):
            other = tl.load(found + j + offs, mask=j + offs < n_found, other=EMPTY)
            rank += tl.sum((other[None, :] > own[:, None]).to(tl.int32), axis=1)
        tl.store(found + n_found + rank, own, mask=(i + offs < n_found) & (rank < k))
    tl.debug_barrier()
    for i in range(0, k, RANKS):
        best = tl.load(found + n_found + i + offs, mask=i + offs < k, other=EMPTY)
        tl.store(found + i + offs, best, mask=i + offs < k)
    kth = scores_of(tl.load(found + n_found + k - 1))
    tl.debug_barrier()
    return kth


@triton.jit
def recall(found, scores, indices, k):
    """The k best so far as keys; where there are fewer, keys of nothing, no two of them equal."""
    offs = tl.arange(0, RANKS).to(tl.int64)
    for i in range(0, k, RANKS):
        mask = i + offs < k
        index = tl.load(indices + i + offs, mask=mask, other=-1)
        key = pack(tl.load(scores + i + offs, mask=mask, other=0.0), index)
        tl.store(found + i + offs, tl.where(index < 0, i + offs + 1 + EMPTY, key), mask=mask)


@triton.jit
def tell(found, scores, indices, k):
    """The k best as scores and indices; -inf and -1 for none."""
    offs = tl.arange(0, RANKS)
    for i in range(0, k, RANKS):
        mask = i + offs < k
        key = tl.load(found + i + offs, mask=mask, other=EMPTY)
        tl.store(scores + i + offs, scores_of(key), mask=mask)
        tl.store(indices + i + offs, tl.where(is_empty(key), -1, index_of(key)), mask=mask)
