"""The int8 screen: the groups of codes whose products with a query reach its threshold.

The proofs are in proofs/int8.py and proofs/int8_scan.py. Products are integers, and so is the
maximum of a group, which is compared; what may hold a match is appended to the entries of its
query, and nothing else is stored.
"""

import triton
import triton.language as tl

from ...proofs import fp32, int8, int8_scan
from .groups import append, bits_of, held_queries, members_apart
from .keys import INF

LOWEST = tl.constexpr(int8.LOWEST)
UPPER_MARGIN = tl.constexpr(int8.UPPER_MARGIN)
UPPER_FLOOR = tl.constexpr(int8.UPPER_FLOOR)
SCAN_MARGIN = tl.constexpr(int8_scan.SCAN_MARGIN)
SCAN_FLOOR = tl.constexpr(int8_scan.SCAN_FLOOR)
LEAST_PRODUCT = tl.constexpr(int8_scan.LEAST_PRODUCT)
LARGEST_THRESHOLD = tl.constexpr(int8_scan.LARGEST_THRESHOLD)
LARGEST_QUOTIENT = tl.constexpr(int8_scan.LARGEST_QUOTIENT)
LARGEST_NORM = tl.constexpr(fp32.LARGEST_NORM)
# Arguments that differ from call to call: no load becomes faster by knowing them.
ROUND_SIZES = ["q_tiles", "p_tiles", "first", "stop", "step", "capacity", "stride_wq", "stride_t"]


@triton.jit
def int8_upper_bounds(best, q_terms, group_terms, stride_t, gain):
    """The twin of int8.group_upper_bounds in proofs. ``best`` int32; pointers broadcast against it.

    q_terms point to the first of four numbers that are stride_t apart, group_terms to four in a
    row. gain: 2 for l2, else 1; a power of two, so that nothing is rounded, and one kernel serves
    every metric.
    """
    a = tl.load(q_terms)
    d = tl.load(q_terms + stride_t)
    x = tl.load(q_terms + 2 * stride_t)
    c = tl.load(q_terms + 3 * stride_t)
    size = tl.load(group_terms + 2)
    bias = tl.load(group_terms + 3)
    product = best.to(tl.float32) * tl.load(group_terms) * a
    slack = d * size + x * tl.load(group_terms + 1)
    reach = tl.abs(product) + slack + tl.abs(bias) + tl.abs(c)
    upper = gain * (product + slack + bias + c + (reach * UPPER_MARGIN + UPPER_FLOOR))
    upper = tl.where((upper == upper) & (size <= LARGEST_NORM), upper, INF)
    upper = tl.where(best == LOWEST, -INF, upper)
    return tl.where(c == -INF, -INF, upper)


@triton.jit
def query_side(terms, thresholds, offs_q, wanted, stride_t, gain):
    """What a query brings to int8_scan.scan_thresholds in proofs: T, D, X and 1 / a.

    Those that are not wanted bring what one brings that may not match.
    """
    a = tl.load(terms + offs_q, mask=wanted, other=1.0)
    d = tl.load(terms + offs_q + stride_t, mask=wanted, other=0.0)
    x = tl.load(terms + offs_q + 2 * stride_t, mask=wanted, other=0.0)
    c = tl.load(terms + offs_q + 3 * stride_t, mask=wanted, other=-INF)
    t = tl.load(thresholds + offs_q, mask=wanted, other=0.0) / gain
    t = tl.minimum(t, LARGEST_THRESHOLD)
    top = (t - c - ((tl.abs(t) + tl.abs(c)) * SCAN_MARGIN + SCAN_FLOOR)) / a
    nothing = c == -INF
    top = tl.where(nothing, INF, tl.minimum(top, LARGEST_QUOTIENT))
    d = tl.where(nothing, 0.0, d * (1.0 + SCAN_MARGIN) / a)
    x = tl.where(nothing, 0.0, x * (1.0 + SCAN_MARGIN) / a)
    return top, d, x, 1.0 / a


@triton.jit
def group_thresholds(top, d, x, inverse_a, scan_terms, offs_g):
    """The twin of int8_scan.scan_thresholds in proofs, (Q, G) fp32, of what query_side gives."""
    inverse_s = tl.load(scan_terms + offs_g * 4)[None, :]
    size = tl.load(scan_terms + offs_g * 4 + 1)[None, :]
    error = tl.load(scan_terms + offs_g * 4 + 2)[None, :]
    bias = tl.load(scan_terms + offs_g * 4 + 3)[None, :]
    slack = d[:, None] * size + x[:, None] * error + inverse_a[:, None] * bias
    return tl.maximum(top[:, None] * inverse_s - slack, LEAST_PRODUCT)  # NaN makes LEAST_PRODUCT


