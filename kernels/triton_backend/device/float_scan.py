"""The fp16 and TF32 screens: one upper bound per query and group of prototypes.

The proofs are in proofs/fp16.py.
"""

import triton
import triton.language as tl

from ...proofs import fp16
from .flags import Flag
from .fp64 import EPS
from .groups import SCAN_SIZES, bits_of, members_apart, tile_of, tile_product
from .keys import INF

HUGE = tl.constexpr(fp16.HUGE)
FLOOR = tl.constexpr(fp16.FLOOR)
SCALE = tl.constexpr(fp16.SCALE)
NONFINITE_PROTOTYPES = tl.constexpr(Flag.NONFINITE_PROTOTYPES.value)
RAW_SQUARE_MIN = tl.constexpr(2.0**-100)  # below, fp32 squares may have been flushed
RAW_NORM_MIN = tl.constexpr(2.0**-49)  # a proven upper bound of the norm there


@triton.jit
def float_upper_bounds(best, a_q, r_q, METRIC: tl.constexpr):
    """The row's part of the epilogue, after the maximum over a group, which it commutes with.

    -inf says that nothing in the group may match, or the query may not; otherwise never NaN.
    """
    upper = best + r_q if METRIC == "l2" else best * a_q + r_q
    upper = tl.where(upper == upper, upper, INF)
    return tl.where((best == -INF) | (r_q == -INF), -INF, upper)


