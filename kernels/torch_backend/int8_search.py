"""Searches through int8 codes: those of a bank, and of raw prototypes coded in passing."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..codes.frame import fitted_frame
from ..codes.pages import Codes
from ..contract.chunks import Rows
from ..contract.matches import Found
from ..contract.request import Request
from ..storage.clean_rows import cleaned, is_in_range
from .int8_scan import LAYOUT, Int8Scan
from .plan import Plan
from .query_block import QueryBlock

_SAMPLE = 256
"""Raw prototypes that a frame is fitted to: few, since it serves one search."""


Run = tuple[Codes, int, int]
"""A part of a bank's codes, and its pages from the first to before the last."""


def search_codes(
    queries: Tensor,
    codes: Codes,
    rows: Rows,
    request: Request,
    plan: Plan,
    runs: list[Run],
    take_guess: Callable[[Int8Scan, list[Run]], None],
) -> Found:
    """The k best of ``rows``, of which ``codes`` are the codes, among those in ``runs`` alone.

    Vectors that are not finite are excluded; for prototypes, ``codes`` say so. ``take_guess`` may
    give a scan of them its ``guess``.
    """
    result, plan = _Result(queries, request.k), plan.for_packs_of(codes.held.pack_rows)
    screened = sum(last - first for _, first, last in runs) * codes.layout.span * codes.width
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        products = _products(queries, plan, codes)
        for start in range(0, len(queries), plan.coded_queries):
            part = slice(start, start + plan.coded_queries)
            block = QueryBlock(queries[part], start, rows, request.of(part), plan)
            scan = Int8Scan(block, codes, products)
            take_guess(scan, runs)
            result.take(part, _scanned(scan, runs))
            result.screened += screened
            missed = scan.missed()
            if missed.any():
                again = start + missed.nonzero()[:, 0]
                block = QueryBlock(queries[again], start, rows, request.of(again), plan)
                result.take(again, _scanned(Int8Scan(block, codes, products), runs))
                result.screened += screened
            result.repaired += int((scan.repaired | missed).sum())
    return Found(result.scores, result.rows, result.repaired, result.rescored, result.screened)


def _scanned(scan: Int8Scan, runs: list[Run]) -> Int8Scan:
    """The same, which has seen the pages of ``runs``."""
    for codes, first_page, last_page in runs:
        pages = scan.block.plan.coded_rows // codes.layout.span
        for first in range(first_page, last_page, pages):
            scan.scan(codes, first, min(first + pages, last_page))
    return scan


def search_while_coding(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: Plan
) -> tuple[Tensor, Tensor]:
    """As ``search_vectors``. A chunk is coded once for ``coding_queries``, then forgotten."""
    rows, result = Rows(prototypes), _Result(queries, request.k)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        frame = fitted_frame(rows.sample(_SAMPLE, queries.device), request.metric)
        codes = Codes(frame, LAYOUT, min(plan.coded_rows, len(rows)), rows.channels)
        products = _products(queries, plan, codes)
        for start in range(0, len(queries), plan.coding_queries):
            stop = min(start + plan.coding_queries, len(queries))
            scans: list[tuple[slice, Int8Scan]] = []
            for first in range(start, stop, plan.coded_queries):
                part = slice(first, min(first + plan.coded_queries, stop))
                block = QueryBlock(queries[part], first, rows, request.of(part), plan)
                scans.append((part, Int8Scan(block, codes, products)))
            _scan_all([scan for _, scan in scans], codes, rows, request.exclude)
            for part, scan in scans:
                result.take(part, scan)
    return result.scores, result.rows


def _scan_all(scans: list[Int8Scan], codes: Codes, rows: Rows, exclude: bool) -> None:
    """Show all ``rows`` to every scan, as many at a time as ``codes`` hold, coded if they can."""
    step = len(codes.norms)
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        is_coded = _code(codes, rows, start, stop, exclude)
        for scan in scans:
            if is_coded:
                scan.scan(codes, 0, codes.pages)
            else:
                scan.scan_in_float(start, stop)


class _Result:
    """Scores and rows of all queries, filled in part by part, and what that took."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self.scores = queries.new_empty(len(queries), k, dtype=torch.float32)
        self.rows = queries.new_empty(len(queries), k, dtype=torch.int64)
        self.repaired = self.rescored = self.screened = 0

    def take(self, part: slice | Tensor, scan: Int8Scan) -> None:
        self.scores[part], self.rows[part] = scan.result()
        self.rescored += scan.candidates.rescored


def _products(queries: Tensor, plan: Plan, codes: Codes) -> Tensor:
    """Room for the products of a block: cache stays warm if all blocks use the same."""
    count = min(plan.coded_queries, len(queries)) * plan.coded_rows
    return queries.new_empty(count, dtype=codes.held.dtype)


def _code(codes: Codes, rows: Rows, start: int, stop: int, exclude: bool) -> bool:
    """Whether ``codes`` now are those of rows start..stop: False where numbers are too large."""
    vectors, norms, bad = cleaned(rows, start, stop, codes.device, exclude)
    if not is_in_range(norms):
        return False
    codes.first_row = start
    codes.write(0, vectors, norms)
    if bad is not None:
        codes.close(torch.arange(codes.pages, device=codes.device), ~bad)
    return True
