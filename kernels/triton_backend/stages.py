"""The stages of a search, which both screens go through. Nothing waits for the host.

    prepare   the queries, once for a block; masks become bits
    scan      the tiles of a round: what may be a match is appended to the entries of its query
    settle    the entries of each query, in fp64, into its k best so far, which raise its threshold

Queries of which entries were lost are scanned and settled again behind the last round of a run; the
programs of that return at once where there are none.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

import torch
from torch import Tensor

from ..codes.frame import Frame
from ..contract.request import Request
from ..proofs import fp32, tf32
from .device.groups import pack_mask_kernel
from .device.int8_scan import scan_codes_kernel
from .device.prepare import code_queries_kernel, rotate_queries_kernel, scale_queries_kernel
from .device.settle import settle_all_kernel, settle_kernel
from .device.tf32_scan import scan_rows_kernel
from .plan import WHOLE_ROWS, SearchPlan, pad
from .query_block import (
    Best,
    CodedQueries,
    CodedRows,
    Entries,
    Originals,
    QueryBlock,
    Run,
    ScaledQueries,
)
from .rounds import PACK, spread
from .tiles import GROUP, TILE_P, WIDTH, cdiv

WHOLE_BLOCK = 64  # rows that a program of settle_all takes at a time


def code_queries(
    queries: Tensor, origin: Tensor, rotated: Tensor | None, request: Request, plan: SearchPlan,
    best: Best, is_first: bool,
) -> QueryBlock:  # fmt: skip
    """A block of the queries (Q, C), of which ``request`` has the mask, in a frame's codes.

    ``origin`` (C,) fp32; ``rotated`` (Q, C) fp64 of a frame that rotates; ``is_first``: ``best`` is
    filled with nothing, else it is what was found already.
    """
    (count, channels), new = queries.shape, queries.new_empty
    size, width = pad(count, plan.tile.block_q), pad(channels, WIDTH)
    codes = new((size, width), dtype=torch.int8)
    terms = new((4, size), dtype=torch.float32)
    block = _begun(queries, request, plan, best, CodedQueries(codes, terms))
    code_queries_kernel[(size // plan.code_rows,)](
        queries, origin, rotated, block.norm, codes, terms, block.thresholds, block.resume,
        best.scores, best.indices, best.flags, count, channels, request.k, int(is_first),
        fp32.fp64_slack(channels), *queries.stride(), terms.stride(0), codes.stride(0),
        METRIC=request.metric, BLOCK_Q=plan.code_rows, **plan.row_options,
    )  # fmt: skip
    return block


def rotate_queries(queries: Tensor, frame: Frame) -> Tensor | None:
    """(Q, C) fp64: queries as ``code_queries`` takes them of a frame that rotates; else None."""
    if frame.rotation is None:
        return None
    (count, channels), rotation = queries.shape, frame.rotation
    rotated = queries.new_empty((count, channels), dtype=torch.float64)
    rotate_queries_kernel[(count,)](
        queries, rotation.signs, frame.origin, rotated, channels, rotation.stages,
        *queries.stride(), METRIC=frame.metric, num_warps=4,
    )  # fmt: skip
    return rotated


def scale_queries(
    queries: Tensor, request: Request, plan: SearchPlan, best: Best, is_first: bool
) -> QueryBlock:
    """A block of the queries (Q, C), of which ``request`` has the mask, for the TF32 screen.

    ``is_first``: as of ``code_queries``.
    """
    (count, channels), new = queries.shape, queries.new_empty
    size, width = pad(count, plan.tile.block_q), pad(channels, WIDTH)
    unit = new((size, width), dtype=torch.float32)
    scale, bias = new((2, size), dtype=torch.float32)
    block = _begun(queries, request, plan, best, ScaledQueries(unit, scale, bias))
    scale_queries_kernel[(size // plan.code_rows,)](
        queries, block.norm, unit, scale, bias, block.thresholds, block.resume,
        best.scores, best.indices, best.flags, count, channels, request.k, int(is_first),
        *_slack(plan, channels), *queries.stride(), width,
        METRIC=request.metric, BLOCK_Q=plan.code_rows, **plan.row_options,
    )  # fmt: skip
    return block


def _begun(
    queries: Tensor, request: Request, plan: SearchPlan, best: Best,
    screened: CodedQueries | ScaledQueries,
) -> QueryBlock:  # fmt: skip
    """With room for what a kernel writes beside ``screened``."""
    size, new = pad(queries.shape[0], plan.tile.block_q), queries.new_empty
    norm, thresholds = new(size, dtype=torch.float64), new(size, dtype=torch.float32)
    resume = new(size, dtype=torch.int32)
    return QueryBlock(queries, request, plan, best, norm, thresholds, resume, screened)


def _slack(plan: SearchPlan, channels: int) -> tuple[float, float]:
    """delta and epsilon of proofs/tf32.py."""
    return tf32.delta_of(channels, plan.half), tf32.epsilon_of(channels)


def search_run(block: QueryBlock, run: Run, entries: Entries) -> None:
    """Make the block's matches the best of what they were and of the run, proven."""
    plan, words = block.plan, words_of(block, run)
    tiles = cdiv(run.originals.positions, plan.tile.block_p)
    can_fail = tiles > plan.roomy
    if can_fail:
        entries.n_failed.zero_()
    first = 0
    for stop in plan.ends(tiles):
        append(block, run, words, entries, first, stop)
        settle(block, run, entries, first)
        first = stop
    if can_fail:
        append(block, run, words, entries, 0, tiles, again=True)
        settle(block, run, entries, 0, again=True)


