"""A search of a bank of int8 codes, whose originals are read where they are rescored.

Block of queries by block, run of pages by run, round of tiles by round (rounds.py):

    code     the queries, once for a block; masks become bits
    scan     the tiles of a round: what may be a match is appended to the entries of its query
    settle   the entries of each query, in fp64, into its k best so far, which raise its threshold

Queries of which entries were lost are scanned and settled again behind the last round of a run; the
programs of that return at once where there are none. Nothing waits for the host before the end.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codes.frame import Frame
from ..codes.layout import Layout
from ..codes.pages import Codes
from ..contract import finite
from ..contract.chunks import Rows
from ..contract.matches import Found
from ..contract.request import Request
from ..proofs import fp32
from . import chips, launches, tuned_tiles
from .device.flags import Flag
from .device.int8_scan import scan_codes_kernel
from .device.prepare import code_queries_kernel
from .device.settle import settle_kernel
from .plan import pad
from .query_block import Best, Entries, Originals, parts, whole_mask
from .rounds import (
    MAX_K,
    PACK,
    STRADDLING_PAGES,
    CodesPlan,
    choose_codes_plan,
    room_for,
    spread,
)
from .tiles import GROUP, TILE_P, WIDTH

LAYOUT = Layout(span=1024, group=GROUP, width_multiple=WIDTH, tile_span=TILE_P)


@dataclass(frozen=True)
class Int8Block:
    """Some queries, coded, and how far they are."""

    queries: Tensor  # (Q, C) as given
    request: Request  # its mask is that of these queries
    plan: CodesPlan
    best: Best
    norm: Tensor  # (Qpad,) fp64, not finite where the query is not
    codes: Tensor  # (Qpad, width) int8
    terms: Tensor  # (4, Qpad) fp32, of int8.query_terms
    thresholds: Tensor  # (Qpad,) fp32, proven lower bounds of the k-th scores
    resume: Tensor  # (Qpad,) int32, the first tile of the round where it failed; else NEVER

    @property
    def count(self) -> int:
        return self.queries.shape[0]

    def entries(self) -> Entries:
        return Entries.of(self.codes, self.count, self.request.k, self.plan)

    @property
    def gain(self) -> float:
        """Of scores over what the proof bounds."""
        return 2.0 if self.request.metric == "l2" else 1.0


@dataclass(frozen=True)
class Run:
    """Some pages of codes, by position, up to the last tile in use."""

    originals: Originals
    codes: Tensor  # (Mpad, width) int8
    group_terms: Tensor  # (groups, 4) fp32, of int8.group_bounds
    scan_terms: Tensor  # (groups, 4) fp32, of int8_scan.scan_terms
    words: Tensor  # (groups,) int32, of codes


def why_not_codes(queries: Tensor, codes: Codes, rows: Rows, request: Request) -> str:
    """Why this backend does not take the search; nothing where it does.

    The originals may lie in several chunks, each on the queries' device or in pinned host memory,
    where only what is rescored is read.
    """
    device = queries.device
    if request.k > MAX_K:
        return f"k above {MAX_K:,}"
    if codes.layout != LAYOUT or codes.device != device:
        return "codes in another layout, or elsewhere"
    if not all(chunk.device == device or chunk.is_pinned() for chunk in rows.chunks):
        return "vectors elsewhere, and not pinned"
    return ""


def search_codes(
    queries: Tensor, codes: Codes, rows: Rows, request: Request, plan: CodesPlan
) -> Found:
    """The k best of ``rows``, of which ``codes`` are the codes. Never waits.

    Queries that are not finite match nothing. Prototypes that are not finite must be unmatchable in
    ``codes``, or never match.
    """
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        best = Best.empty(queries, request.k)
        mask = whole_mask(queries, len(rows), request)
        for part in parts(queries.shape[0], plan.query_rows):
            block = code_queries(queries[part], codes.frame, request.of(part), plan, best.of(part))
            entries = block.entries()
            for some in codes.parts:
                for pages, vectors in page_runs(rows, some, plan.chunk_pages):
                    search_run(block, run_of(some, pages, vectors, mask[part], plan), entries)
            del block, entries  # before the next are made
    screened = sum(part.pages * part.layout.span * part.width for part in codes.parts)
    told = Flag.REPAIRED, Flag.NONFINITE_QUERIES
    repaired, nonfinite = (best.flags.select(0, int(flag)) for flag in told)
    return Found(best.scores, best.indices, repaired, 0, screened, nonfinite)


def plan_of_codes(queries: Tensor, codes: Codes, request: Request, workspace: int) -> CodesPlan:
    return choose_codes_plan(
        queries.shape[0],
        sum(part.pages for part in codes.parts),
        codes.channels,
        request.k,
        span=codes.layout.span,
        width=codes.width,
        chip=chips.chip(queries.device),
        workspace=workspace,
        pairs=request.has_pairs,
        tuned=tuned_tiles.of_device(queries.device),
    )


def page_runs(rows: Rows, codes: Codes, most: int) -> Iterator[tuple[slice, Tensor]]:
    """Runs of at most ``most`` pages, and their originals.

    Those are a view where one chunk holds them all. Pages that lie across chunks are copied, a few
    at a time.
    """
    span, pages, first_row = codes.layout.span, codes.pages, codes.first_row

    def whole(page: int) -> int:
        """Pages from ``page`` on that lie within one chunk."""
        end = rows.ends[bisect_right(rows.ends, first_row + page * span)] - first_row
        return (pages if end >= codes.count else end // span) - page

    page = 0
    while page < pages:
        count = min(whole(page), most)
        if count == 0:
            count = 1
            while count < min(most, STRADDLING_PAGES) and page + count < pages:
                if whole(page + count):
                    break
                count += 1
        start, stop = (first_row + min(at * span, codes.count) for at in (page, page + count))
        pieces = [piece for piece in rows.pieces(start, stop) if len(piece)]
        alone = pieces[0] if len(pieces) == 1 else rows.span(start, stop, codes.device)
        yield slice(page, page + count), alone
        page += count


def run_of(codes: Codes, pages: slice, rows: Tensor, mask: Tensor, plan: CodesPlan) -> Run:
    """A run of ``pages``, whose originals are ``rows``; ``mask`` (Q, M) is of all prototypes.

    The last page's padding lies behind all else, and is left out.
    """
    layout = codes.layout
    first, stop = pages.start * layout.span, pages.stop * layout.span
    at = slice(first, min(stop, pad(codes.count, plan.tile.block_p)))
    first_row = codes.first_row + first
    originals = Originals(
        first_row, rows, mask[:, first_row : first_row + rows.shape[0]],
        codes.row_in_page[at], codes.unmatchable.view(torch.uint8)[at], layout.span,
    )  # fmt: skip
    groups = slice(at.start // layout.group, at.stop // layout.group)
    return Run(
        originals, codes.codes[at],
        codes.bounds[groups], codes.scan_terms[groups], codes.words[groups],
    )  # fmt: skip


def code_queries(
    queries: Tensor, frame: Frame, request: Request, plan: CodesPlan, best: Best
) -> Int8Block:
    """A block of the queries (Q, C), of which ``request`` has the mask."""
    count, channels = queries.shape
    size = pad(count, plan.tile.block_q)
    norm = queries.new_empty(size, dtype=torch.float64)
    codes = queries.new_empty((size, LAYOUT.width(channels)), dtype=torch.int8)
    terms = queries.new_empty((4, size), dtype=torch.float32)
    thresholds = queries.new_empty(size, dtype=torch.float32)
    resume = queries.new_empty(size, dtype=torch.int32)
    rotated = frame.moved(queries, finite.norms(queries)) if frame.rotation else None
    code_queries_kernel[(size // plan.code_rows,)](
        queries, frame.origin, rotated, norm, codes, terms, thresholds, resume, best.flags,
        count, channels, fp32.fp64_slack(channels), *queries.stride(), terms.stride(0),
        codes.stride(0), METRIC=frame.metric, BLOCK_Q=plan.code_rows, **plan.row_options,
    )  # fmt: skip
    return Int8Block(queries, request, plan, best, norm, codes, terms, thresholds, resume)


def search_run(block: Int8Block, run: Run, entries: Entries) -> None:
    """Make the block's matches the best of what they were and of the run, proven."""
    plan, words = block.plan, words_of(block, run)
    tiles = run.codes.shape[0] // plan.tile.block_p
    first, ends = 0, plan.ends(tiles)
    can_fail = len(ends) > 1  # the first round has room for all
    if can_fail:
        entries.failed[:1].zero_()
    for stop in ends:
        append(block, run, words, entries, first, stop)
        settle(block, run, entries, first)
        first = stop
    if can_fail:
        append(block, run, words, entries, 0, tiles, again=True)
        settle(block, run, entries, 0, again=True)


