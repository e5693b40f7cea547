"""Device code of the exact half: thresholds, rescoring in fp64, repair, and the packed key.

Axes: q queries, p prototypes, c channels, g groups, k ranks. Scores computed here are the results,
so their bits must not depend on the kernel, layout or tile that computes them: sums run channel
block by channel block in fused multiply-adds and fold by explicit pairs.
"""

import triton
import triton.language as tl

from ...contract.metrics import COSINE_EPS
from ...contract.order import EMPTY as EMPTY_KEY
from ...proofs import fp16 as bounds_fp16

FLOOR = tl.constexpr(bounds_fp16.FLOOR)
ABSOLUTE = tl.constexpr(bounds_fp16.ABSOLUTE)
WIDEN = tl.constexpr(bounds_fp16.WIDEN)
EPS = tl.constexpr(COSINE_EPS)
INF = tl.constexpr(float("inf"))
EMPTY = tl.constexpr(EMPTY_KEY)
LAST = tl.constexpr(2**63 - 1)
BLOCK_C = tl.constexpr(64)  # not a tuning knob: it fixes the order of every fp64 sum
FOLDS = tl.constexpr(6)
# Arguments that differ from call to call, and of which no load becomes faster by knowing them.
CALL_SIZES = [
    "n_prototypes", "first_row",
    "stride_mq", "stride_mp", "stride_bq", "stride_gq", "stride_kq", "stride_wq",
]  # fmt: skip
SCAN_SIZES = ["q_tiles", "p_tiles", "stride_wq", "stride_bq"]


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


@triton.jit
def load_fp64(pointers, mask):
    """Any shipped dtype as fp64 (bf16 through fp32: the interpreter casts it wrongly otherwise)."""
    x = tl.load(pointers, mask=mask, other=0.0)
    if x.dtype == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(tl.float64)


