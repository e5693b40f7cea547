"""Small searches beside the contract, evaluated here in fp64.

Coordinates are small integers, so that sums are exact in any order: the answers have one right bit
pattern. Among the rows are ties, rows that differ in one coordinate, giants, zeros, rows that are
not finite, and rows that a mask hides.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ....contract import order
from ....contract.chunks import Rows
from ....contract.request import Request
from ....storage.coder import Coder
from ....storage.collection import Collection
from ... import bank_search, vector_search
from ...device.flags import Flag
from .samples import (
    QUERIES,
    K,
    channels,
    difference,
    exact_scores,
    integers,
    plan_of,
    request_of,
    some,
)
from .variants import BANK, TF32, WHOLE, Variant


def wrong_answers(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with the answers of two searches."""
    return [*_of_mixed_rows(variant, device), *_of_equal_rows(variant, device)]


def _of_mixed_rows(variant: Variant, device: torch.device) -> list[str]:
    generator = torch.Generator().manual_seed(13)
    count = QUERIES
    queries = integers((count, channels(variant)), 4, generator)
    rows = integers((16 * K + 560, channels(variant)), 4, generator)
    copies = torch.arange(3, len(rows), 7)
    rows[copies] = queries[copies % count]  # near ties
    rows[copies, copies % rows.shape[1]] += 1
    rows[200:230], rows[40], rows[41] = rows[3], 0, rows[41] * 2**6
    rows[11, 2], rows[12] = torch.nan, torch.nan
    queries[1, 4] = torch.nan
    shape = (count, len(rows)) if variant.masked else (len(rows),)
    mask = some(shape, 0.5, generator) if variant.masked or variant.screen != TF32 else None
    alone = variant.masked or variant.screen == WHOLE
    chunk_rows = None if alone else 384  # a second chunk, and ragged
    found, flags = _searched(variant, queries, rows, mask, device, chunk_rows)
    return [
        *compared("mixed rows", variant, queries, rows, mask, found),
        *_flagged("mixed rows", variant, flags, queries=1, prototypes=1),
    ]


def _of_equal_rows(variant: Variant, device: torch.device) -> list[str]:
    """No bound excludes any: every query is repaired, but for one that is not finite."""
    count = 3
    queries = torch.ones(count, channels(variant), dtype=torch.float64)
    more = 560 if variant.tile.block_p == 128 else 1200  # tiles, some entries of which are lost
    rows = queries[:1].repeat(16 * K + more, 1)
    queries[1, 4], rows[2, 1] = torch.inf, -torch.inf
    mask = torch.ones(count, len(rows), dtype=torch.bool) if variant.masked else None
    found, flags = _searched(variant, queries, rows, mask, device)
    repaired = 0 if variant.screen == WHOLE else count - 1
    return [
        *compared("equal rows", variant, queries, rows, mask, found),
        *_flagged("equal rows", variant, flags, queries=1, prototypes=1, repaired=repaired),
    ]


def _searched(
    variant: Variant,
    queries: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    device: torch.device,
    chunk_rows: int | None = None,
) -> tuple[tuple[Tensor, Tensor], list[int]]:
    """Scores and indices, and the flags as numbers."""
    queries = queries.to(variant.queries).to(device)
    rows = rows.to(variant.prototypes).to(device)
    request = request_of(variant, None if mask is None else mask.to(device))
    if variant.screen == BANK:
        return _searched_by_codes(variant, queries, rows, request)
    plan = plan_of(variant, len(queries), len(rows), device)
    plan = replace(plan, chunk_rows=chunk_rows or plan.chunk_rows)
    best = vector_search.search_with_flags(queries, [rows], request, plan)
    return (best.scores.cpu(), best.indices.cpu()), best.flags.tolist()


def _searched_by_codes(
    variant: Variant, queries: Tensor, rows: Tensor, request: Request
) -> tuple[tuple[Tensor, Tensor], list[int]]:
    """By codes as a bank makes them."""
    empty = Collection(rows.shape[1], rows.dtype, rows.device)
    collection = empty.appended([rows], torch.arange(len(rows)))
    coder = Coder(variant.metric, "int8", bank_search.LAYOUT)
    codes = coder.coded(collection, 0, exclude=True, progress=False)[1].codes
    assert codes is not None
    plan = plan_of(variant, len(queries), len(rows), rows.device)
    found = bank_search.search_codes(queries, codes, Rows([rows]), request, plan)
    return (found.scores.cpu(), found.rows.cpu()), [0, 0, int(found.repaired)]


def compared(
    what: str,
    variant: Variant,
    queries: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    found: tuple[Tensor, Tensor],
) -> list[str]:
    """Indices and scores (Q, k) beside the contract's."""
    scores = rounded_scores(queries, rows, variant.metric)
    allowed = rows.isfinite().all(1) & queries.isfinite().all(1)[:, None]
    allowed = allowed if mask is None else allowed & mask
    keys = order.pack(scores.nan_to_num(0), torch.arange(len(rows)))
    keys = keys.masked_fill(~allowed, order.EMPTY).topk(K, dim=1).values
    expected = order.unpack(keys)
    return [
        *difference(f"{what}, indices", found[1], expected[1]),
        *difference(f"{what}, scores", found[0], expected[0]),
    ]


def rounded_scores(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """(Q, M) fp32, as the contract has them."""
    return exact_scores(queries, rows, metric).float() + 0.0


def _flagged(
    what: str, variant: Variant, flags: list[int], queries: int, prototypes: int, repaired: int = -1
) -> list[str]:
    """Codes tell of repairs alone; how many queries of mixed rows are repaired, nobody knows."""
    expected = {Flag.NONFINITE_QUERIES: queries, Flag.NONFINITE_PROTOTYPES: prototypes}
    expected = {} if variant.screen == BANK else expected
    expected |= {Flag.REPAIRED: repaired} if repaired >= 0 else {}
    return [
        f"{what}, flag {flag.name}: {flags[flag]} instead of {number}"
        for flag, number in expected.items()
        if flags[flag] != number
    ]
