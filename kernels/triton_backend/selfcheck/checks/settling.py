"""What is made of entries, beside the contract: by bounds that are as true, but looser.

The bounds of a screen follow the scores so closely that the first look seldom misses a match. Here
each group's errors are made larger by another factor, so that what is looked at first is not best.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ....contract import order
from ....storage.coder import Coder
from ....storage.collection import Collection
from ... import bank_search, stages, vector_search
from ...bank_search import LAYOUT
from ...plan import pad
from ...query_block import Best, CodedQueries, CodedRows, Entries, QueryBlock, Run, whole_mask
from ...tiles import TILE_P
from .answers import rounded_scores
from .samples import (
    QUERIES,
    K,
    channels,
    difference,
    group_maxima,
    integers,
    padded,
    plan_of,
    request_of,
    some,
    violation,
)
from .variants import BANK, TF32, Variant

FIRST_ROW, ROWS = 1000, 1100


def wrong_settling(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what is made of entries: where none is lost, and where some are."""
    generator, k = torch.Generator().manual_seed(17), K
    q, p = (integers((n, channels(variant)), 4, generator) for n in (QUERIES, ROWS))
    if variant.metric == "cosine" and torch.float16 not in (variant.queries, variant.prototypes):
        q[3], p[-3] = q[3] * 2.0**-40, p[-3] * 2.0**-40  # shorter than COSINE_EPS
    p[::9] = p[4]
    mask = some((QUERIES, ROWS), 0.8, generator)
    mask[3], mask[3, -3 * (k - 2) :: 3] = False, True  # fewer than k
    block, run = _prepared(variant, q, p, mask, device)
    run = _loosened(run, generator)
    scores = rounded_scores(q, p, variant.metric)
    good = scores.flatten().quantile(0.99).round()  # as what was found before
    before = good + integers((QUERIES, k), 8, generator).float().sort(1, descending=True).values
    before[1] = -torch.inf  # nothing yet
    earlier = torch.arange(k).expand(QUERIES, k).where(before > -torch.inf, -1)
    block.best.scores.copy_(before)
    block.best.indices.copy_(earlier)
    block.thresholds[:QUERIES] = before[:, -1].to(device)
    rows = torch.arange(ROWS).expand(QUERIES, ROWS) + FIRST_ROW
    here = scores.masked_fill(~mask, -torch.inf), rows.masked_fill(~mask, -1)
    expected = order.best_of([(before, earlier), here], k)
    looser = torch.rand(here[0].shape, generator=generator) * scores.abs().amax() / 4
    bounds = here[0] + looser  # what TF32 appends
    room = variant.slots // block.plan.segments
    return [
        *(wrong for capacity in (room, 2) for wrong in
          _settled(block, run, bounds, expected, capacity)),
    ]  # fmt: skip


def _loosened(run: Run, generator: torch.Generator) -> Run:
    if run.coded is None:
        return run
    terms = run.coded.group_terms.clone()
    looser = torch.rand(len(terms), generator=generator, dtype=torch.float32)
    terms[:, 1] *= (20 * looser + 1).to(terms.device)
    return replace(run, coded=replace(run.coded, group_terms=terms))


def _prepared(
    variant: Variant, q: Tensor, p: Tensor, mask: Tensor, device: torch.device
) -> tuple[QueryBlock, Run]:
    """As a search makes them, of rows that are numbered from FIRST_ROW."""
    queries, rows = q.to(variant.queries).to(device), p.to(variant.prototypes).to(device)
    request, plan = request_of(variant, mask.to(device)), plan_of(variant, QUERIES, ROWS, device)
    best = Best.empty(queries, request.k)
    if variant.screen == BANK:
        return _of_bank(variant, queries, rows, mask, device)
    origin = None
    if variant.screen == TF32:
        block = stages.scale_queries(queries, request, plan, best, False)
    else:
        origin = vector_search.fitted_origin([rows], device, variant.metric)
        block = stages.code_queries(queries, origin, None, request, plan, best, False)
    given = whole_mask(queries, ROWS, request)
    run = vector_search.run_of_rows(rows, FIRST_ROW, given, origin, request, plan, best.flags)
    return block, run