def words_of(block: QueryBlock, run: Run) -> Tensor | None:
    """(1 or Qpad, groups) int32: bit j is set where member j of a group may match; None: all may.

    Words of codes know of rows that never match; those made in passing, of a mask of rows, too.
    """
    request, coded, originals = block.request, run.coded, run.originals
    if coded is not None and not request.has_pairs:
        if request.mask is None or originals.unmatchable is None:
            return coded.words[None]
    elif request.mask is None:
        return None
    groups = pad(originals.positions, block.plan.tile.block_p) // GROUP
    queries = block.padded if request.has_pairs else 1
    words = block.resume.new_empty((queries, groups))
    pack_words(originals, words, block.count)
    return words


def pack_words(originals: Originals, words: Tensor, count: int) -> None:
    """Fill words (Qpad or 1, groups) int32 of the ``count`` masks of as many queries, or of one."""
    pairs, groups = words.shape[0] > 1, words.shape[1]
    count, block_q, tiles = (count, 32, 1) if pairs else (1, 1, 8)
    p_tiles = cdiv(groups * GROUP, TILE_P * tiles)
    pack_mask_kernel[(p_tiles, cdiv(words.shape[0], block_q))](
        originals.mask, originals.row_in_page, originals.unmatchable, words,
        count, originals.rows.shape[0], words.shape[0], originals.positions, groups,
        *originals.mask.stride(), words.stride(0),
        BLOCK_Q=block_q, TILES=tiles, TILE_P=TILE_P, SPAN=originals.span, GROUP=GROUP,
        num_warps=4,
    )  # fmt: skip


def append(
    block: QueryBlock, run: Run, words: Tensor | None, entries: Entries, first: int, stop: int,
    again: bool = False,
) -> None:  # fmt: skip
    """Append the entries of a round; again, of what the queries that failed have yet to see."""
    failed = (entries.failed, entries.n_failed) if again else (None, None)
    if run.coded is None:
        assert isinstance(block.screened, ScaledQueries)
        _scan_rows(block, block.screened, run.originals, words, entries, failed, first, stop)
    else:
        assert isinstance(block.screened, CodedQueries)
        assert words is not None
        _scan_codes(block, block.screened, run.coded, words, entries, failed, first, stop)


