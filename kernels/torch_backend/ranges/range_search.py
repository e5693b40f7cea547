"""Searches for all that reaches a score: of vectors as given, and of a bank's, by codes or not."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...codes.pages import Codes
from ...concurrency.fit_thread import in_fit_thread
from ...concurrency.workers import in_workers, workers_for
from ...contract.chunks import Rows
from ...contract.matches import Found, RangeMatches
from ...contract.request import RangeRequest
from ...storage.prepared import Prepared
from ..plan import Plan, choose_plan, codes_pay
from . import pieces
from .in_range import InRange, RangeBlock
from .pieces import Piece
from .range_scan import RangeInt8Scan, RangeScan

_WORKER_BYTES = 1 << 24
"""A worker has at least so much of the workspace."""


class _Found(NamedTuple):
    """Of a block of queries."""

    piece: Piece
    repaired: int
    rescored: int


def within_vectors(
    queries: Tensor, rows: Rows, request: RangeRequest, is_sorted: bool, workspace: int
) -> RangeMatches:
    """All pairs of ``queries`` (Q, C) and ``rows`` in range."""
    about = queries, rows, request, None, is_sorted, workspace, lambda mask: mask
    result, _ = in_fit_thread([queries, *rows.chunks], _search, *about)
    return result


def within_bank(
    bank: Prepared, queries: Tensor, request: RangeRequest, is_sorted: bool, workspace: int
) -> RangeMatches:
    """The same of a bank's rows that are there, by position, as the mask is.

    The result is on the queries' device. ``own`` of the request is by row.
    """
    collection, codes = bank.collection, bank.coder.codes
    rows, device = collection.rows, collection.device
    asked, queries = queries.device, queries.to(device)
    request = request.on(device)
    pays = codes_pay(queries.shape[0], len(rows), rows.channels, 1)
    if codes is None or not (codes.held.product and pays):
        codes = None

    def by_row(mask: Tensor | None) -> Tensor | None:
        """Codes know by themselves what never matches."""
        return mask if mask is None and codes else collection.mask_by_row(mask)

    about = queries, rows, request, codes, is_sorted, workspace, by_row
    (offsets, indices, scores), took = in_fit_thread([queries, *rows.chunks], _search, *about)
    bank.counts.add(len(queries), took)
    return RangeMatches(offsets, collection.positions(indices), scores).to(asked)


def _search(
    queries: Tensor,
    rows: Rows,
    request: RangeRequest,
    codes: Codes | None,
    is_sorted: bool,
    workspace: int,
    by_row: Callable[[Tensor | None], Tensor | None],
) -> tuple[RangeMatches, Found]:
    """And what it took."""
    workers = workers_for(workspace // _WORKER_BYTES) if queries.is_cpu else 1
    shape = queries.shape[0], max(1, len(rows)), rows.channels, request.k
    plan = choose_plan(*shape, workspace // workers, request.chunk_rows)
    step, scan = plan.query_rows, partial(_by_vectors, rows, plan)
    if codes is not None:
        plan = plan.for_packs_of(codes.held.pack_rows)
        step, scan = plan.coded_queries, partial(_by_codes, rows, plan, codes)

    def task(start: int) -> _Found:
        part = slice(start, start + step)
        own = request.of(part)
        return scan(queries[part], start, own.masked(by_row(own.mask)))

    tasks = [partial(task, start) for start in range(0, len(queries), step)]
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        found = in_workers(tasks, workers)
        result = pieces.result_of([block.piece for block in found], is_sorted)
    read = rows.nbytes if codes is None else codes.pages * codes.layout.span * codes.width
    repaired, rescored = (sum(getattr(f, name) for f in found) for name in ("repaired", "rescored"))
    return result, Found(result.scores, result.indices, repaired, rescored, len(found) * read)


def _by_vectors(
    rows: Rows, plan: Plan, queries: Tensor, first_query: int, request: RangeRequest
) -> _Found:
    block = RangeBlock(queries, first_query, rows, request, plan)
    scan = RangeScan(block)
    start = _first_row(request)
    for at in range(start, len(rows), plan.chunk_rows):
        stop = min(at + plan.chunk_rows, len(rows))
        scan.scan(rows.span(at, stop, queries.device), at, request.mask_of(at, stop))
    return _found(block.candidates, rows, 0)


def _by_codes(
    rows: Rows, plan: Plan, codes: Codes, queries: Tensor, first_query: int, request: RangeRequest
) -> _Found:
    block = RangeBlock(queries, first_query, rows, request, plan)
    room = queries.new_empty(len(queries) * plan.coded_rows, dtype=codes.held.dtype)
    scan, start = RangeInt8Scan(block, codes, room), _first_row(request)
    for part in codes.parts:
        step = plan.coded_rows // part.layout.span
        first = max(0, start - part.first_row) // part.layout.span
        for page in range(first, part.pages, step):
            scan.scan(part, page, min(page + step, part.pages))
    return _found(block.candidates, rows, int(scan.repaired.sum()))


def _first_row(request: RangeRequest) -> int:
    """The first that a query may match."""
    return int(request.own[0]) + 1 if request.own is not None and request.once else 0


def _found(candidates: InRange, rows: Rows, repaired: int) -> _Found:
    piece = pieces.in_one(candidates.pieces(rows))
    if candidates.request.limit is not None:
        piece = pieces.best_of(piece, candidates.request.limit)
    return _Found(piece, repaired, candidates.rescored)
