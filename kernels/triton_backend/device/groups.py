"""Groups: the prototypes that share a bound, the tiles that they lie in, and entries of them.

A tile of TILE_P prototypes holds GROUPS = TILE_P / GROUP groups. Group i of a tile has the
positions i, i + GROUPS, i + 2 GROUPS, ... of it, so that on tensor-core layouts one thread holds a
whole group. A program takes BLOCK_P prototypes, which are some whole tiles.

An entry names a group that may hold a match of a query. A query has some segments for them: every
program of a scan appends to its own, and counts in registers.
"""

import triton
import triton.language as tl

from .flags import NEVER

# Arguments that differ from call to call: no load becomes faster by knowing them.
PACK_SIZES = ["n_queries", "n_rows", "n_words", "n_positions", "n_groups", "stride_mq", "stride_wq"]


@triton.jit
def held_queries(failed, n_failed, resume, tile_q, BLOCK_Q: tl.constexpr):
    """The queries of a tile, which of them are scanned, and from which of a round's tiles on.

    Those that have not failed, or where ``failed`` is given those that have, which it lists.
    """
    slots = tile_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    if failed is None:
        offs_q = slots
        began = tl.load(resume + offs_q)
        wanted = began == NEVER
        began = tl.zeros((BLOCK_Q,), tl.int32)
    else:
        wanted = slots < tl.load(n_failed)
        offs_q = tl.load(failed + slots, mask=wanted, other=0)
        began = tl.load(resume + offs_q)
    return offs_q, wanted, began


@triton.jit
def append(
    entries, segments, count, hit, values, offs_g, capacity, FEW: tl.constexpr
):  # fmt: skip
    """Append the groups that are hit, (Q, G), as values << 32 | group, and return the counts.

    Of many queries each column of groups has a segment, of few all have one. What comes after
    ``capacity`` is counted, but not stored.
    """
    number = hit.to(tl.int32)
    place = count
    if FEW:
        place = count + tl.cumsum(number, axis=1) - number
        count += tl.sum(number, axis=1)[:, None]
    else:
        count += number
    entry = (values.to(tl.int64) << 32) | offs_g[None, :]
    tl.store(entries + (segments * capacity + place), entry, mask=hit & (place < capacity))
    return count


@triton.jit
def members_apart(x, TILE_P: tl.constexpr, GROUP: tl.constexpr):
    """(Q, P) -> (Q, tiles, GROUP, groups of a tile): a group is what differs in axis 2 alone."""
    return tl.reshape(x, (x.shape[0], x.shape[1] // TILE_P, GROUP, TILE_P // GROUP))


@triton.jit
def bits_of(words, TILE_P: tl.constexpr, GROUP: tl.constexpr):
    """(1 or Q, groups) int32 words -> bools like members_apart: bit j is member j of a group."""
    GROUPS: tl.constexpr = TILE_P // GROUP
    words = tl.reshape(words, (words.shape[0], words.shape[1] // GROUPS, 1, GROUPS))
    return ((words >> tl.arange(0, GROUP)[None, None, :, None]) & 1) != 0


@triton.jit
def members(
    group, member, wanted, mask, row_in_page, unmatchable, n_prototypes, stride_mp,
    TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows, in the chunk, of the wanted members of groups (int64), and which of them may match.

    The order of codes is not that of the rows: a position leads to the row ``row_in_page`` of its
    page, which has SPAN rows. Without codes, a position is a row.
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    offs_p = group // GROUPS * TILE_P + group % GROUPS + member * GROUPS
    allowed = wanted
    if unmatchable is not None:
        allowed &= tl.load(unmatchable + offs_p, mask=allowed, other=1) == 0
    if row_in_page is not None:
        in_page = tl.load(row_in_page + offs_p, mask=allowed, other=0)
        offs_p = offs_p // SPAN * SPAN + in_page.to(tl.int64)
    # Whatever row_in_page says, no row is read that is not there.
    allowed &= (offs_p >= 0) & (offs_p < n_prototypes)
    in_mask = tl.load(mask + offs_p * stride_mp, mask=allowed, other=0)
    return offs_p, allowed & (in_mask != 0)


@triton.jit(do_not_specialize=PACK_SIZES)
def pack_mask_kernel(
    mask, row_in_page, unmatchable, words, n_queries, n_rows, n_words, n_positions, n_groups,
    stride_mq, stride_mp, stride_wq,
    BLOCK_Q: tl.constexpr, TILES: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program packs BLOCK_Q x TILES * TILE_P positions: bit j of a word is a group's member j.

    words (n_words, n_groups) int32   a bit is set where the member may match; a scan then needs
                                      one word where it has one maximum; rows of padding are 0
    mask (n_queries, M)               by row
    row_in_page, unmatchable          (n_positions,) of codes, or None where positions are rows
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    offs_q = tl.program_id(1).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    first = tl.program_id(0).to(tl.int64) * TILES
    offs_p = first * TILE_P + tl.arange(0, TILES * TILE_P)
    mask_q = offs_q < n_queries
    matchable = offs_p < n_positions
    row = offs_p
    if unmatchable is not None:
        matchable = tl.load(unmatchable + offs_p, mask=matchable, other=1) == 0
    if row_in_page is not None:
        in_page = tl.load(row_in_page + offs_p, mask=matchable, other=0)
        row = offs_p // SPAN * SPAN + in_page.to(tl.int64)
        matchable &= row < n_rows
    allowed = mask_q[:, None] & matchable[None, :]
    at = mask + offs_q[:, None] * stride_mq + row[None, :] * stride_mp
    allowed = tl.load(at, mask=allowed, other=0) != 0
    member = (tl.arange(0, TILES * TILE_P) % TILE_P // GROUPS)[None, :]
    bits = tl.reshape(allowed.to(tl.int32) << member, (BLOCK_Q, TILES, GROUP, GROUPS))
    packed = tl.reshape(tl.sum(bits, axis=2), (BLOCK_Q, TILES * GROUPS))
    offs_g = first * GROUPS + tl.arange(0, TILES * GROUPS)
    mask_qg = (offs_q < n_words)[:, None] & (offs_g < n_groups)[None, :]
    tl.store(words + offs_q[:, None] * stride_wq + offs_g[None, :], packed, mask=mask_qg)
