"""From the entries of a scan to the best matches so far, one query after another.

What a query has not looked at is proven out: its bound lies below a score that k prototypes reach.
"""

import triton
import triton.language as tl

from .flags import NEVER, Flag
from .fp64 import exact_keys
from .groups import members
from .int8_scan import int8_upper_bounds
from .keys import EMPTY, INF, index_of, is_empty, ordered, pack, scores_of

REPAIRED = tl.constexpr(Flag.REPAIRED.value)
RANKS = tl.constexpr(32)  # keys compared with as many others at a time
ROWS = tl.constexpr(8)  # rescored at a time
PRODUCTS = tl.constexpr(16)  # the narrowest side of a product: as many times the same query
DIGITS = tl.constexpr(16)  # of 32: the k-th bound need not be known better
# Arguments that differ from call to call: no load becomes faster by knowing them.
SETTLE_SIZES = [
    "again", "n_queries", "n_prototypes", "first_row", "k", "room", "p_tiles", "first", "step",
    "capacity", "n_segments", "stride_t", "stride_mq", "stride_mp",
]  # fmt: skip
# Slices of rows whose strides are no constants: where they start makes no load faster, either.
SETTLE_SLICES = ["queries", "mask", "scores", "indices", "failed", "n_failed"]


@triton.jit
def reached_by(values, k, DIGITS: tl.constexpr):
    """A number that at least k of the fp32 ``values`` reach, near the largest such; else -inf.

    By bisection of their bits, from the highest.
    """
    bits = ordered(values)
    low = tl.full((), -(2**31), tl.int64)
    for i in tl.static_range(DIGITS):
        middle = low + (1 << (31 - i))
        low = tl.where(tl.sum((bits >= middle.to(tl.int32)).to(tl.int32), axis=0) >= k, middle, low)
    reached = ordered(low.to(tl.int32)).to(tl.float32, bitcast=True)
    return tl.where(reached == reached, reached, -INF)  # bits below those of -inf are of no number


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
    queries, query_codes, norm, terms, codes, group_terms, prototypes, mask, row_in_page,
    unmatchable, entries, counts, groups, rows, found, scores, indices, thresholds, resume,
    failed, n_failed, flags, again, gain,
    n_queries, n_prototypes, first_row, n_channels, k, room, p_tiles, first, step, capacity,
    n_segments, stride_qq, stride_qc, stride_pp, stride_pc, stride_mq, stride_mp, stride_t,
    stride_c, METRIC: tl.constexpr, SLOTS: tl.constexpr, PACK: tl.constexpr,
    BLOCK_P: tl.constexpr, WIDTH: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program settles every so many queries: of a round, or ``again`` those that failed in one.

    Its first look is at the groups whose bounds are the k best: at their members, by products of
    their own, and in fp64 at those that reach the k-th bound. Their scores raise the threshold; the
    second look is at all else that reaches it. A query fails where entries were lost: it keeps the
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
        own_terms = group_terms + group.to(tl.int64) * 4
        upper = int8_upper_bounds(best, terms + q, own_terms, stride_t, gain)
        upper = tl.where(there, upper, -INF)
        threshold = tl.load(thresholds + q)
        cut = tl.maximum(threshold, reached_by(upper, k, DIGITS))
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
                each: tl.constexpr = TILE_P // GROUP
                position = g // each * TILE_P + g % each + member * each
                product = member_products(
                    query_codes + q * stride_c, codes, position, allowed, stride_c, WIDTH, MEMBERS
                )  # fmt: skip
                bound = int8_upper_bounds(product, terms + q, group_terms + g * 4, stride_t, gain)
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