def words_of(block: Int8Block, run: Run) -> Tensor:
    """(1 or Qpad, groups) int32: bit j is set where member j of a group may match."""
    if block.request.mask is None:
        return run.words[None]
    rows = block.codes.shape[0] if block.request.has_pairs else 1
    words = run.words.new_empty((rows, run.words.shape[0]))
    launches.pack_words(run.originals, words, block.count)
    return words


def append(
    block: Int8Block,
    run: Run,
    words: Tensor,
    entries: Entries,
    first: int,
    stop: int,
    again: bool = False,
) -> None:
    """Append the entries of a round; again, of what the queries that failed have yet to see."""
    plan, tile = block.plan, block.plan.tile
    q_tiles, p_tiles = block.codes.shape[0] // tile.block_q, run.codes.shape[0] // tile.block_p
    stride_w = words.stride(0) if block.request.has_pairs else 0
    failed = (entries.failed[1:], entries.failed) if again else (None, None)
    scan_codes_kernel[(q_tiles * plan.strips,)](
        block.codes, run.codes, block.terms, block.thresholds, run.scan_terms, words,
        entries.entries, entries.counts, block.resume, *failed, block.gain,
        q_tiles, p_tiles, first, stop, spread(p_tiles), plan.capacity,
        block.terms.stride(0), stride_w, block.codes.stride(0),
        block.request.has_pairs, block.codes.shape[1] == tile.tile_c, plan.few,
        tile.block_q, tile.block_p, tile.tile_c, TILE_P, GROUP, **tile.options,
    )  # fmt: skip


