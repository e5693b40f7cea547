"""The entries that a scan of codes appends, beside proofs/int8_scan.py, to the bit.

Codes and terms are such that nothing is rounded, however it is fused.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ....proofs import int8, int8_scan
from ... import stages
from ...bank_search import LAYOUT
from ...device.flags import NEVER
from ...plan import pad
from ...query_block import (
    Best,
    CodedQueries,
    CodedRows,
    Entries,
    Originals,
    QueryBlock,
    Run,
    whole_mask,
)
from ...rounds import spread
from ...tiles import GROUP, TILE_P, cdiv
from .samples import (
    WIDTH,
    difference,
    group_maxima,
    integers,
    mixed_pages,
    plan_of,
    powers,
    request_of,
    some,
)
from .variants import Variant

LAST = 5
"""Tiles of a round whose entries are counted, of those of two pages."""


def wrong_entries(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what a scan appends, of small codes and of the largest."""
    return [
        *_differences("small codes", variant, 3, device),
        *_differences("large codes", variant, int8.LARGEST_CODE, device),
    ]


def _differences(what: str, variant: Variant, most: int, device: torch.device) -> list[str]:
    generator = torch.Generator().manual_seed(most)
    count, pages = 5 if variant.few else variant.tile.block_q + 2, 2
    rows = pages * LAYOUT.span
    q, p = (integers((n, WIDTH), most, generator) for n in (count, rows))
    q[0], p[0] = most, most
    row_in_page, row = mixed_pages(pages, generator)
    unmatchable = some((rows,), 0.1, generator)
    unmatchable[256:512] = False  # tiles in which all may match
    mask = some((count, rows), 0.3, generator) if variant.masked else None
    dead = unmatchable if mask is None else unmatchable | ~mask[:, row]
    best = group_maxima((q @ p.T).masked_fill(dead, int8.LOWEST)).int()
    terms, groups = _terms(count, rows // GROUP, generator)
    threshold = best.double().quantile(0.8, dim=1).round().float()
    threshold[3] = -torch.inf
    words = _words(unmatchable)
    block, run = _made_up(variant, q, p, terms, groups, words, threshold, mask, device)
    run = replace(run, originals=_moved(run.originals, row_in_page, unmatchable, device))
    passed = best.float() >= int8_scan.scan_thresholds(terms, groups, threshold, variant.metric)
    tiles, ranks = rows // variant.tile.block_p, ranks_of(variant, rows)
    wanted = passed.clone()
    wanted[4] &= groups[:, 1] == torch.inf  # it failed, but no number is below nothing
    room = 8 * tiles  # for all of a strip
    found, counts = appended(block, run, room), _counts(block, run, tiles)
    again = torch.tensor([2, 4, 0])  # each from another round on
    began = torch.zeros(count, dtype=torch.long)
    began[again] = torch.tensor([0, 7, tiles])
    block.resume[again.to(device)] = began[again].int().to(device)
    late = passed & (ranks >= began[:, None])
    return [
        *difference(f"entries of {what}", found[:count], _products_of(best, wanted)),
        *difference(
            f"entries of {what}, again",
            appended(block, run, room, again)[: len(again)], _products_of(best, late)[again],
        ),
        *difference(
            f"counts of {what}", counts[:count],
            _by_column(variant, wanted & (ranks >= tiles - LAST)),
        ),
    ]  # fmt: skip


def _products_of(best: Tensor, passed: Tensor) -> Tensor:
    return best.long().masked_fill(~passed, int8.LOWEST)


def _terms(count: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(4, Q) and (groups, 4) fp32: powers of two, or so few whole numbers that all sums are."""
    a, inverse = (torch.ones(n, dtype=torch.float64) for n in (count, groups))
    d, x = (powers((count,), 1, generator) for _ in range(2))
    size, error = (powers((groups,), 1, generator) for _ in range(2))
    c, b = (integers((n,), 4, generator) for n in (count, groups))
    c[1], c[2] = -torch.inf, torch.inf
    size[3] = torch.inf  # nothing bounds it
    queries = torch.stack([a, d, x, c]).float()
    return queries, torch.stack([inverse, size, error, b], 1).float()


def _words(unmatchable: Tensor) -> Tensor:
    bits = (~unmatchable).view(-1, GROUP, TILE_P // GROUP).int() << torch.arange(GROUP)[:, None]
    return bits.sum(1, dtype=torch.int32).flatten()


def _made_up(
    variant: Variant,
    q: Tensor,
    p: Tensor,
    terms: Tensor,
    groups: Tensor,
    words: Tensor,
    threshold: Tensor,
    mask: Tensor | None,
    device: torch.device,
) -> tuple[QueryBlock, Run]:
    """Of codes and terms as they are given here; query 4 has failed before."""
    count, size = len(q), pad(len(q), variant.tile.block_q)
    plan = plan_of(variant, count, len(p), device)
    request = request_of(variant, None if mask is None else mask.to(device))
    codes = torch.zeros(size, WIDTH, dtype=torch.int8)
    codes[:count] = q
    padded_terms = torch.ones(4, size, dtype=torch.float32)
    padded_terms[:, :count], padded_terms[3, count:] = terms, -torch.inf
    thresholds = torch.full((size,), -torch.inf, dtype=torch.float32)
    thresholds[:count] = threshold
    resume = torch.full((size,), NEVER.value, dtype=torch.int32)
    resume[4] = 0
    rows = p.to(torch.int8).to(device)
    best, norm = Best.empty(rows[:count], request.k), torch.ones(size, dtype=torch.float64)
    block = QueryBlock(
        rows[:count], request, plan, best, norm.to(device), thresholds.to(device),
        resume.to(device), CodedQueries(codes.to(device), padded_terms.to(device)),
    )  # fmt: skip
    given = whole_mask(rows[:count], len(rows), request)
    told = groups.to(device)
    return block, Run(Originals(0, rows, given), CodedRows(rows, told, told, words.to(device)))


def _moved(
    originals: Originals, row_in_page: Tensor, unmatchable: Tensor, device: torch.device
) -> Originals:
    return replace(
        originals, row_in_page=row_in_page.short().to(device),
        unmatchable=unmatchable.to(device).view(torch.uint8), span=LAYOUT.span,
    )  # fmt: skip


def _scanned(
    block: QueryBlock, run: Run, capacity: int, first: int, again: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Entries (Qpad, segments, capacity) and counts (Qpad, segments), by two strips."""
    plan = replace(block.plan, strips=2, capacity=capacity)
    block = replace(block, plan=plan)
    entries = Entries.of(block)
    entries.entries.fill_(-1)
    tiles = cdiv(run.originals.positions, plan.tile.block_p)
    words = stages.words_of(block, run)
    if again is not None:
        entries.failed[: len(again)] = again.to(entries.failed)
        entries.n_failed.fill_(len(again))
    stages.append(block, run, words, entries, first, tiles, again is not None)
    counts = entries.counts.view(block.padded, plan.segments).cpu()
    return entries.entries.view(block.padded, plan.segments, capacity).cpu(), counts


def appended(block: QueryBlock, run: Run, capacity: int, again: Tensor | None = None) -> Tensor:
    """(Qpad, groups) int64: the value of each entry, LOWEST where there is none.

    An entry that lies beyond its segment's count, or twice, is told by a sum that none has.
    """
    groups = pad(run.originals.positions, TILE_P) // GROUP
    entries, counts = _scanned(block, run, capacity, 0, again)
    there = torch.arange(capacity) < counts[:, :, None]
    table = torch.zeros(len(entries), groups + 1, dtype=torch.int64)
    group = torch.where(there, entries & 0xFFFFFFFF, groups).flatten(1)
    value = torch.where(there, (entries >> 32) - int8.LOWEST, 0).flatten(1)
    inside = (group >= 0) & (group <= groups)
    table.scatter_add_(1, group.clamp(0, groups), value.where(inside, 2**40))
    return table[:, :-1] + int8.LOWEST


def _counts(block: QueryBlock, run: Run, tiles: int) -> Tensor:
    """(Qpad, columns): of the last tiles, most of which find no room."""
    counts = _scanned(block, run, 1, tiles - LAST, None)[1]
    return counts.view(len(counts), 2, -1).sum(1, dtype=torch.int32)


def ranks_of(variant: Variant, rows: int) -> Tensor:
    """(groups,): where its tile comes in the order of a scan."""
    tiles, each = rows // variant.tile.block_p, variant.tile.block_p // GROUP
    order = torch.arange(tiles) * spread(tiles) % tiles
    return order.argsort().repeat_interleave(each)


def _by_column(variant: Variant, passed: Tensor) -> Tensor:
    """(Q, groups) -> (Q, columns) int32."""
    columns = 1 if variant.few else variant.tile.block_p // GROUP
    return passed.view(len(passed), -1, columns).sum(1, dtype=torch.int32)
