"""A search of prototypes as given: coded in passing, or where the queries are few read in TF32.

Chunk of prototypes by chunk, block of queries by block, through the stages. A chunk's codes are
made once, for all queries, and forgotten behind it.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from ..concurrency.ahead import BUFFERS, brought_ahead
from ..contract import finite
from ..contract.chunks import Rows, cut
from ..contract.request import Request
from ..proofs import int8
from . import chips, stages, tuned_tiles
from .device.flags import Flag
from .device.prototypes import (
    COLUMNS,
    SAMPLE,
    code_prototypes_kernel,
    fit_origin_kernel,
    order_rows_kernel,
)
from .plan import Prototypes, SearchPlan, choose_plan, is_whole, pad
from .query_block import Best, CodedRows, Entries, Originals, QueryBlock, Run, parts, whole_mask
from .rounds import MAX_K
from .tiles import GROUP, TILE_P, WIDTH, cdiv

HALVES = (torch.float16, torch.bfloat16)
READABLE = (torch.float32, *HALVES)
MAX_CHANNELS = int8.MAX_CHANNELS
UNIT = 2 * TILE_P  # whole tiles of either size
TERM_BYTES = 9  # of a row: its share of its group's terms and words; its size and place
SPAN = 1024  # rows of a page, which are ordered


def why_not_vectors(queries: Tensor, request: Request) -> str:
    """Why this backend does not take the search; nothing where it does."""
    if request.k > MAX_K:
        return f"k above {MAX_K:,}"
    if queries.shape[1] > MAX_CHANNELS:
        return f"more than {MAX_CHANNELS:,} channels"
    return ""


def are_few(queries: Tensor, rows: Rows, request: Request) -> bool:
    """Whether each of these prototypes is scored, in one launch."""
    alone = len(rows.chunks) == 1 and rows.chunks[0].device == queries.device
    return alone and is_whole(queries.shape[0], len(rows), queries.shape[1], request.k)


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: SearchPlan
) -> tuple[Best, list[int]]:
    """The best of the prototypes, and the flags that ``refuse_flagged`` reads.

    Unless it excludes, this waits for the device; where it does, there are no flags to read.
    """
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        best = search_with_flags(queries, prototypes, request, plan)
        return best, [] if request.exclude else best.flags.tolist()


def search_with_flags(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: SearchPlan
) -> Best:
    """Never waits."""
    best = Best.unfilled(queries, request.k)
    mask = whole_mask(queries, sum(map(len, prototypes)), request)
    if plan.whole:
        stages.settle_all(queries, prototypes[0], mask, request, plan, best)
        return best
    blocks = parts(queries.shape[0], plan.query_rows)
    origin = None if plan.tf32 else fitted_origin(prototypes, queries.device, request.metric)

    def prepared(part: slice, is_first: bool) -> QueryBlock:
        given = request.of(part), plan, best.of(part), is_first
        if origin is None:
            return stages.scale_queries(cut(queries, part), *given)
        return stages.code_queries(cut(queries, part), origin, None, *given)

    first = prepared(blocks[0], is_first=True)
    entries, only = Entries.of(first), first if len(blocks) == 1 else None
    del first
    pieces = list(slices(prototypes, min(plan.chunk_rows, request.chunk_rows or 2**31)))
    streams = torch.cuda if queries.is_cuda else None
    brought = brought_ahead([rows for rows, _ in pieces], queries.device, streams)
    for (_, first_row), rows in zip(pieces, brought, strict=True):
        own = mask[:, first_row : first_row + rows.shape[0]]
        run = run_of_rows(rows, first_row, own, origin, request, plan, best.flags)
        for part in blocks:
            stages.search_run(
                only or prepared(part, is_first=first_row == 0), run.of(part), entries
            )
        del run  # before the next one is made
    return best


def plan_of_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, workspace: int
) -> SearchPlan:
    channels, longest = queries.shape[1], max(map(len, prototypes))
    away = [p.element_size() for p in prototypes if p.device != queries.device]
    width = pad(channels, WIDTH)
    given = Prototypes(
        min(longest, request.chunk_rows or longest), channels, width, UNIT,
        brought_bytes=BUFFERS * max(away, default=0) * channels, coded_bytes=width + TERM_BYTES,
        readable=all(map(_is_readable, prototypes)),
        half={p.dtype for p in prototypes} <= set(HALVES),
        together=len(prototypes) == 1 and not away and request.chunk_rows is None,
    )  # fmt: skip
    return choose_plan(
        queries.shape[0], given, request.k, chip=chips.chip(queries.device), workspace=workspace,
        pairs=request.has_pairs, tuned=tuned_tiles.of_device(queries.device),
    )  # fmt: skip


def _is_readable(rows: Tensor) -> bool:
    """Whether the TF32 screen may read these: whole tiles of channels, in 16-byte pieces."""
    even = rows.shape[1] % WIDTH == 0 and rows.stride(1) == 1 and rows.stride(0) % 16 == 0
    return even and rows.dtype in READABLE and rows.data_ptr() % 16 == 0


def slices(prototypes: list[Tensor], chunk_rows: int) -> Iterator[tuple[Tensor, int]]:
    """Chunks, and the number of the first row of each."""
    first_row = 0
    for tensor in prototypes:
        for start in range(0, len(tensor), chunk_rows):
            yield tensor[start : start + chunk_rows], first_row + start
        first_row += len(tensor)


def fitted_origin(prototypes: list[Tensor], device: torch.device, metric: str) -> Tensor:
    """(C,) fp32: the origin of a frame for these, from some rows of the longest tensor."""
    rows = max(prototypes, key=len)
    sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE].to(device, non_blocking=True)
    origin = sample.new_empty(sample.shape[1], dtype=torch.float32)
    fit_origin_kernel[(cdiv(sample.shape[1], COLUMNS),)](
        sample, origin, *sample.shape, *sample.stride(), METRIC=metric, num_warps=8
    )
    return origin


def run_of_rows(
    rows: Tensor, first_row: int, mask: Tensor, origin: Tensor | None, request: Request,
    plan: SearchPlan, flags: Tensor,
) -> Run:  # fmt: skip
    """A chunk of some prototypes (M, C) on the device, coded where there is an origin.

    ``mask`` (Q, M) says for all queries which of them may match.
    """
    if origin is None:
        return Run(Originals(first_row, rows, mask), None)
    (count, channels), new = rows.shape, rows.new_empty
    size, width = pad(count, plan.tile.block_p), pad(channels, WIDTH)
    groups = size // GROUP
    row_in_page = None
    if request.metric == "l2":
        row_in_page, pages = new(size, dtype=torch.int16), cdiv(count, SPAN)
        order_rows_kernel[(pages,)](
            rows, origin, new(pages * SPAN, dtype=torch.float32), row_in_page,
            count, size, channels, *rows.stride(),
            TILE_P=TILE_P, SPAN=SPAN, GROUP=GROUP, num_warps=4,
        )  # fmt: skip
    codes = new((size, width), dtype=torch.int8)
    group_terms, scan_terms = new((2, groups, 4), dtype=torch.float32)
    words = new(groups, dtype=torch.int32)
    by_row = mask[0]
    if request.has_pairs:  # which the scan reads
        by_row = flags.new_ones(1, dtype=torch.uint8).expand(count)
    code_prototypes_kernel[(groups,)](
        rows, by_row, row_in_page, origin, codes, group_terms, scan_terms, words, flags,
        count, channels, int8.floor_of(channels), *rows.stride(), by_row.stride(0), width,
        METRIC=request.metric, TILE_P=TILE_P, SPAN=SPAN, GROUP=GROUP, **plan.row_options,
    )  # fmt: skip
    originals = Originals(first_row, rows, mask, row_in_page, None, SPAN)
    return Run(originals, CodedRows(codes, group_terms, scan_terms, words))


def refuse_flagged(flags: list[int], queries: Tensor, prototypes: list[Tensor]) -> None:
    """Raise for rows that are not finite, found again: the kernels only say that there are any."""
    if not flags:
        return
    if flags[Flag.NONFINITE_QUERIES]:
        finite.refuse_nonfinite("queries", ~finite.norms(queries).isfinite())
    if flags[Flag.NONFINITE_PROTOTYPES]:
        for rows, first_row in slices(prototypes, 2**20):
            finite.refuse_nonfinite("prototypes", ~finite.norms(rows).isfinite(), first_row)
