"""The int8 screen: one upper bound per query and group of prototype codes.

The proofs are in proofs/int8.py. Scores are integers until the maximum of their group is taken.
"""

import triton
import triton.language as tl

from ...proofs import fp32, int8
from .groups import SCAN_SIZES, bits_of, members_apart, tile_of, tile_product
from .keys import INF

LOWEST = tl.constexpr(int8.LOWEST)
UPPER_MARGIN = tl.constexpr(int8.UPPER_MARGIN)
UPPER_FLOOR = tl.constexpr(int8.UPPER_FLOOR)
LARGEST_NORM = tl.constexpr(fp32.LARGEST_NORM)


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
    return tl.where((best == LOWEST) | (c == -INF), -INF, upper)


@triton.jit
def store_int8_bounds(
    acc, terms, group_terms, words, bounds, gain, tile_q, tile_p, stride_t, stride_bq,
    HAS_PAIRS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The epilogue of a scan: (BLOCK_Q, BLOCK_P) integer products to one bound per group."""
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    offs_q = tile_q.to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_g = tile_p.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    offs_qg = offs_q[:, None] * stride_bq + offs_g[None, :]
    acc = members_apart(acc, TILE_P, GROUP)
    if HAS_PAIRS:
        acc = tl.where(bits_of(tl.load(words + offs_qg), TILE_P, GROUP), acc, LOWEST)
    else:
        packed = tl.load(words + offs_g)
        if tl.min(packed, axis=0) != 2**GROUP - 1:  # few tiles have unmatchable codes
            acc = tl.where(bits_of(packed[None, :], TILE_P, GROUP), acc, LOWEST)
    best = tl.reshape(tl.max(acc, axis=2), (BLOCK_Q, GROUPS))
    if HAS_PAIRS:
        tl.debug_barrier()  # every thread has read its words before any bound overwrites one
    upper = int8_upper_bounds(
        best, terms + offs_q[:, None], group_terms + offs_g[None, :] * 4, stride_t, gain
    )  # fmt: skip
    tl.store(bounds + offs_qg, upper)


@triton.jit(do_not_specialize=SCAN_SIZES)
def scan_codes_kernel(
    query_codes, codes, q_tiles, p_tiles, terms, group_terms, words, bounds, gain,
    stride_t, stride_bq, stride_c,
    HAS_PAIRS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, TOGETHER: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program bounds BLOCK_Q queries against the groups of BLOCK_P codes.

    query_codes (Qpad, Cpad), codes (Mpad, Cpad) int8, as tile_product wants them.
    words (1 or Qpad, Mpad / GROUP) of pack_mask_kernel; those of pairs lie where bounds will.
    bounds (Qpad, Mpad / GROUP).
    """
    tile_q, tile_p = tile_of(tl.program_id(0), q_tiles, p_tiles, TOGETHER)
    acc = tile_product(
        query_codes, codes, tile_q, tile_p, stride_c, BLOCK_Q, BLOCK_P, TILE_C, tl.int32
    )  # fmt: skip
    store_int8_bounds(
        acc, terms, group_terms, words, bounds, gain, tile_q, tile_p, stride_t, stride_bq,
        HAS_PAIRS, BLOCK_Q, BLOCK_P, TILE_P, GROUP,
    )  # fmt: skip


@triton.jit(do_not_specialize=SCAN_SIZES)
def scan_codes_persistent_kernel(
    query_codes, codes, q_tiles, p_tiles, terms, group_terms, words, bounds, gain,
    stride_t, stride_bq, stride_c,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, TOGETHER: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """scan_codes_kernel for tensor descriptors of both codes; programs go on to further tiles.

    The loads of the next tile are under way during the epilogue.
    """
    tiles = q_tiles * p_tiles
    for program in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        tile_q, tile_p = tile_of(program, q_tiles, p_tiles, TOGETHER)
        acc = tl.zeros((BLOCK_Q, BLOCK_P), tl.int32)
        for c in range(0, stride_c, TILE_C):
            q = query_codes.load([tile_q * BLOCK_Q, c])
            p = tl.trans(codes.load([tile_p * BLOCK_P, c]))
            acc = tl.dot(q, p, acc, out_dtype=tl.int32)
        store_int8_bounds(
            acc, terms, group_terms, words, bounds, gain, tile_q, tile_p, stride_t, stride_bq,
            False, BLOCK_Q, BLOCK_P, TILE_P, GROUP,
        )  # fmt: skip


@triton.jit(do_not_specialize=["stride_wq", "stride_bq"])
def scan_few_codes_kernel(
    query_codes, codes, terms, group_terms, words, bounds, gain,
    stride_t, stride_wq, stride_bq, stride_c,
    BLOCK_Q: tl.constexpr, TILE_C: tl.constexpr, TILE_P: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program reads the codes of one tile for at most BLOCK_Q queries.

    As scan_codes_kernel, with the codes for the M side of the product. words are read with a stride
    of 0 where they are not of pairs.
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    tile_p = tl.program_id(0).to(tl.int64)
    offs_q = tl.arange(0, BLOCK_Q).to(tl.int64)
    offs_p = tile_p * TILE_P + tl.arange(0, TILE_P)
    offs_g = tile_p * GROUPS + tl.arange(0, GROUPS)
    offs_c = tl.arange(0, TILE_C)
    q_ptrs = query_codes + offs_q[None, :] * stride_c + offs_c[:, None]
    p_ptrs = codes + offs_p[:, None] * stride_c + offs_c[None, :]
    acc = tl.zeros((TILE_P, BLOCK_Q), tl.int32)
    for _ in range(0, stride_c, TILE_C):
        acc = tl.dot(tl.load(p_ptrs), tl.load(q_ptrs), acc, out_dtype=tl.int32)
        q_ptrs += TILE_C
        p_ptrs += TILE_C

    acc = tl.reshape(acc, (GROUP, GROUPS, BLOCK_Q))
    packed = tl.load(words + offs_q[None, :] * stride_wq + offs_g[:, None])
    bits = packed[None, :, :] >> tl.arange(0, GROUP)[:, None, None]
    best = tl.max(tl.where((bits & 1) != 0, acc, LOWEST), axis=0)
    tl.debug_barrier()  # every thread has read its words before any bound overwrites one
    upper = int8_upper_bounds(
        best, terms + offs_q[None, :], group_terms + offs_g[:, None] * 4, stride_t, gain
    )  # fmt: skip
    tl.store(bounds + offs_q[None, :] * stride_bq + offs_g[:, None], upper)