@triton.jit
def product_of_codes(
    q_ptrs, resident, p_ptrs, stride_c, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, RESIDENT: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """(BLOCK_Q, BLOCK_P) int32; of few queries (BLOCK_P, BLOCK_Q), prototypes on the M side."""
    if RESIDENT:
        p = tl.load(p_ptrs)
        if FEW:
            acc = tl.dot(p, tl.trans(resident), out_dtype=tl.int32)
        else:
            acc = tl.dot(resident, tl.trans(p), out_dtype=tl.int32)
    elif FEW:
        acc = tl.zeros((BLOCK_P, BLOCK_Q), tl.int32)
        for c in range(0, stride_c, TILE_C):
            q = tl.trans(tl.load(q_ptrs + c))
            acc = tl.dot(tl.load(p_ptrs + c), q, acc, out_dtype=tl.int32)
    else:
        acc = tl.zeros((BLOCK_Q, BLOCK_P), tl.int32)
        for c in range(0, stride_c, TILE_C):
            p = tl.trans(tl.load(p_ptrs + c))
            acc = tl.dot(tl.load(q_ptrs + c), p, acc, out_dtype=tl.int32)
    return acc


@triton.jit
def group_maxima(
    acc, words, offs_q, offs_g, stride_wq, HAS_PAIRS: tl.constexpr, FEW: tl.constexpr,
    TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """(Q, G) int32: the best product of each group; LOWEST where no member may match."""
    if FEW:
        GROUPS: tl.constexpr = TILE_P // GROUP
        acc = tl.reshape(acc, (GROUP, GROUPS, acc.shape[1]))
        packed = tl.load(words + offs_q[None, :] * stride_wq + offs_g[:, None])
        bits = packed[None, :, :] >> tl.arange(0, GROUP)[:, None, None]
        best = tl.trans(tl.max(tl.where((bits & 1) != 0, acc, LOWEST), axis=0))
    else:
        acc = members_apart(acc, TILE_P, GROUP)
        if HAS_PAIRS:
            packed = tl.load(words + offs_q[:, None] * stride_wq + offs_g[None, :])
            acc = tl.where(bits_of(packed, TILE_P, GROUP), acc, LOWEST)
        else:
            packed = tl.load(words + offs_g)
            if tl.min(packed, axis=0) != 2**GROUP - 1:  # few tiles have unmatchable codes
                acc = tl.where(bits_of(packed[None, :], TILE_P, GROUP), acc, LOWEST)
        best = tl.reshape(tl.max(acc, axis=2), (acc.shape[0], acc.shape[1] * acc.shape[3]))
    return best


@triton.jit(do_not_specialize=ROUND_SIZES)
def scan_codes_kernel(
    query_codes, codes, terms, thresholds, scan_terms, words, entries, counts, resume,
    failed, n_failed, gain, q_tiles, p_tiles, first, stop, step, capacity,
    stride_t, stride_wq, stride_c,
    HAS_PAIRS: tl.constexpr, RESIDENT: tl.constexpr, FEW: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, TILE_C: tl.constexpr,
    TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program holds BLOCK_Q queries and takes every so many of the tiles of a round.

    The tiles of a round are the first..stop of an order in which tile i is i * step mod p_tiles.
    An entry is a group's best product and its number, X.Y << 32 | group.

    query_codes (Qpad, Cpad), codes (p_tiles * BLOCK_P, Cpad) int8, contiguous
    entries (Qpad, segments, capacity) int64, counts (Qpad, segments) int32
    failed, n_failed   queries by number that are scanned again, and how many; None: all are scanned
                       but those that failed. Of a query that failed, ``resume`` is the round's
                       first, before which nothing is appended.
    """
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    COLUMNS: tl.constexpr = 1 if FEW else GROUPS
    tile_q = tl.program_id(0) % q_tiles
    strip = tl.program_id(0) // q_tiles
    n_strips = tl.num_programs(0) // q_tiles
    offs_q, wanted, began = held_queries(failed, n_failed, resume, tile_q, BLOCK_Q)
    if failed is not None:
        stop = tl.where(tile_q * BLOCK_Q < tl.load(n_failed), stop, first)
    top, d, x, inverse_a = query_side(terms, thresholds, offs_q, wanted, stride_t, gain)
    offs_q = offs_q.to(tl.int64)
    offs_c = tl.arange(0, TILE_C)
    offs_t = tl.arange(0, BLOCK_P)
    columns = tl.arange(0, GROUPS)
    q_ptrs = query_codes + offs_q[:, None] * stride_c + offs_c[None, :]
    resident = tl.load(q_ptrs) if RESIDENT else 0
    before = (tile_q * BLOCK_Q).to(tl.int64) * n_strips * COLUMNS  # segments of other tiles
    segments = (tl.arange(0, BLOCK_Q) * n_strips + strip)[:, None] * COLUMNS
    segments += tl.arange(0, COLUMNS)[None, :]
    entries += before * capacity
    count = tl.zeros((BLOCK_Q, COLUMNS), tl.int32)
    tile = ((first + strip).to(tl.int64) * step % p_tiles).to(tl.int32)
    advance = (n_strips.to(tl.int64) * step % p_tiles).to(tl.int32)
    for rank in range(first + strip, stop, n_strips):
        offs_p = tile.to(tl.int64) * BLOCK_P + offs_t
        acc = product_of_codes(
            q_ptrs, resident, codes + offs_p[:, None] * stride_c + offs_c[None, :],
            stride_c, BLOCK_Q, BLOCK_P, TILE_C, RESIDENT, FEW,
        )  # fmt: skip
        offs_g = tile.to(tl.int64) * GROUPS + columns
        best = group_maxima(acc, words, offs_q, offs_g, stride_wq, HAS_PAIRS, FEW, TILE_P, GROUP)
        least = group_thresholds(top, d, x, inverse_a, scan_terms, offs_g)
        hit = best.to(tl.float32) >= least
        if failed is not None:
            hit &= (rank >= began)[:, None]
        count = append(entries, segments, count, hit, best, offs_g, capacity, FEW)
        tile += advance
        tile = tl.where(tile >= p_tiles, tile - p_tiles, tile)
    tl.store(counts + before + segments, count)
