"""From bounds to keys: thresholds, rescoring in fp64, and repair."""

import triton
import triton.language as tl

from ...proofs import fp16
from .flags import Flag
from .fp64 import exact_keys
from .groups import members
from .keys import EMPTY, INF, LAST, scores_of

FLOOR = tl.constexpr(fp16.FLOOR)
ABSOLUTE = tl.constexpr(fp16.ABSOLUTE)
WIDEN = tl.constexpr(fp16.WIDEN)
REPAIRED = tl.constexpr(Flag.REPAIRED.value)
# Arguments that differ from call to call: no load becomes faster by knowing them.
CALL_SIZES = [
    "n_prototypes", "first_row",
    "stride_mq", "stride_mp", "stride_bq", "stride_gq", "stride_kq", "stride_wq",
]  # fmt: skip
# Slices of rows whose strides are no constants: where they start makes no load faster, either.
SLICES = ["kept_bounds", "kept_groups", "witness", "keys"]
RANKS = tl.constexpr(128)  # looked at together for a threshold


@triton.jit(do_not_specialize=["k", "stride_k"])
def threshold_kernel(
    kept_bounds, kept_groups, group_norm, norm, thresholds, k, stride_k, delta, epsilon,
    METRIC: tl.constexpr,
):  # fmt: skip
    """One program raises the threshold of one query to a proven lower bound of its k-th score.

    kept_bounds, kept_groups (Q, >= k)   the best groups, best first: each holds a prototype that
    scores at least the group's bound less twice its slack, so k of them hold k such prototypes.
    """
    q = tl.program_id(0).to(tl.int64)
    least = tl.full((RANKS,), INF, tl.float32)
    for first in range(0, k, RANKS):
        offs_k = first + tl.arange(0, RANKS)
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
        least = tl.minimum(least, tl.where(mask_k, lower, INF))
    lower = tl.min(least, axis=0)
    tl.store(thresholds + q, tl.maximum(tl.load(thresholds + q), lower))


@triton.jit(
    do_not_specialize=[*CALL_SIZES, "n_kept", "n_strips"], do_not_specialize_on_alignment=SLICES
)
def rescore_kernel(
    exact, norm, prototypes, mask, bounds, kept_bounds, kept_groups, thresholds, keys,
    row_in_page, unmatchable, n_prototypes, first_row, n_kept, n_strips, n_channels,
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
            offs_p, allowed = members(
                group, offs_r % GROUP, live, mask + q * stride_mq, row_in_page, unmatchable,
                n_prototypes, stride_mp, TILE_P, SPAN, GROUP,
            )  # fmt: skip
            new = exact_keys(
                exact + q * stride_eq, tl.load(norm + q), prototypes, offs_p, allowed,
                first_row, n_channels, 1, stride_pp, stride_pc, METRIC, PACK * GROUP,
            )  # fmt: skip
            tl.store(bounds + q * stride_bq + group, -INF, mask=live & (offs_r % GROUP == 0))
            tl.store(out, new, mask=mask_r)
        else:
            tl.store(out, tl.full((PACK * GROUP,), EMPTY, tl.int64), mask=mask_r)


@triton.jit(do_not_specialize=[*CALL_SIZES, "n_groups", "k"], do_not_specialize_on_alignment=SLICES)
def repair_kernel(
    exact, norm, prototypes, mask, bounds, witness, thresholds, keys, flags,
    row_in_page, unmatchable, n_prototypes, first_row, n_groups, k, n_channels,
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
        tl.atomic_add(flags + REPAIRED, 1)
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
                offs_p, allowed = members(
                    (g + chosen).to(tl.int64), offs_r, offs_r >= 0, mask + q * stride_mq,
                    row_in_page, unmatchable, n_prototypes, stride_mp, TILE_P, SPAN, GROUP,
                )  # fmt: skip
                new = exact_keys(
                    exact + q * stride_eq, tl.load(norm + q), prototypes, offs_p, allowed,
                    first_row, n_channels, 1, stride_pp, stride_pc, METRIC, GROUP,
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