@triton.jit
def fold(x, ROWS: tl.constexpr):
    """(ROWS, BLOCK_C) -> (ROWS,) sums of neighbours: a sum of two has no order to depend on."""
    for _ in tl.static_range(FOLDS):
        x = tl.sum(tl.reshape(x, (ROWS, x.shape[1] // 2, 2)), axis=2)
    return tl.reshape(x, (ROWS,))


@triton.jit
def square_norm(rows, stride_c, alive, n_channels, ROWS: tl.constexpr):
    """(ROWS,) pointers to vectors -> their squared norms in fp64; 0 where not ``alive``."""
    sums = tl.zeros((ROWS, BLOCK_C), tl.float64)
    for c in range(0, n_channels, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C).to(tl.int64)
        mask = alive[:, None] & (offs_c < n_channels)[None, :]
        x = load_fp64(rows[:, None] + offs_c[None, :] * stride_c, mask)
        sums = tl.fma(x, x, sums)
    return fold(sums, ROWS)


@triton.jit
def exact_keys(
    query, length, prototypes, offs_p, alive, first_row, n_channels, stride_pp, stride_pc,
    METRIC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The keys of one fp64 query against ROWS prototypes; EMPTY where not alive or not finite."""
    rows = prototypes + offs_p * stride_pp
    dots = tl.zeros((ROWS, BLOCK_C), tl.float64)
    squares = tl.zeros((ROWS, BLOCK_C), tl.float64)
    for c in range(0, n_channels, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C).to(tl.int64)
        q = tl.load(query + offs_c)[None, :]  # zero-padded
        mask = alive[:, None] & (offs_c < n_channels)[None, :]
        p = load_fp64(rows[:, None] + offs_c[None, :] * stride_pc, mask)
        squares = tl.fma(p, p, squares)
        if METRIC == "l2":
            dots = tl.fma(q - p, q - p, dots)
        else:
            dots = tl.fma(tl.broadcast_to(q, (ROWS, BLOCK_C)), p, dots)
    square = fold(squares, ROWS)
    score = fold(dots, ROWS)
    if METRIC == "l2":
        score = -score
    if METRIC == "cosine":
        eps = tl.full((ROWS,), EPS, tl.float64)  # a bare EPS would be rounded to fp32
        score /= tl.maximum(length, eps) * tl.maximum(tl.sqrt(square), eps)
    alive &= square + length < INF  # false for NaN, too
    score = score.to(tl.float32)
    score = tl.where(alive & (score != 0.0), score, 0.0)  # -0 and 0 are one score
    return tl.where(alive, pack(score, first_row + offs_p), EMPTY)


@triton.jit(do_not_specialize=["k", "stride_k"])
def threshold_kernel(
    kept_bounds, kept_groups, group_norm, norm, thresholds, k, stride_k, delta, epsilon,
    METRIC: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program raises the threshold of one query to a proven lower bound of its k-th score.

    kept_bounds, kept_groups (Q, >= k)   the best groups, best first: each holds a prototype that
    scores at least the group's bound less twice its slack, so k of them hold k such prototypes.
    """
    q = tl.program_id(0).to(tl.int64)
    offs_k = tl.arange(0, BLOCK_K)
    mask_k = offs_k < k
    upper = tl.load(kept_bounds + q * stride_k + offs_k, mask=mask_k, other=0.0)
    if METRIC == "cosine":
        slack = 2.0 * delta
    else:
        group = tl.load(kept_groups + q * stride_k + offs_k, mask=mask_k, other=0)
        p_norm = tl.load(group_norm + group, mask=mask_k, other=0.0)
        q_norm = tl.load(norm + q).to(tl.float32)
        slack = 2.0 * (delta * q_norm * p_norm + (q_norm + p_norm) * FLOOR + ABSOLUTE)
        if METRIC == "l2":
            slack *= 2.0
            slack += 2.0 * epsilon * (q_norm * q_norm + p_norm * p_norm)
    lower = upper - (slack * WIDEN + tl.abs(upper) * 2.0**-21)
    is_finite = tl.abs(upper) < INF
    lower = tl.where(is_finite & (lower == lower), lower, -INF)
    lower = tl.min(tl.where(mask_k, lower, INF), axis=0)
    tl.store(thresholds + q, tl.maximum(tl.load(thresholds + q), lower))


@triton.jit(do_not_specialize=["k", "stride_kq"])
def kth_kernel(keys, thresholds, k, stride_kq, BLOCK_K: tl.constexpr):
    """One program raises the threshold of one query to the score of the last of its k keys."""
    q = tl.program_id(0).to(tl.int64)
    offs_k = tl.arange(0, BLOCK_K)
    best = tl.load(keys + q * stride_kq + offs_k, mask=offs_k < k, other=LAST)
    kth = scores_of(tl.min(best, axis=0))
    tl.store(thresholds + q, tl.maximum(tl.load(thresholds + q), kth))


@triton.jit(do_not_specialize=[*CALL_SIZES, "n_kept", "n_strips"])
def rescore_kernel(
    exact, norm, prototypes, mask, bounds, kept_bounds, kept_groups, thresholds, keys,
    place, dead, n_prototypes, first_row, n_kept, n_strips, n_channels,
    stride_eq, stride_pp, stride_pc, stride_mq, stride_mp, stride_bq, stride_gq, stride_kq,
    METRIC: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """One program rescores every n_strips-th pack of PACK kept groups of one query.

    It writes PACK * GROUP keys for each. A group whose bound is below the threshold is proven out:
    EMPTY. A rescored group's entry in bounds (Q, G) becomes -inf, which tells repair_kernel that
    it is done.
    """
    q = tl.program_id(0).to(tl.int64) // n_strips
    strip = tl.program_id(0) % n_strips
    offs_r = tl.arange(0, PACK * GROUP)
    threshold = tl.load(thresholds + q)
    for first in range(strip * PACK, n_kept, n_strips * PACK):
        rank = first + offs_r // GROUP
        mask_r = rank < n_kept
        upper = tl.load(kept_bounds + q * stride_gq + rank, mask=mask_r, other=-INF)
        live = (upper >= threshold) & (upper > -INF)
        out = keys + q * stride_kq + first * GROUP + offs_r
        if tl.max(live.to(tl.int32), axis=0) > 0:
            group = tl.load(kept_groups + q * stride_gq + rank, mask=mask_r, other=0)
            offs_p, alive = members(
                group, offs_r % GROUP, live, mask + q * stride_mq, place, dead,
                n_prototypes, stride_mp, TILE_P, SPAN, GROUP,
            )  # fmt: skip
            new = exact_keys(
                exact + q * stride_eq, tl.load(norm + q), prototypes, offs_p, alive,
                first_row, n_channels, stride_pp, stride_pc, METRIC, PACK * GROUP,
            )  # fmt: skip
            tl.store(bounds + q * stride_bq + group, -INF, mask=live & (offs_r % GROUP == 0))
            tl.store(out, new, mask=mask_r)
        else:
            tl.store(out, tl.full((PACK * GROUP,), EMPTY, tl.int64), mask=mask_r)


@triton.jit
def members(
    group, member, alive, mask, place, dead, n_prototypes, stride_mp,
    TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows, in the chunk, of members of strided groups (int64), and which of them may match.

    Codes lie in another order than the rows: a position leads to the row ``place`` of its page,
    which has SPAN rows.
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    offs_p = group // GROUPS * TILE_P + group % GROUPS + member * GROUPS
    if place is not None:
        alive &= tl.load(dead + offs_p, mask=alive, other=1) == 0
        in_page = tl.load(place + offs_p, mask=alive, other=0)
        offs_p = offs_p // SPAN * SPAN + in_page.to(tl.int64)
    alive &= (offs_p >= 0) & (offs_p < n_prototypes)  # whatever places say, no other row is read
    allowed = tl.load(mask + offs_p * stride_mp, mask=alive, other=0)
    return offs_p, alive & (allowed != 0)


@triton.jit(do_not_specialize=[*CALL_SIZES, "n_groups", "k"])
def repair_kernel(
    exact, norm, prototypes, mask, bounds, witness, thresholds, keys, flags,
    place, dead, n_prototypes, first_row, n_groups, k, n_channels,
    stride_eq, stride_pp, stride_pc, stride_mq, stride_mp, stride_bq, stride_wq, stride_kq,
    METRIC: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program certifies one query: its k keys are the best of all prototypes so far.

    Where the best group not kept (witness) cannot beat the k-th key, that is proven. Elsewhere
    every group left in bounds (Q, G) at or above the k-th score is rescored and inserted.
    """
    q = tl.program_id(0).to(tl.int64)
    offs_k = tl.arange(0, BLOCK_K).to(tl.int64)
    ranks = keys + q * stride_kq + offs_k
    best = tl.load(ranks, mask=offs_k < k, other=LAST)
    best = tl.where(best == EMPTY, EMPTY + offs_k, best)  # unique, so one is replaced at a time
    worst = tl.min(best, axis=0)
    floor = scores_of(worst)
    upper = tl.load(witness + q * stride_wq)
    if (upper >= floor) & (upper > -INF):
        tl.atomic_add(flags + 2, 1)
        offs_r = tl.arange(0, GROUP)
        offs_g = tl.arange(0, BLOCK_G)
        for g in range(0, n_groups, BLOCK_G):
            mask_g = g + offs_g < n_groups
            uppers = tl.load(bounds + q * stride_bq + g + offs_g, mask=mask_g, other=-INF)
            upper = tl.max(uppers, axis=0)
            while (upper >= floor) & (upper > -INF):
                chosen = tl.min(tl.where(uppers == upper, offs_g, BLOCK_G), axis=0)
                uppers = tl.where(offs_g == chosen, -INF, uppers)
                upper = tl.max(uppers, axis=0)
                offs_p, alive = members(
                    (g + chosen).to(tl.int64), offs_r, offs_r >= 0, mask + q * stride_mq, place,
                    dead, n_prototypes, stride_mp, TILE_P, SPAN, GROUP,
                )  # fmt: skip
                new = exact_keys(
                    exact + q * stride_eq, tl.load(norm + q), prototypes, offs_p, alive,
                    first_row, n_channels, stride_pp, stride_pc, METRIC, GROUP,
                )  # fmt: skip
                top = tl.max(new, axis=0)
                while top > worst:
                    best = tl.where(best == worst, top, best)
                    new = tl.where(new == top, EMPTY, new)
                    worst = tl.min(best, axis=0)
                    top = tl.max(new, axis=0)
                floor = scores_of(worst)
        best = tl.where(best < EMPTY + BLOCK_K, EMPTY, best)
        tl.store(ranks, best, mask=offs_k < k)
    tl.store(thresholds + q, floor)
