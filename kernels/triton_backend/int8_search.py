"""The Triton body for a bank of int8 codes: launches, and the order in which they prove a result.

Block of queries by block, run of pages by run: bound every group, rescore the best groups, let the
k-th score so found exclude most of the others, rescore the rest, then repair the queries for which
that is not yet a proof. As in float_search.py, nothing waits for the host before the end.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ..codes.frame import Frame
from ..codes.layout import Layout
from ..codes.pages import Codes
from ..contract import finite, order
from ..contract.chunks import Rows
from ..contract.matches import Found
from ..contract.request import Request
from ..proofs import int8
from . import chips, launches, tuned_tiles
from .device.int8_scan import (
    pack_alive_kernel,
    scan_codes_kernel,
    scan_codes_persistent_kernel,
    scan_few_codes_kernel,
    widen_queries_kernel,
)
from .plan import MAX_K, STRADDLING_PAGES, CodesPlan, choose_codes_plan, pad
from .tiles import GROUP, TILE_P, WIDTH

LAYOUT = Layout(span=1024, group=GROUP, width_multiple=WIDTH, tile_span=TILE_P)
BAD_QUERIES, _, REPAIRED = range(3)  # the flags, numbered as in float_search


@dataclass(frozen=True)
class Block(launches.Queries):
    """Some queries, coded."""

    codes: Tensor  # (Qpad, width) int8
    terms: Tensor  # (4, Qpad) fp32, of int8.query_terms


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
    queries: Tensor, codes: Codes, rows: Rows, request: Request, workspace: int
) -> Found:
    """The k best of ``rows``, of which ``codes`` are the codes.

    Unless the request excludes, this waits for the device, and refuses queries that are not finite.
    Prototypes that are not finite must be dead in ``codes``, or never match.
    """
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        scores, indices, flags = _search(queries, codes, rows, request, workspace)
        if not request.exclude and flags.tolist()[BAD_QUERIES]:
            finite.refuse_nonfinite("queries", ~finite.norms(queries).isfinite())
    screened = sum(part.codes.nbytes for part in codes.parts)
    return Found(scores, indices, flags[REPAIRED], 0, screened)


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


def _search(
    queries: Tensor, codes: Codes, rows: Rows, request: Request, workspace: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, rows, and int32 flags: bad queries seen, 0, repairs made."""
    keys = queries.new_full((len(queries), request.k), order.EMPTY, dtype=torch.int64)
    scores = queries.new_empty((len(queries), request.k), dtype=torch.float32)
    thresholds = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
    flags = queries.new_zeros(3, dtype=torch.int32)
    plan = plan_of_codes(queries, codes, request, workspace)
    for q in range(0, len(queries), plan.query_rows):
        part = slice(q, q + plan.query_rows)
        block = _prepare(queries[part], codes.frame, plan, flags)
        proven = keys[part], thresholds[part], flags
        for some in codes.parts:
            for run, originals in _runs(rows, some, plan.chunk_pages):
                _search_run(block, some, run, originals, request.of(part).mask, *proven, plan)
        ordered = keys[part].sort(dim=1, descending=True).values
        scores[part], keys[part] = order.unpack(ordered)
        del block  # before the next one is made
    return scores, keys, flags


def _runs(rows: Rows, codes: Codes, most: int) -> Iterator[tuple[slice, Tensor]]:
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


