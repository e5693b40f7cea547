"""The TF32 screen: for few queries, the groups of prototypes as given that reach their thresholds.

The proof is in proofs/tf32.py. Prototypes are read once, and their norms come out of the same read.
"""

import triton
import triton.language as tl

from ...proofs import tf32
from .flags import Flag
from .fp64 import EPS
from .groups import append, held_queries
from .keys import INF, ordered

HUGE = tl.constexpr(tf32.HUGE)
FLOOR = tl.constexpr(tf32.FLOOR)
NONFINITE_PROTOTYPES = tl.constexpr(Flag.NONFINITE_PROTOTYPES.value)
SQUARE_MIN = tl.constexpr(2.0**-100)  # below, fp32 squares may have been flushed
NORM_MIN = tl.constexpr(2.0**-49)  # a proven upper bound of the norm there
# Arguments that differ from call to call: no load becomes faster by knowing them.
ROUND_SIZES = ["n_prototypes", "p_tiles", "first", "stop", "step", "capacity", "stride_wq"]


@triton.jit
def tile_bounds(
    query_unit, a_q, r_q, offs_q, prototypes, offs_p, n_prototypes, n_channels, flags,
    delta, epsilon, stride_u, stride_pp, stride_pc, METRIC: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """(TILE_P, BLOCK_Q) fp32 upper bounds of what a query's row of the epilogue makes scores.

    query_unit (BLOCK_Q, C) fp32, C a multiple of TILE_C. -inf for what is not finite, never NaN.
    """
    offs_c = tl.arange(0, TILE_C)
    exists = offs_p < n_prototypes
    p_ptrs = prototypes + offs_p[:, None] * stride_pp + offs_c.to(tl.int64)[None, :] * stride_pc
    q_ptrs = query_unit + offs_q[None, :] * stride_u + offs_c[:, None]
    acc = tl.zeros((offs_p.shape[0], offs_q.shape[0]), tl.float32)
    square = tl.zeros((offs_p.shape[0],), tl.float32)
    peak = tl.zeros((offs_p.shape[0],), tl.float32)
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
    is_small = square < SQUARE_MIN
    length = tl.sqrt(square)
    longest = tl.where(is_small, NORM_MIN, length * (1.0 + epsilon))
    if METRIC == "cosine":
        upper = acc / tl.maximum(tl.where(is_small, 0.0, length), EPS)[:, None] + c_p
    elif METRIC == "dot":
        upper = acc + delta * longest[:, None] + c_p
    else:
        shift = longest * FLOOR - tl.where(is_small, 0.0, square * (1.0 - epsilon))
        upper = (acc + delta * longest[:, None]) * a_q[None, :] + shift[:, None] + c_p
    return upper


@triton.jit
def query_bounds(best, a_q, r_q, METRIC: tl.constexpr):
    """The query's part of the epilogue, after the maximum over a group, which it commutes with.

    -inf says that nothing in the group may match, or the query may not; otherwise never NaN.
    """
    upper = best + r_q if METRIC == "l2" else best * a_q + r_q
    upper = tl.where(upper == upper, upper, INF)
    return tl.where((best == -INF) | (r_q == -INF), -INF, upper)


@triton.jit(do_not_specialize=ROUND_SIZES)
def scan_rows_kernel(
    query_unit, prototypes, query_scale, query_bias, words, thresholds, entries, counts, resume,
    failed, n_failed, flags, n_prototypes, n_channels, delta, epsilon,
    p_tiles, first, stop, step, capacity, stride_u, stride_pp, stride_pc, stride_wq,
    METRIC: tl.constexpr, BLOCK_Q: tl.constexpr, TILE_C: tl.constexpr, TILE_P: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program takes every so many of the tiles of a round, for at most BLOCK_Q queries.

    As scan_codes_kernel goes through a round, with prototypes on the M side of the product. An
    entry is a group's bound and its number: the bits of the bound in order << 32 | group.

    words   (BLOCK_Q or 1, groups) int32, of pack_mask_kernel; None where all may match
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    strip, n_strips = tl.program_id(0), tl.num_programs(0)
    offs_q, wanted, began = held_queries(failed, n_failed, resume, 0, BLOCK_Q)
    if failed is not None:
        stop = tl.where(tl.load(n_failed) > 0, stop, first)
    least = tl.load(thresholds + offs_q, mask=wanted, other=INF)
    a_q = tl.load(query_scale + offs_q)
    r_q = tl.load(query_bias + offs_q)
    offs_q = offs_q.to(tl.int64)
    segments = (tl.arange(0, BLOCK_Q) * n_strips + strip)[:, None]
    count = tl.zeros((BLOCK_Q, 1), tl.int32)
    for rank in range(first + strip, stop, n_strips):
        tile = (tl.full((), 0, tl.int64) + rank) * step % p_tiles
        offs_p = tile * TILE_P + tl.arange(0, TILE_P)
        upper = tile_bounds(
            query_unit, a_q, r_q, offs_q, prototypes, offs_p, n_prototypes, n_channels, flags,
            delta, epsilon, stride_u, stride_pp, stride_pc, METRIC, TILE_C,
        )  # fmt: skip
        offs_g = tile * GROUPS + tl.arange(0, GROUPS)
        upper = tl.reshape(upper, (GROUP, GROUPS, BLOCK_Q))
        if words is not None:
            packed = tl.load(words + offs_q[None, :] * stride_wq + offs_g[:, None])
            bits = packed[None, :, :] >> tl.arange(0, GROUP)[:, None, None]
            upper = tl.where((bits & 1) != 0, upper, -INF)
        best = tl.max(upper, axis=0)
        bound = tl.trans(query_bounds(best, a_q[None, :], r_q[None, :], METRIC))
        hit = wanted[:, None] & (bound >= least[:, None]) & (bound > -INF)
        if failed is not None:
            hit &= (rank >= began)[:, None]
        count = append(entries, segments, count, hit, ordered(bound), offs_g, capacity, True)
    tl.store(counts + segments, count)
