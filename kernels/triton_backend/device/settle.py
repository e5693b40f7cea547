"""From the entries of a scan, or from all prototypes, to the best matches, query by query.

What a query has not looked at is proven out: its bound lies below a score that k prototypes reach.
"""

import triton
import triton.language as tl

from .flags import NEVER, Flag
from .fp64 import exact_keys, square_norm
from .groups import members
from .int8_scan import int8_upper_bounds
from .keys import EMPTY, INF, ordered, reached_by, recall, take, tell

NONFINITE_QUERIES = tl.constexpr(Flag.NONFINITE_QUERIES.value)
NONFINITE_PROTOTYPES = tl.constexpr(Flag.NONFINITE_PROTOTYPES.value)
REPAIRED = tl.constexpr(Flag.REPAIRED.value)
ROWS = tl.constexpr(8)  # rescored at a time
PRODUCTS = tl.constexpr(16)  # the narrowest side of a product: as many times the same query
# Arguments that differ from call to call: no load becomes faster by knowing them.
SETTLE_SIZES = [
    "again", "n_queries", "n_prototypes", "first_row", "k", "room", "p_tiles", "first", "step",
    "capacity", "n_segments", "stride_t", "stride_mq", "stride_mp",
]  # fmt: skip
# Slices of rows whose strides are no constants: where they start makes no load faster, either.
SETTLE_SLICES = ["queries", "mask", "scores", "indices", "failed", "n_failed"]


@triton.jit
def member_products(
    query_codes, codes, positions, wanted, stride_c, WIDTH: tl.constexpr, MEMBERS: tl.constexpr
):  # fmt: skip
    """(MEMBERS,) int32 products of one query's codes with those at ``positions``."""
    offs_c = tl.arange(0, WIDTH)
    rows = codes + positions * stride_c
    acc = tl.zeros((MEMBERS, PRODUCTS), tl.int32)
    for c in range(0, stride_c, WIDTH):
        p = tl.load(rows[:, None] + c + offs_c[None, :], mask=wanted[:, None], other=0)
        q = tl.broadcast_to(tl.load(query_codes + c + offs_c)[:, None], (WIDTH, PRODUCTS))
        acc = tl.dot(p, q, acc, out_dtype=tl.int32)
    return tl.max(acc, axis=1)