def _prepare(queries: Tensor, frame: Frame, plan: CodesPlan, flags: Tensor) -> Block:
    count, channels = queries.shape
    size, width = pad(count, plan.tile.block_q), pad(channels, WIDTH)
    block_q = min(plan.tile.block_q, plan.prepare_rows)
    exact = queries.new_empty((size, width), dtype=torch.float64)
    norm = queries.new_empty(size, dtype=torch.float64)
    widen_queries_kernel[(size // block_q,)](
        queries, exact, norm, flags, count, channels, *queries.stride(), width,
        BLOCK_Q=block_q, **plan.row_options,
    )  # fmt: skip
    in_fp64 = norm[:count].where(norm[:count].isfinite(), 0)
    coded = frame.queries(exact[:count, :channels], in_fp64)
    codes = queries.new_zeros((size, LAYOUT.width(channels)), dtype=torch.int8)
    codes[:count, :channels] = coded.codes
    terms = queries.new_zeros((4, size), dtype=torch.float32)
    terms[:, :count] = int8.query_terms(coded, norm[:count], frame.origin_norm, frame.metric)
    return Block(exact, norm, codes, terms)


def _search_run(
    block: Block,
    codes: Codes,
    run: slice,
    rows: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    thresholds: Tensor,
    flags: Tensor,
    plan: CodesPlan,
) -> None:
    """Make ``keys`` (Q, k) the best of what they were and of the pages ``run``, proven.

    The bound's slack is wide and, for l2, known from above only: so the threshold is taken from
    scores. The groups of the k best bounds and a few more are rescored for that; of the others,
    those that reach it.
    """
    count, span, metric = len(keys), codes.layout.span, codes.frame.metric
    first_row = codes.first_row + run.start * span
    at = _positions(codes, run, plan.tile.block_p)
    every = flags.new_ones(1, dtype=torch.uint8).expand(len(rows))
    own = every if mask is None else mask.view(torch.uint8)[..., first_row : first_row + len(rows)]
    originals = launches.Originals(
        first_row, rows, own.expand(count, len(rows)),
        codes.row_in_page[at], codes.unmatchable.view(torch.uint8)[at], span,
    )  # fmt: skip
    bounds = _scan(block, codes, run, originals, 0 if mask is None else mask.ndim, plan)
    kept, first = min(plan.kept, bounds.shape[1]), min(plan.first, bounds.shape[1])
    upper, groups = torch.topk(bounds[:count], min(kept + 1, bounds.shape[1]), dim=1)
    launches.rescore(
        block, originals, bounds, upper[:, :first], groups[:, :first], thresholds, keys,
        metric, plan, strips=first,
    )  # fmt: skip
    if first < kept:
        launches.raise_thresholds(keys, thresholds, plan)
        launches.rescore(
            block, originals, bounds, upper[:, first:kept], groups[:, first:kept], thresholds, keys,
            metric, plan, plan.strips,
        )  # fmt: skip
    launches.repair(
        block, originals, bounds, upper[:, kept:], thresholds, keys, flags, metric, plan
    )


def _positions(codes: Codes, run: slice, block_p: int) -> slice:
    """Of the tiles of some pages. The last page's padding lies behind all else: left out."""
    stop = min(run.stop * codes.layout.span, pad(codes.count, block_p))
    return slice(run.start * codes.layout.span, stop)


def _scan(
    block: Block,
    codes: Codes,
    run: slice,
    originals: launches.Originals,
    mask_ndim: int,
    plan: CodesPlan,
) -> Tensor:
    """(Qpad, groups) upper bounds of the best score in each group; -inf where nothing may match."""
    layout, metric = codes.layout, codes.frame.metric
    pairs, at = mask_ndim == 2, _positions(codes, run, plan.tile.block_p)
    some = codes.codes[at]
    group_terms = codes.bounds[at.start // layout.group : at.stop // layout.group]
    bounds = block.terms.new_empty((len(block.codes), len(group_terms)))
    # Each program of the scan reads its words, then overwrites them with bounds.
    words = bounds if pairs else bounds.new_empty((1, len(group_terms)))
    words, rows_q = words.view(torch.int32), len(originals.mask) if pairs else 1
    block_q, tiles = (plan.prepare_rows, 1) if pairs else (1, 8)
    p_tiles = len(some) // TILE_P
    pack_alive_kernel[(triton.cdiv(p_tiles, tiles), triton.cdiv(rows_q, block_q))](
        originals.mask if mask_ndim else None, originals.place, originals.dead, words,
        rows_q, len(some), *originals.mask.stride(), words.stride(0),
        BLOCK_Q=block_q, TILES=tiles, TILE_P=TILE_P, SPAN=layout.span, GROUP=layout.group,
        num_warps=4,
    )  # fmt: skip
    stride_w, tile = words.stride(0) if pairs else 0, plan.tile
    strides = (block.terms.stride(0), stride_w, bounds.stride(0), some.stride(0))
    arguments = (block.terms, group_terms, words, bounds, *strides)
    if plan.few:
        scan_few_codes_kernel[(p_tiles,)](
            block.codes, some, *arguments, metric, tile.block_q, tile.tile_c, TILE_P, layout.group,
            **tile.options,
        )  # fmt: skip
        return bounds
    launches.scan(
        scan_codes_kernel,
        scan_codes_persistent_kernel,
        block.codes,
        some,
        arguments,
        metric,
        pairs,
        tile,
        layout.group,
    )
    return bounds