def settle(block: Int8Block, run: Run, entries: Entries, first: int, again: bool = False) -> None:
    """Make the entries of a round that began with ``first`` a part of what is best."""
    plan, best, originals = block.plan, block.best, run.originals
    rows, mask, k = originals.rows, originals.mask, block.request.k
    tiles = run.codes.shape[0] // plan.tile.block_p
    settle_kernel[(len(entries.groups),)](
        block.queries, block.codes, block.norm, block.terms, run.codes, run.group_terms,
        rows, mask, originals.row_in_page, originals.unmatchable,
        entries.entries, entries.counts, entries.groups, entries.rows, entries.found,
        best.scores, best.indices, block.thresholds, block.resume,
        entries.failed[1:], entries.failed, best.flags, int(again), block.gain,
        block.count, rows.shape[0], originals.first_row, rows.shape[1], k, room_for(k),
        tiles, first, spread(tiles), plan.capacity, plan.segments,
        *block.queries.stride(), *rows.stride(), *mask.stride(),
        block.terms.stride(0), block.codes.stride(0),
        METRIC=block.request.metric, SLOTS=plan.slots, PACK=PACK,
        BLOCK_P=plan.tile.block_p, WIDTH=WIDTH, TILE_P=TILE_P, SPAN=originals.span, GROUP=GROUP,
        **plan.settle_options,
    )  # fmt: skip
