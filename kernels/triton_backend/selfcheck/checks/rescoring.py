"""Rescoring and repair by bounds that are made up here, beside the contract.

The bounds of a screen follow the scores so closely that repair seldom changes an answer. These are
as true, but their order is another for each query: what is kept is not what is best.
"""

import torch
from torch import Tensor

from ... import launches
from ...plan import pad
from ...query_block import Originals, QueryBlock, RunningTopK
from .answers import compared, rounded_scores
from .samples import (
    QUERIES,
    WIDTH,
    channels,
    difference,
    float_plan,
    group_maxima,
    integers,
    padded,
    ranks,
    request_of,
    some,
)
from .variants import Variant

FIRST_ROW = 1000  # of the rows among all prototypes


def wrong_rescoring(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what is made of bounds."""
    generator, k = torch.Generator().manual_seed(17), ranks(variant)
    count = 16 * k + 560
    q, p = (integers((n, channels(variant)), 4, generator) for n in (QUERIES, count))
    if variant.metric == "cosine" and torch.float16 not in (variant.queries, variant.prototypes):
        q[3], p[-3] = q[3] * 2.0**-40, p[-3] * 2.0**-40  # shorter than COSINE_EPS
    mask = some((QUERIES, count), 0.8, generator)
    mask[3] = False
    mask[3, -3 * (k - 2) :: 3] = True  # fewer than k
    scores = rounded_scores(q, p, variant.metric).masked_fill(~mask, -torch.inf)
    least = scores.topk(k).values[:, -1]
    positions = pad(count, variant.tile.block_p)
    bounds = _bounds(group_maxima(padded(scores, QUERIES, positions, -torch.inf)), generator)
    originals = Originals(FIRST_ROW, p.to(variant.prototypes), mask.view(torch.uint8))
    best = _rescored(variant, q, originals, bounds, least, device)
    thresholds = best.thresholds
    found_scores, indices = (x.cpu() for x in best.ranked(QUERIES))
    indices = indices.where(indices < 0, indices - FIRST_ROW)
    return [
        *compared("rescored rows", variant, q, p, mask, (found_scores, indices)),
        *difference("thresholds of rescored rows", thresholds, least),
    ]


def _bounds(best: Tensor, generator: torch.Generator) -> Tensor:
    """(Q, groups) from the best scores: of the first query those, of others so much above.

    The last query begins with groups in which none may match: it is repaired from nothing.
    """
    above = torch.rand(best.shape, dtype=torch.float32, generator=generator)
    above[0] = 0
    bounds = best + 2 * best[best.isfinite()].std() * above
    bounds[2, ::7] = bounds[2, ::7].where(bounds[2, ::7].isneginf(), torch.inf)
    bounds[3, ::3] = torch.inf
    return bounds


def _rescored(
    variant: Variant,
    queries: Tensor,
    originals: Originals,
    bounds: Tensor,
    least: Tensor,
    device: torch.device,
) -> RunningTopK:
    """By the stages of a search, but for its scan; the first query has its threshold already."""
    request = request_of(variant)
    plan = float_plan(variant, QUERIES, len(originals.rows), device)
    exact = padded(queries, plan.query_rows, WIDTH).to(device)
    norm = exact.square().sum(1).sqrt()
    best = RunningTopK.empty(exact[:QUERIES], request.k)
    best.thresholds[:1] = least[:1].to(device)
    rows, mask = originals.rows.to(device), originals.mask.to(device)
    given = Originals(originals.first_row, rows, mask)
    whole = padded(bounds, plan.query_rows, bounds.shape[1]).contiguous().to(device)
    block = QueryBlock(exact, norm, best, request, plan)
    groups = launches.select(block, whole)
    launches.rescore(block, given, groups, 0, groups.kept, strips=groups.kept)
    launches.repair(block, given, groups)
    return best
