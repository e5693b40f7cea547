"""A search of a bank of int8 codes, whose originals are read where they are rescored.

Block of queries by block, run of pages by run, through the stages of launches.py. As in
float_search.py, nothing waits for the host before the end.
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
from ..contract.chunks import Rows
from ..contract.matches import Found
from ..contract.request import Request
from ..proofs import int8
from . import chips, launches, tuned_tiles
from .device.flags import Flag
from .device.int8_scan import scan_codes_kernel, scan_codes_persistent_kernel, scan_few_codes_kernel
from .plan import MAX_K, STRADDLING_PAGES, CodesPlan, choose_codes_plan, pad
from .query_block import Originals, QueryBlock, RunningTopK, parts, whole_mask
from .tiles import GROUP, TILE_P, WIDTH

LAYOUT = Layout(span=1024, group=GROUP, width_multiple=WIDTH, tile_span=TILE_P)


@dataclass(frozen=True)
class Int8Block(QueryBlock):
    """Some queries, coded."""

    plan: CodesPlan
    codes: Tensor  # (Qpad, width) int8
    terms: Tensor  # (4, Qpad) fp32, of int8.query_terms


@dataclass(frozen=True)
class Run:
    """Some pages of codes, by position, up to the last tile in use."""

    originals: Originals
    codes: Tensor  # (Mpad, width) int8
    group_terms: Tensor  # (groups, 4) fp32, of int8.group_bounds


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
        best = RunningTopK.empty(queries, request.k)
        mask = whole_mask(queries, len(rows), request)
        for part in parts(len(queries), plan.query_rows):
            block = prepare_codes(queries[part], codes.frame, request.of(part), plan, best.of(part))
            for some in codes.parts:
                for pages, vectors in page_runs(rows, some, plan.chunk_pages):
                    search_run(block, run_of(some, pages, vectors, mask[part], plan))
            del block  # before the next one is made
        scores, indices = best.ranked(plan.query_rows)
    screened = sum(part.codes.nbytes for part in codes.parts)
    return Found(scores, indices, best.flags[Flag.REPAIRED], 0, screened)


def plan_of_codes(queries: Tensor, codes: Codes, request: Request, workspace: int) -> CodesPlan:
    return choose_codes_plan(
        len(queries),
        sum(part.pages for part in codes.parts),
        codes.channels,
        request.k,
        span=codes.layout.span,
        group=codes.layout.group,
        width=codes.codes.shape[1],
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
        first_row, rows, mask[:, first_row : first_row + len(rows)],
        codes.row_in_page[at], codes.unmatchable.view(torch.uint8)[at], layout.span,
    )  # fmt: skip
    group_terms = codes.bounds[at.start // layout.group : at.stop // layout.group]
    return Run(originals, codes.codes[at], group_terms)


def prepare_codes(
    queries: Tensor, frame: Frame, request: Request, plan: CodesPlan, best: RunningTopK
) -> Int8Block:
    """A block of the queries (Q, C), of which ``request`` has the mask."""
    count, channels = queries.shape
    exact, norm = launches.prepare_queries(queries, best.flags, plan)
    in_fp64 = norm[:count].where(norm[:count].isfinite(), 0)
    coded = frame.queries(exact[:count, :channels], in_fp64)
    codes = queries.new_zeros((len(exact), LAYOUT.width(channels)), dtype=torch.int8)
    codes[:count, :channels] = coded.codes
    terms = queries.new_zeros((4, len(exact)), dtype=torch.float32)
    terms[:, :count] = int8.query_terms(coded, norm[:count], frame.origin_norm, frame.metric)
    return Int8Block(exact, norm, best, request, plan, codes, terms)


def search_run(block: Int8Block, run: Run) -> None:
    """Make the block's keys the best of what they were and of the run, proven.

    The threshold is taken from scores: the slack of a bound is ten times that of fp16, and for l2
    no score is known to lie near its bound, since the members of a group share one |p|^2. The
    ``first`` groups are rescored to find the threshold; of the others, those that reach it.
    """
    settle_run(block, run.originals, scan_run(block, run))


def settle_run(block: Int8Block, originals: Originals, bounds: Tensor) -> None:
    """The same, from the bounds (Qpad, groups) on."""
    groups = launches.select(block, bounds)
    first = min(block.plan.first, groups.kept)
    launches.rescore(block, originals, groups, 0, first, strips=first)
    if first < groups.kept:
        launches.raise_thresholds(block)
        launches.rescore(block, originals, groups, first, groups.kept, block.plan.strips)
    launches.repair(block, originals, groups)


def scan_run(block: Int8Block, run: Run) -> Tensor:
    """(Qpad, groups) upper bounds of the best score in each group; -inf where nothing may match."""
    plan, tile = block.plan, block.plan.tile
    bounds = block.terms.new_empty((len(block.codes), len(run.group_terms)))
    words = launches.pack_mask(block, run.originals, bounds)
    gain = 2.0 if block.request.metric == "l2" else 1.0
    arguments = (block.terms, run.group_terms, words, bounds, gain, block.terms.stride(0))
    if plan.few:
        stride_w = words.stride(0) if block.request.has_pairs else 0
        scan_few_codes_kernel[(len(run.codes) // TILE_P,)](
            block.codes, run.codes, *arguments, stride_w, bounds.stride(0), run.codes.stride(0),
            tile.block_q, tile.tile_c, TILE_P, plan.group, **tile.options,
        )  # fmt: skip
        return bounds
    arguments = (*arguments, bounds.stride(0), run.codes.stride(0))
    kernels = (scan_codes_kernel, scan_codes_persistent_kernel)
    launches.scan(block, *kernels, block.codes, run.codes, arguments)
    return bounds
