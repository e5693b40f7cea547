"""What is made of entries, beside the contract: of codes whose bounds are as true, but looser.

The bounds of a screen follow the scores so closely that the first look seldom misses a match. Here
each group's errors are made larger by another factor, so that what is looked at first is not best.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ....contract import order
from ....storage.coder import Coder
from ....storage.collection import Collection
from ... import int8_search
from ...int8_search import LAYOUT, Int8Block, Run
from ...query_block import Best, Entries, whole_mask
from .answers import rounded_scores
from .samples import (
    QUERIES,
    channels,
    codes_plan,
    difference,
    group_maxima,
    integers,
    ranks,
    request_of,
    some,
    violation,
)
from .variants import Variant

FIRST_ROW, ROWS = 1000, 1100


def wrong_settling(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what is made of entries: where none is lost, and where some are."""
    generator, k = torch.Generator().manual_seed(17), ranks(variant)
    q, p = (integers((n, channels(variant)), 4, generator) for n in (QUERIES, ROWS))
    if variant.metric == "cosine" and torch.float16 not in (variant.queries, variant.prototypes):
        q[3], p[-3] = q[3] * 2.0**-40, p[-3] * 2.0**-40  # shorter than COSINE_EPS
    p[::9] = p[4]
    mask = some((QUERIES, ROWS), 0.8, generator)
    mask[3], mask[3, -3 * (k - 2) :: 3] = False, True  # fewer than k
    block, run = _coded(variant, q, p, mask, device)
    looser = torch.rand(len(run.group_terms), generator=generator, dtype=torch.float32)
    terms = run.group_terms.clone()
    terms[:, 1] *= (20 * looser + 1).to(device)
    run = replace(run, group_terms=terms)
    before = integers((QUERIES, k), 8, generator).float().sort(1, descending=True).values
    before[1] = -torch.inf  # nothing yet
    earlier = torch.arange(k).expand(QUERIES, k).where(before > -torch.inf, -1)
    block.best.scores.copy_(before)
    block.best.indices.copy_(earlier)
    block.thresholds[:QUERIES] = before[:, -1].to(device)
    scores = rounded_scores(q, p, variant.metric)
    rows = torch.arange(ROWS).expand(QUERIES, ROWS) + FIRST_ROW
    here = scores.masked_fill(~mask, -torch.inf), rows.masked_fill(~mask, -1)
    expected = order.best_of([(before, earlier), here], k)
    return [
        *_settled(variant, block, run, expected, variant.held // block.plan.segments),
        *_settled(variant, block, run, expected, 2),
    ]


def _coded(
    variant: Variant, q: Tensor, p: Tensor, mask: Tensor, device: torch.device
) -> tuple[Int8Block, Run]:
    """As a bank and a search make them."""
    queries, rows = q.to(variant.queries).to(device), p.to(variant.prototypes).to(device)
    empty = Collection(rows.shape[1], rows.dtype, rows.device)
    collection = empty.appended([rows], torch.arange(len(rows)))
    coder = Coder(variant.metric, "int8", LAYOUT)
    codes = coder.coded(collection, 0, exclude=True, progress=False)[1].codes
    assert codes is not None
    request = request_of(variant, mask.to(device))
    plan = codes_plan(variant, QUERIES, codes.pages, device)
    block = int8_search.code_queries(
        queries, codes.frame, request, plan, Best.empty(queries, request.k)
    )
    runs = [
        int8_search.run_of(some_codes, pages, vectors, whole_mask(queries, ROWS, request), plan)
        for some_codes in codes.parts
        for pages, vectors in int8_search.page_runs(collection.rows, some_codes, codes.pages)
    ]
    whole = runs[0].originals
    positions = [(run.originals.row_in_page, run.originals.unmatchable) for run in runs]
    row_in_page, unmatchable = (
        torch.cat([x for x in each if x is not None]) for each in zip(*positions, strict=True)
    )
    joined = Run(
        replace(
            whole, first_row=FIRST_ROW, rows=rows, mask=mask.view(torch.uint8).to(device),
            row_in_page=row_in_page, unmatchable=unmatchable,
        ),
        torch.cat([run.codes for run in runs]),
        torch.cat([run.group_terms for run in runs]),
        torch.cat([run.scan_terms for run in runs]),
        torch.cat([run.words for run in runs]),
    )  # fmt: skip
    return block, joined


def _settled(
    variant: Variant,
    block: Int8Block,
    run: Run,
    expected: tuple[Tensor, Tensor],
    capacity: int,
) -> list[str]:
    """Where a segment has no room, a query fails, is settled again, and looks at everything."""
    block = replace(
        block, plan=replace(block.plan, capacity=capacity), thresholds=block.thresholds.clone(),
        best=replace(
            block.best, scores=block.best.scores.clone(), indices=block.best.indices.clone()
        ),
    )  # fmt: skip
    given = block.best.scores.clone(), block.thresholds.clone()
    entries, lost = _entries(block, run, torch.arange(QUERIES))
    int8_search.settle(block, run, entries, 0)
    best, what, wrong = block.best, f"settled rows, {capacity} entries a segment", []
    failed = entries.failed[1 : 1 + int(entries.failed[0])].cpu().long()
    wrong += difference(f"{what}, who failed", failed.sort().values, lost.nonzero()[:, 0])
    if len(failed):
        raised = block.thresholds[failed].cpu()
        wrong += difference(f"{what}, kept", best.scores[failed], given[0][failed])
        wrong += violation(
            f"{what}, raised", raised, raised <= expected[0][failed, -1], expected[0][failed, -1]
        )
        again, _ = _entries(block, run, failed)
        again.failed.copy_(entries.failed)
        int8_search.settle(block, run, again, 0, again=True)
    return [
        *wrong,
        *difference(f"{what}, indices", best.indices, expected[1]),
        *difference(f"{what}, scores", best.scores, expected[0]),
        *difference(f"{what}, thresholds", block.thresholds[:QUERIES], expected[0][:, -1]),
    ]


def _entries(block: Int8Block, run: Run, queries: Tensor) -> tuple[Entries, Tensor]:
    """Every group that has a member which may match, with its product, as far as there is room.

    And of which queries some found none.
    """
    entries, plan = block.entries(), block.plan
    products = (
        block.codes[queries.to(block.codes.device)].cpu().double() @ run.codes.cpu().double().T
    )
    dead = run.originals.unmatchable
    assert dead is not None
    products.masked_fill_(dead.cpu().bool(), -(2.0**31))
    best = group_maxima(products).long()
    generator = torch.Generator().manual_seed(5)
    table = torch.zeros((len(block.codes), plan.segments, plan.capacity), dtype=torch.int64)
    counts = torch.zeros(len(block.codes), plan.segments, dtype=torch.int32)
    for slot in range(len(queries)):
        groups = torch.randperm(best.shape[1], generator=generator)
        groups = groups[best[slot, groups] > -(2**31)]
        for i, group in enumerate(groups.tolist()):
            segment = i % plan.segments
            if counts[slot, segment] < plan.capacity:
                table[slot, segment, counts[slot, segment]] = (best[slot, group] << 32) | group
            counts[slot, segment] += 1
    entries.failed[:1] = 0
    entries.entries.copy_(table.flatten())
    entries.counts.copy_(counts.flatten())
    return entries, counts[: len(queries)].amax(1) > plan.capacity
