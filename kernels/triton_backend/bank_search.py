"""A search of a bank of int8 codes, whose originals are read where they are rescored.

Block of queries by block, run of pages by run, through the stages. A run is some pages of a part of
the bank whose originals lie together.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from ..codes.frame import Frame
from ..codes.layout import Layout
from ..codes.pages import Codes
from ..contract.chunks import Rows, cut
from ..contract.matches import Found
from ..contract.request import Request
from . import chips, stages, tuned_tiles
from .device.flags import Flag
from .plan import Prototypes, SearchPlan, choose_plan, pad
from .query_block import Best, CodedRows, Entries, Originals, QueryBlock, Run, parts, whole_mask
from .rounds import MAX_K
from .tiles import GROUP, TILE_P, WIDTH

LAYOUT = Layout(span=1024, group=GROUP, width_multiple=WIDTH, tile_span=TILE_P)
STRADDLING_PAGES = 2  # pages of rows copied together where they lie across chunks


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
    queries: Tensor, codes: Codes, rows: Rows, request: Request, plan: SearchPlan
) -> Found:
    """The k best of ``rows``, of which ``codes`` are the codes. Never waits.

    Queries that are not finite match nothing. Prototypes that are not finite must be unmatchable in
    ``codes``, or never match.
    """
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        best = Best.unfilled(queries, request.k)
        mask = whole_mask(queries, len(rows), request)
        for part in parts(queries.shape[0], plan.query_rows):
            own = request.of(part)
            block = coded_block(cut(queries, part), codes.frame, own, plan, best.of(part))
            entries = Entries.of(block)
            for some in codes.parts:
                for pages, vectors in page_runs(rows, some, plan.chunk_rows // some.layout.span):
                    run = run_of(some, pages, vectors, cut(mask, part), plan)
                    stages.search_run(block, run, entries)
            del block, entries  # before the next are made
    screened = sum(part.pages * part.layout.span * part.width for part in codes.parts)
    told = Flag.REPAIRED, Flag.NONFINITE_QUERIES
    repaired, nonfinite = (best.flags.select(0, int(flag)) for flag in told)
    return Found(best.scores, best.indices, repaired, 0, screened, nonfinite)


def plan_of_codes(queries: Tensor, codes: Codes, request: Request, workspace: int) -> SearchPlan:
    span = codes.layout.span
    rows = sum(part.pages for part in codes.parts) * span
    given = Prototypes(rows, codes.channels, codes.width, span, copied_rows=STRADDLING_PAGES * span)
    return choose_plan(
        queries.shape[0], given, request.k, chip=chips.chip(queries.device), workspace=workspace,
        pairs=request.has_pairs, tuned=tuned_tiles.of_device(queries.device),
    )  # fmt: skip


def coded_block(
    queries: Tensor, frame: Frame, request: Request, plan: SearchPlan, best: Best
) -> QueryBlock:
    """A block of the queries (Q, C), of which ``request`` has the mask, in a bank's frame."""
    rotated = stages.rotate_queries(queries, frame)
    return stages.code_queries(queries, frame.origin, rotated, request, plan, best, is_first=True)


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


def run_of(codes: Codes, pages: slice, rows: Tensor, mask: Tensor, plan: SearchPlan) -> Run:
    """A run of ``pages``, whose originals are ``rows``; ``mask`` (Q, M) is of all prototypes.

    The last page's padding lies behind all else, and is left out.
    """
    span, group = codes.layout.span, codes.layout.group
    first, stop = pages.start * span, pages.stop * span
    at = slice(first, min(stop, pad(codes.count, plan.tile.block_p)))
    of_groups = slice(at.start // group, at.stop // group)
    first_row = codes.first_row + first
    if rows.shape[0] < mask.shape[1]:
        mask = mask[:, first_row : first_row + rows.shape[0]]
    unmatchable = codes.unmatchable.view(torch.uint8)
    originals = Originals(
        first_row, rows, mask, cut(codes.row_in_page, at), cut(unmatchable, at), span
    )
    terms = codes.bounds, codes.scan_terms, codes.words
    coded = CodedRows(codes.held.read(first, at.stop), *(cut(term, of_groups) for term in terms))
    return Run(originals, coded)