def _of_bank(
    variant: Variant, queries: Tensor, rows: Tensor, mask: Tensor, device: torch.device
) -> tuple[QueryBlock, Run]:
    """Its parts as one run."""
    empty = Collection(rows.shape[1], rows.dtype, rows.device)
    collection = empty.appended([rows], torch.arange(len(rows)))
    coder = Coder(variant.metric, "int8", LAYOUT)
    codes = coder.coded(collection, 0, exclude=True, progress=False)[1].codes
    assert codes is not None
    request = request_of(variant, mask.to(device))
    plan = plan_of(variant, QUERIES, ROWS, device)
    best = Best.empty(queries, request.k)
    block = bank_search.coded_block(queries, codes.frame, request, plan, best)
    runs = [
        bank_search.run_of(some_codes, pages, vectors, whole_mask(queries, ROWS, request), plan)
        for some_codes in codes.parts
        for pages, vectors in bank_search.page_runs(collection.rows, some_codes, codes.pages)
    ]
    parts = [run.originals for run in runs]
    originals = replace(
        parts[0], first_row=FIRST_ROW, rows=rows, mask=mask.view(torch.uint8).to(device),
        row_in_page=_joined(part.row_in_page for part in parts),
        unmatchable=_joined(part.unmatchable for part in parts),
    )  # fmt: skip
    coded = [run.coded for run in runs if run.coded is not None]
    fields = CodedRows.__dataclass_fields__
    joined = CodedRows(*(_joined(getattr(each, name) for each in coded) for name in fields))
    return block, Run(originals, joined)


def _joined(pieces: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([piece for piece in pieces if piece is not None])


def _settled(
    block: QueryBlock, run: Run, bounds: Tensor, expected: tuple[Tensor, Tensor], capacity: int
) -> list[str]:
    """Where a segment has no room, a query fails, is settled again, and looks at everything."""
    block = replace(
        block, plan=replace(block.plan, capacity=capacity), thresholds=block.thresholds.clone(),
        best=replace(
            block.best, scores=block.best.scores.clone(), indices=block.best.indices.clone()
        ),
    )  # fmt: skip
    given = block.best.scores.clone(), block.thresholds.clone()
    entries, lost = _entries(block, run, bounds, torch.arange(QUERIES))
    stages.settle(block, run, entries, 0)
    best, what, wrong = block.best, f"settled rows, {capacity} entries a segment", []
    failed = entries.failed[: int(entries.n_failed)].cpu().long()
    wrong += difference(f"{what}, who failed", failed.sort().values, lost.nonzero()[:, 0])
    if len(failed):
        raised = block.thresholds[failed].cpu()
        wrong += difference(f"{what}, kept", best.scores[failed], given[0][failed])
        wrong += violation(
            f"{what}, raised", raised, raised <= expected[0][failed, -1], expected[0][failed, -1]
        )
        again, _ = _entries(block, run, bounds, failed)
        again.failed.copy_(entries.failed)
        again.n_failed.copy_(entries.n_failed)
        stages.settle(block, run, again, 0, again=True)
    return [
        *wrong,
        *difference(f"{what}, indices", best.indices, expected[1]),
        *difference(f"{what}, scores", best.scores, expected[0]),
        *difference(f"{what}, thresholds", block.thresholds[:QUERIES], expected[0][:, -1]),
    ]


def _entries(
    block: QueryBlock, run: Run, bounds: Tensor, queries: Tensor
) -> tuple[Entries, Tensor]:
    """Every group that has a member which may match, with its value, as far as there is room.

    And of which queries some found none. ``bounds`` (Q, rows) are what the TF32 screen might say.
    """
    entries, plan = Entries.of(block), block.plan
    best = _values(block, run, bounds, queries)
    generator = torch.Generator().manual_seed(5)
    table = torch.zeros((block.padded, plan.segments, plan.capacity), dtype=torch.int64)
    counts = torch.zeros(block.padded, plan.segments, dtype=torch.int32)
    for slot in range(len(queries)):
        groups = torch.randperm(best.shape[1], generator=generator)
        groups = groups[best[slot, groups] > -(2**31)]
        for i, group in enumerate(groups.tolist()):
            segment = i % plan.segments
            if counts[slot, segment] < plan.capacity:
                table[slot, segment, counts[slot, segment]] = (best[slot, group] << 32) | group
            counts[slot, segment] += 1
    entries.n_failed.zero_()
    entries.entries.copy_(table.flatten())
    entries.counts.copy_(counts.flatten())
    return entries, counts[: len(queries)].amax(1) > plan.capacity


def _values(block: QueryBlock, run: Run, bounds: Tensor, queries: Tensor) -> Tensor:
    """(n, groups) int64: what a scan would append of each group, -2^31 for nothing."""
    positions = pad(run.originals.positions, TILE_P)
    if run.coded is None or not isinstance(block.screened, CodedQueries):
        whole = padded(bounds[queries], len(queries), positions, -torch.inf)
        best = group_maxima(whole).float()
        bits = best.view(torch.int32)
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long().where(best > -torch.inf, -(2**31))
    codes = block.screened.codes[queries.to(block.norm.device)].cpu().double()
    products = codes @ run.coded.codes.cpu().double().T
    dead = run.originals.unmatchable
    if dead is not None:
        products.masked_fill_(dead.cpu().bool(), -(2.0**31))
    return group_maxima(products).long()