Failed = tuple[Tensor | None, Tensor | None]
"""The queries to scan again and how many, or none and all but those that failed."""


def _scan_codes(
    block: QueryBlock, queries: CodedQueries, rows: CodedRows, words: Tensor, entries: Entries,
    failed: Failed, first: int, stop: int,
) -> None:  # fmt: skip
    plan, tile, has_pairs = block.plan, block.plan.tile, block.request.has_pairs
    q_tiles, p_tiles = block.padded // tile.block_q, rows.codes.shape[0] // tile.block_p
    scan_codes_kernel[(q_tiles * plan.strips,)](
        queries.codes, rows.codes, queries.terms, block.thresholds, rows.scan_terms, words,
        entries.entries, entries.counts, block.resume, *failed, block.gain,
        q_tiles, p_tiles, first, stop, spread(p_tiles), plan.capacity,
        queries.terms.stride(0), _stride_of_words(block, words), queries.codes.stride(0),
        has_pairs, queries.codes.shape[1] == tile.tile_c, plan.few,
        tile.block_q, tile.block_p, tile.tile_c, TILE_P, GROUP, **tile.options,
    )  # fmt: skip


def _scan_rows(
    block: QueryBlock, queries: ScaledQueries, originals: Originals, words: Tensor | None,
    entries: Entries, failed: Failed, first: int, stop: int,
) -> None:  # fmt: skip
    plan, tile, rows = block.plan, block.plan.tile, originals.rows
    p_tiles = cdiv(rows.shape[0], tile.block_p)
    scan_rows_kernel[(plan.strips,)](
        queries.unit, rows, queries.scale, queries.bias, words, block.thresholds,
        entries.entries, entries.counts, block.resume, *failed, block.best.flags,
        *rows.shape, *_slack(plan, rows.shape[1]),
        p_tiles, first, stop, spread(p_tiles), plan.capacity,
        queries.unit.stride(0), *rows.stride(), _stride_of_words(block, words),
        block.request.metric, tile.block_q, tile.tile_c, TILE_P, GROUP, **tile.options,
    )  # fmt: skip


def _stride_of_words(block: QueryBlock, words: Tensor | None) -> int:
    return words.stride(0) if words is not None and block.request.has_pairs else 0


def settle(block: QueryBlock, run: Run, entries: Entries, first: int, again: bool = False) -> None:
    """Make the entries of a round that began with ``first`` a part of what is best."""
    plan, coded = block.plan, run.coded
    tiles = cdiv(run.originals.positions, plan.tile.block_p)
    settle_kernel[(entries.groups.shape[0],)](
        int(again), first, tiles, spread(tiles), *block.arguments,
        *((None, None) if coded is None else (coded.codes, coded.group_terms)),
        *run.originals.arguments, *entries.arguments,
        METRIC=block.request.metric, SLOTS=plan.slots, PACK=PACK, BLOCK_P=plan.tile.block_p,
        WIDTH=WIDTH, TILE_P=TILE_P, SPAN=run.originals.span, GROUP=GROUP, **plan.settle_options,
    )  # fmt: skip


def settle_all(
    queries: Tensor, rows: Tensor, mask: Tensor, request: Request, plan: SearchPlan, best: Best
) -> None:
    """Make ``best`` the best of all ``rows`` (M, C), each of which is scored."""
    room = max(rows.shape[0], 2 * request.k)
    keys = queries.new_empty((queries.shape[0], room), dtype=torch.int64)
    settle_all_kernel[(queries.shape[0],)](
        queries, rows, mask, keys, best.scores, best.indices, best.flags,
        *rows.shape, request.k, *queries.stride(), *rows.stride(), *mask.stride(), room,
        METRIC=request.metric, HELD=WHOLE_ROWS, BLOCK_P=WHOLE_BLOCK, **plan.whole_options,
    )  # fmt: skip