@triton.jit(do_not_specialize=SETTLE_SIZES, do_not_specialize_on_alignment=SETTLE_SLICES)
def settle_kernel(
    again, first, p_tiles, step,
    queries, query_codes, norm, terms, thresholds, resume, scores, indices, flags, gain,
    n_queries, k, room, capacity, n_segments, stride_qq, stride_qc, stride_t, stride_c,
    codes, group_terms, prototypes, mask, row_in_page, unmatchable,
    n_prototypes, first_row, n_channels, stride_pp, stride_pc, stride_mq, stride_mp,
    entries, counts, groups, rows, found, failed, n_failed,
    METRIC: tl.constexpr, SLOTS: tl.constexpr, PACK: tl.constexpr,
    BLOCK_P: tl.constexpr, WIDTH: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program settles every so many queries: of a round, or ``again`` those that failed in one.

    Its first look is at the groups whose bounds are the k best: at their members, by products of
    their own, and in fp64 at those that reach the k-th bound. Their scores raise the threshold; the
    second look is at all else that reaches it. Without codes, entries hold bounds, and all members
    of a group are taken to fp64. A query fails where entries were lost: it keeps the
    threshold, forgets the rest and is scanned again. If some are lost then, too, its third look is
    at every group.

    groups (programs, SLOTS), rows (programs, PACK * GROUP), found (programs, 2k + 2 room): scratch
    scores, indices (Q, k)   the best so far, best first; thresholds (Q,) the last of the scores
    """
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    MEMBERS: tl.constexpr = PACK * GROUP
    program = tl.program_id(0).to(tl.int64)
    groups += program * SLOTS
    rows += program * MEMBERS
    found += program * 2 * (k + room)
    offs_s = tl.arange(0, SLOTS)
    offs_m = tl.arange(0, MEMBERS)
    offs_r = tl.arange(0, ROWS)
    n_slots = n_queries
    if again:
        n_slots = tl.load(n_failed)
    for slot in range(tl.program_id(0), n_slots, tl.num_programs(0)):
        q = tl.full((), 0, tl.int64) + slot
        if again:
            q = tl.load(failed + slot).to(tl.int64)
        began = tl.load(resume + q)
        segment = offs_s // capacity
        mask_s = segment < n_segments
        at = (tl.full((), 0, tl.int64) + slot) * n_segments + segment
        count = tl.load(counts + at, mask=mask_s, other=0)
        count = tl.where((began == NEVER) | (again != 0), count, 0)  # else it is not scanned
        is_lost = tl.max(count, axis=0) > capacity
        there = mask_s & (offs_s % capacity < count)
        entry = tl.load(entries + at * capacity + offs_s % capacity, mask=there, other=0)
        best, group = (entry >> 32).to(tl.int32), (entry & 0xFFFFFFFF).to(tl.int32)
        if codes is None:
            upper = ordered(best).to(tl.float32, bitcast=True)
        else:
            own_terms = group_terms + group.to(tl.int64) * 4
            upper = int8_upper_bounds(best, terms + q, own_terms, stride_t, gain)
        upper = tl.where(there, upper, -INF)
        threshold = tl.load(thresholds + q)
        cut = tl.maximum(threshold, reached_by(upper, k))
        recall(found, scores + q * k, indices + q * k, k)
        n_first, n_listed, n_new = 0, 0, 0
        passed_over = tl.full((), -INF, tl.float32)
        looks = tl.where(is_lost & (again != 0), 3, 2)
        for look in range(0, looks):
            least = tl.where(look == 0, cut, threshold)
            listed = (upper >= least) & (upper > -INF) & ((look == 0) | (upper < cut))
            listed &= look < 2
            place = n_listed + tl.cumsum(listed.to(tl.int32), axis=0) - 1
            tl.store(groups + place, group, mask=listed)
            n_listed += tl.sum(listed.to(tl.int32), axis=0)
            begin, stop = 0, n_listed
            if look == 0:
                n_first = n_listed
            elif look == 1:
                begin = tl.where(passed_over >= threshold, 0, n_first)
            else:  # the keys found by now are found again
                stop = (p_tiles - began) * GROUPS
                recall(found, scores + q * k, indices + q * k, k)
            tl.debug_barrier()
            for b in range(begin, stop, PACK):
                rank = b + offs_m // GROUP
                wanted = rank < stop
                if look < 2:
                    g = tl.load(groups + rank, mask=wanted, other=0).to(tl.int64)
                else:
                    tile = (began + rank // GROUPS).to(tl.int64) * step % p_tiles
                    g = tile * GROUPS + rank % GROUPS
                member = offs_m % GROUP
                offs_p, allowed = members(
                    g, member, wanted, mask + q * stride_mq, row_in_page, unmatchable,
                    n_prototypes, stride_mp, TILE_P, SPAN, GROUP,
                )  # fmt: skip
                if codes is None:  # whoever is in a group that reaches it may
                    bound = tl.full((MEMBERS,), INF, tl.float32)
                else:
                    each: tl.constexpr = TILE_P // GROUP
                    position = g // each * TILE_P + g % each + member * each
                    product = member_products(
                        query_codes + q * stride_c, codes, position, allowed, stride_c, WIDTH,
                        MEMBERS,
                    )  # fmt: skip
                    own = terms + q
                    bound = int8_upper_bounds(product, own, group_terms + g * 4, stride_t, gain)
                reach = tl.where(look == 0, cut, threshold)
                is_done = (look == 1) & (rank < n_first) & (bound >= cut)
                chosen = allowed & (bound >= reach) & (bound > -INF) & ~is_done
                rest = tl.where(allowed & ~chosen, bound, -INF)
                passed_over = tl.maximum(passed_over, tl.max(rest, axis=0))
                at_row = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
                tl.store(rows + at_row, offs_p, mask=chosen)
                n_chosen = tl.sum(chosen.to(tl.int32), axis=0)
                tl.debug_barrier()
                for r in range(0, n_chosen, ROWS):
                    mask_r = r + offs_r < n_chosen
                    row = tl.load(rows + r + offs_r, mask=mask_r, other=0)
                    key = exact_keys(
                        queries + q * stride_qq, tl.load(norm + q), prototypes, row, mask_r,
                        first_row, n_channels, stride_qc, stride_pp, stride_pc, METRIC, ROWS,
                    )  # fmt: skip
                    tl.store(found + k + n_new + r + offs_r, key, mask=mask_r)
                n_new += n_chosen
                tl.debug_barrier()  # every thread has read its rows before others are written
                if (n_new > room - MEMBERS) | ((b + PACK >= stop) & (n_new > 0)):
                    threshold = tl.maximum(threshold, take(found, k + n_new, k))
                    n_new = 0
        tl.store(thresholds + q, threshold)
        if is_lost & (again == 0):
            tl.store(resume + q, first)
            tl.store(failed + tl.atomic_add(n_failed, 1), q.to(tl.int32))
            tl.atomic_add(flags + REPAIRED, 1)
        else:
            tell(found, scores + q * k, indices + q * k, k)
            tl.store(resume + q, NEVER, mask=again != 0)
        tl.debug_barrier()  # every thread has read what the next query overwrites


@triton.jit(do_not_specialize=["n_prototypes", "k", "stride_mq", "stride_mp", "stride_k"])
def settle_all_kernel(
    queries, prototypes, mask, keys, scores, indices, flags, n_prototypes, n_channels, k,
    stride_qq, stride_qc, stride_pp, stride_pc, stride_mq, stride_mp, stride_k,
    METRIC: tl.constexpr, HELD: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program scores one query against all prototypes in fp64: a search of few, in one launch.

    keys (Q, stride_k) int64   scratch for n_prototypes keys, and for 2 k; at most HELD prototypes
    """
    q = tl.program_id(0).to(tl.int64)
    keys += q * stride_k
    query, one = queries + q * stride_qq, tl.arange(0, 1).to(tl.int64)
    square = square_norm(query + one, stride_qc, one == 0, n_channels, 1)
    finite = square < INF
    tl.store(flags + NONFINITE_QUERIES + one, 1, mask=~finite)
    length = tl.sum(tl.sqrt(square), axis=0)
    for p in range(0, n_prototypes, BLOCK_P):
        offs_p = p + tl.arange(0, BLOCK_P).to(tl.int64)
        exists = offs_p < n_prototypes
        key = exact_keys(
            query, length, prototypes, offs_p, exists, 0, n_channels,
            stride_qc, stride_pp, stride_pc, METRIC, BLOCK_P,
        )  # fmt: skip
        # Of a query that is not finite no key says which prototypes are; it is refused before them.
        tl.store(
            flags + NONFINITE_PROTOTYPES + offs_p * 0, 1, mask=exists & finite & (key == EMPTY)
        )
        in_mask = tl.load(mask + q * stride_mq + offs_p * stride_mp, mask=exists, other=0)
        key = tl.where((in_mask != 0) & (key != EMPTY), key, EMPTY + 1 + offs_p)
        tl.store(keys + offs_p, key, mask=exists)
    tl.debug_barrier()
    offs = tl.arange(0, HELD).to(tl.int64)
    all_keys = tl.load(keys + offs, mask=offs < n_prototypes, other=EMPTY)
    kth = reached_by(all_keys, k)  # of k prototypes or more, no two of whose keys are equal
    chosen = all_keys >= kth
    tl.debug_barrier()
    tl.store(keys + tl.cumsum(chosen.to(tl.int32), axis=0) - 1, all_keys, mask=chosen)
    take(keys, k, k)
    tell(keys, scores + q * k, indices + q * k, k)