@triton.jit
def store_float_bounds(
    acc, query_scale, query_bias, prototype_scale, prototype_bias, words, bounds,
    tile_q, tile_p, delta, stride_bq,
    METRIC: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The epilogue of a scan in fp16: (BLOCK_Q, BLOCK_P) products to one bound per group."""
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    offs_q = tile_q.to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_p = tile_p.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_g = tile_p.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    offs_qg = offs_q[:, None] * stride_bq + offs_g[None, :]
    a_q = tl.load(query_scale + offs_q)[:, None]
    r_q = tl.load(query_bias + offs_q)[:, None]
    c_p = tl.load(prototype_bias + offs_p)[None, :]
    if METRIC == "cosine":
        upper = acc + c_p
    else:
        b_p = tl.load(prototype_scale + offs_p)[None, :]
        if METRIC == "l2":
            acc = acc * a_q + a_q * (delta * SCALE * SCALE)
        upper = acc * b_p + c_p
    upper = members_apart(upper, TILE_P, GROUP)
    if HAS_MASK:
        upper = tl.where(bits_of(tl.load(words + offs_qg), TILE_P, GROUP), upper, -INF)
    best = tl.reshape(tl.max(upper, axis=2), (BLOCK_Q, GROUPS))
    if HAS_MASK:
        tl.debug_barrier()  # every thread has read its words before any bound overwrites one
    tl.store(bounds + offs_qg, float_upper_bounds(best, a_q, r_q, METRIC))


@triton.jit(do_not_specialize=SCAN_SIZES)
def scan_kernel(
    query_unit, prototype_unit, q_tiles, p_tiles, query_scale, query_bias,
    prototype_scale, prototype_bias, words, bounds, delta, stride_u, stride_bq,
    METRIC: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, TOGETHER: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program bounds BLOCK_Q queries against the groups of BLOCK_P prototypes.

    query_unit (Qpad, Cpad), prototype_unit (Mpad, Cpad): fp16, as tile_product wants them. bounds
    (Qpad, Mpad / GROUP). words: of pack_mask_kernel; they may lie where bounds will.
    """
    tile_q, tile_p = tile_of(tl.program_id(0), q_tiles, p_tiles, TOGETHER)
    acc = tile_product(
        query_unit, prototype_unit, tile_q, tile_p, stride_u, BLOCK_Q, BLOCK_P, TILE_C, tl.float32
    )  # fmt: skip
    store_float_bounds(
        acc, query_scale, query_bias, prototype_scale, prototype_bias, words, bounds,
        tile_q, tile_p, delta, stride_bq, METRIC, HAS_MASK, BLOCK_Q, BLOCK_P, TILE_P, GROUP,
    )  # fmt: skip


@triton.jit(do_not_specialize=SCAN_SIZES)
def scan_persistent_kernel(
    query_unit, prototype_unit, q_tiles, p_tiles, query_scale, query_bias,
    prototype_scale, prototype_bias, words, bounds, delta, stride_u, stride_bq,
    METRIC: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, TOGETHER: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """scan_kernel for tensor descriptors of the copies, with programs that go on to further tiles.

    The loads of the next tile are under way during the epilogue.
    """
    tiles = q_tiles * p_tiles
    for program in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        tile_q, tile_p = tile_of(program, q_tiles, p_tiles, TOGETHER)
        acc = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
        for c in range(0, stride_u, TILE_C):
            q = query_unit.load([tile_q * BLOCK_Q, c])
            acc = tl.dot(q, tl.trans(prototype_unit.load([tile_p * BLOCK_P, c])), acc)
        store_float_bounds(
            acc, query_scale, query_bias, prototype_scale, prototype_bias, words, bounds,
            tile_q, tile_p, delta, stride_bq, METRIC, False, BLOCK_Q, BLOCK_P, TILE_P, GROUP,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n_queries", "n_prototypes", "stride_mq", "stride_bq"])
def scan_raw_kernel(
    query_unit, prototypes, query_scale, query_bias, mask, bounds, group_norm, flags,
    n_queries, n_prototypes, n_channels, delta, epsilon,
    stride_u, stride_pp, stride_pc, stride_mq, stride_mp, stride_bq,
    METRIC: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr,
    TILE_C: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program reads one tile of TILE_P prototypes, as given, for at most BLOCK_Q queries.

    query_unit (BLOCK_Q, C) fp32, C a multiple of TILE_C. The prototypes are the M side of the
    product, in TF32, and their norms come out of the same read. bounds (BLOCK_Q, Mpad / GROUP),
    group_norm (Mpad / GROUP,).
    """
    tile_p = tl.program_id(0).to(tl.int64)
    offs_q = tl.arange(0, BLOCK_Q)
    offs_p = tile_p * TILE_P + tl.arange(0, TILE_P)
    offs_c = tl.arange(0, TILE_C)
    exists = offs_p < n_prototypes
    p_ptrs = prototypes + offs_p[:, None] * stride_pp + offs_c.to(tl.int64)[None, :] * stride_pc
    q_ptrs = query_unit + offs_q[None, :] * stride_u + offs_c[:, None]
    acc = tl.zeros((TILE_P, BLOCK_Q), tl.float32)
    square = tl.zeros((TILE_P,), tl.float32)
    peak = tl.zeros((TILE_P,), tl.float32)
    for _ in range(0, n_channels, TILE_C):
        p = tl.load(p_ptrs, mask=exists[:, None], other=0.0).to(tl.float32)
        acc = tl.dot(p, tl.load(q_ptrs), acc, input_precision="tf32")
        square += tl.sum(p * p, axis=1)
        peak = tl.maximum(peak, tl.max(tl.abs(p), axis=1))
        p_ptrs += TILE_C * stride_pc
        q_ptrs += TILE_C

    finite = exists & (square == square) & (peak < INF)  # NaN shows in the sum, inf in the peak
    tl.store(flags + NONFINITE_PROTOTYPES + offs_p * 0, 1, mask=exists & ~finite)
    unbounded = square > HUGE * HUGE
    square = tl.where(finite & ~unbounded, square, 0.0)
    acc = tl.where((finite & ~unbounded)[:, None], acc, 0.0)
    c_p = tl.where(finite, tl.where(unbounded, INF, 0.0), -INF)[:, None]
    is_small = square < RAW_SQUARE_MIN
    length = tl.sqrt(square)
    longest = tl.where(is_small, RAW_NORM_MIN, length * (1.0 + epsilon))
    a_q = tl.load(query_scale + offs_q)[None, :]
    r_q = tl.load(query_bias + offs_q)[None, :]
    if METRIC == "cosine":
        upper = acc / tl.maximum(tl.where(is_small, 0.0, length), EPS)[:, None] + c_p
    elif METRIC == "dot":
        upper = acc + delta * longest[:, None] + c_p
    else:
        shift = longest * FLOOR - tl.where(is_small, 0.0, square * (1.0 - epsilon))
        upper = (acc + delta * longest[:, None]) * a_q + shift[:, None] + c_p
    if HAS_MASK:
        mask_pq = exists[:, None] & (offs_q < n_queries)[None, :]
        at = mask + offs_q.to(tl.int64)[None, :] * stride_mq + offs_p[:, None] * stride_mp
        upper = tl.where(tl.load(at, mask=mask_pq, other=0) != 0, upper, -INF)
    GROUPS: tl.constexpr = TILE_P // GROUP
    best = tl.max(tl.reshape(upper, (GROUP, GROUPS, BLOCK_Q)), axis=0)
    offs_g = tile_p * GROUPS + tl.arange(0, GROUPS)
    out = bounds + offs_q.to(tl.int64)[None, :] * stride_bq + offs_g[:, None]
    tl.store(out, float_upper_bounds(best, a_q, r_q, METRIC))
    tl.store(group_norm + offs_g, tl.max(tl.reshape(longest, (GROUP, GROUPS)), axis=0))
