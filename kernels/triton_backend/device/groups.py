"""Groups: the prototypes that share a bound, and the tiles that they lie in.

A tile of TILE_P prototypes holds GROUPS = TILE_P / GROUP groups. Group i of a tile has the
positions i, i + GROUPS, i + 2 GROUPS, ... of it, so that on tensor-core layouts one thread holds a
whole group. A program takes BLOCK_P prototypes, which are some whole tiles.
"""

import triton
import triton.language as tl

# Arguments of scans that differ from call to call: no load becomes faster by knowing them.
SCAN_SIZES = ["q_tiles", "p_tiles", "stride_bq"]


@triton.jit
def tile_of(program, q_tiles, p_tiles, TOGETHER: tl.constexpr):
    """The tile of queries and that of prototypes which a program multiplies.

    TOGETHER tiles of prototypes go round all the queries, then the next: programs that run at the
    same time share few rows of either side.
    """
    if TOGETHER == 1:
        tile_p = program // q_tiles
        tile_q = program - tile_p * q_tiles
    else:
        wave = TOGETHER * q_tiles
        first = program // wave * TOGETHER
        height = tl.minimum(p_tiles - first, TOGETHER)
        inside = program % wave
        tile_q, tile_p = inside // height, first + inside % height
    return tile_q, tile_p


@triton.jit
def tile_product(
    queries, prototypes, tile_q, tile_p, stride_c,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, TILE_C: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """(BLOCK_Q, BLOCK_P) products, summed in SUM, of a tile of queries and one of prototypes.

    queries (Qpad, stride_c), prototypes (Mpad, stride_c): contiguous, and padded to whole tiles, so
    that nothing is masked.
    """
    offs_q = tile_q.to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_p = tile_p.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_c = tl.arange(0, TILE_C)
    q_ptrs = queries + offs_q[:, None] * stride_c + offs_c[None, :]
    p_ptrs = prototypes + offs_p[:, None] * stride_c + offs_c[None, :]
    acc = tl.zeros((BLOCK_Q, BLOCK_P), SUM)
    for _ in range(0, stride_c, TILE_C):
        acc = tl.dot(tl.load(q_ptrs), tl.trans(tl.load(p_ptrs)), acc, out_dtype=SUM)
        q_ptrs += TILE_C
        p_ptrs += TILE_C
    return acc


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
    if row_in_page is not None:
        allowed &= tl.load(unmatchable + offs_p, mask=allowed, other=1) == 0
        in_page = tl.load(row_in_page + offs_p, mask=allowed, other=0)
        offs_p = offs_p // SPAN * SPAN + in_page.to(tl.int64)
    # Whatever row_in_page says, no row is read that is not there.
    allowed &= (offs_p >= 0) & (offs_p < n_prototypes)
    in_mask = tl.load(mask + offs_p * stride_mp, mask=allowed, other=0)
    return offs_p, allowed & (in_mask != 0)
