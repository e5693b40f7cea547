"""Searches through int8 codes: those of a bank, and of raw prototypes coded in passing."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..codes.frame import fitted_frame
from ..codes.pages import Codes
from ..contract.chunks import Rows
from ..storage.clean_rows import cleaned, is_tame
from .float_search import Block
from .int8_screen import LAYOUT, Int8Block
from .plan import Plan

_SAMPLE = 256
"""Raw prototypes that a frame is fitted to: few, since it serves one search."""


class Found(NamedTuple):
    """What a search of codes gives, and what it took."""

    scores: Tensor
    """(Q, k) fp32"""
    rows: Tensor
    """(Q, k) int64, -1 where none"""
    repaired: int | Tensor
    """Queries that needed a wider search; a tensor where reading it would wait for the device."""
    rescored: int
    """Pairs evaluated in fp64."""
    screened: int
    """Bytes of codes read."""


def search(
    queries: Tensor, codes: Codes, rows: Rows, k: int, mask: Tensor | None, plan: Plan
) -> Found:
    """The k best of ``rows``, of which ``codes`` are the codes; ``mask`` (M,) or (Q, M) bool.

    Vectors that are not finite are excluded; for prototypes, ``codes`` say so.
    """
    result = _Result(queries, k)
    pages = plan.coded_rows // codes.layout.span
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        products = _products(queries, plan)
        for start in range(0, len(queries), plan.coded_queries):
            part = slice(start, start + plan.coded_queries)
            block = Block(queries[part], start, rows, k, codes.frame.metric, True, plan)
            coded = Int8Block(block, codes.frame, products)
            for some in codes.parts:
                for first in range(0, some.pages, pages):
                    last = min(first + pages, some.pages)
                    coded.scan(some, first, last, _of_queries(mask, part))
                result.screened += some.pages * codes.layout.span * codes.codes.shape[1]
            result.take(part, coded)
    return result.found()


def search_raw(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    exclude: bool,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """As ``float_search.search``. A chunk is coded once for ``coding_queries``, then forgotten."""
    rows, result = Rows(prototypes), _Result(queries, k)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        products = _products(queries, plan)
        frame = fitted_frame(rows.sample(_SAMPLE, queries.device), metric)
        codes = Codes(frame, LAYOUT, min(plan.coded_rows, len(rows)), rows.channels)
        for start in range(0, len(queries), plan.coding_queries):
            stop = min(start + plan.coding_queries, len(queries))
            blocks: list[tuple[slice, Int8Block]] = []
            for first in range(start, stop, plan.coded_queries):
                part = slice(first, min(first + plan.coded_queries, stop))
                block = Block(queries[part], first, rows, k, metric, exclude, plan)
                blocks.append((part, Int8Block(block, frame, products)))
            _scan_all(blocks, codes, rows, mask, exclude, plan.coded_rows)
            for part, block in blocks:
                result.take(part, block)
    return result.scores, result.rows


def _scan_all(
    blocks: list[tuple[slice, Int8Block]],
    codes: Codes,
    rows: Rows,
    mask: Tensor | None,
    exclude: bool,
    step: int,
) -> None:
    """Show all ``rows`` to every block of queries, ``step`` at a time, as ``codes`` if they can."""
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        is_coded = _code(codes, rows, start, stop, exclude)
        for part, block in blocks:
            if is_coded:
                block.scan(codes, 0, codes.pages, _of_queries(mask, part))
            else:
                block.scan_in_float(start, stop, _of_queries(mask, part))


class _Result:
    """Scores and rows of all queries, filled in part by part, and what that took."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self.scores = queries.new_empty(len(queries), k, dtype=torch.float32)
        self.rows = queries.new_empty(len(queries), k, dtype=torch.int64)
        self.repaired = self.rescored = self.screened = 0

    def take(self, part: slice, block: Int8Block) -> None:
        self.scores[part], self.rows[part] = block.block.result()
        self.repaired += int(block.repaired.sum())
        self.rescored += block.candidates.rescored

    def found(self) -> Found:
        return Found(self.scores, self.rows, self.repaired, self.rescored, self.screened)


def _products(queries: Tensor, plan: Plan) -> Tensor:
    """Room for the products of a block: cache stays warm if all blocks use the same."""
    count = min(plan.coded_queries, len(queries)) * plan.coded_rows
    return queries.new_empty(count, dtype=torch.int32)


def _of_queries(mask: Tensor | None, part: slice) -> Tensor | None:
    return mask[part] if mask is not None and mask.ndim == 2 else mask


def _code(codes: Codes, rows: Rows, start: int, stop: int, exclude: bool) -> bool:
    """Whether ``codes`` now are those of rows start..stop: False where numbers are too large."""
    vectors, norms, bad = cleaned(rows, start, stop, codes.device, exclude)
    if not is_tame(norms):
        return False
    codes.first_row = start
    codes.write(0, vectors, norms)
    if bad is not None:
        codes.close(torch.arange(codes.pages, device=codes.device), ~bad)
    return True
