"""The bounds of the int8 screen beside their twin in proofs/int8.py, to the bit.

Codes and terms are such that nothing is rounded before the last sum, however it is fused.
"""

import torch
from torch import Tensor

from ....proofs import fp32, int8
from ... import int8_search
from ...int8_search import LAYOUT, Int8Block, Run
from ...plan import pad
from ...query_block import Originals, RunningTopK, whole_mask
from ...tiles import GROUP
from .samples import (
    WIDTH,
    codes_plan,
    difference,
    group_maxima,
    integers,
    mixed_pages,
    request_of,
    some,
)
from .variants import Variant

Terms = tuple[Tensor, Tensor]  # (4, Q) and (groups, 4) fp32


def wrong_int8_bounds(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with the bounds of a scan, of small codes and of the largest."""
    return [
        *_differences("small codes", variant, 3, 2.0**-4, 2, device),
        *_differences("large codes", variant, int8.LARGEST_CODE, 1.0, 1, device),
    ]


def _differences(
    what: str, variant: Variant, most: int, unit: float, pages: int, device: torch.device
) -> list[str]:
    """``unit``: of every term, so that all sums are whole numbers of it."""
    generator = torch.Generator().manual_seed(most)
    count, rows = 5 if variant.few else variant.tile.block_q + 2, pages * LAYOUT.span
    q, p = (integers((n, WIDTH), most, generator) for n in (count, rows))
    q[0], p[0] = most, most
    terms = _group_terms(count, rows // GROUP, unit, generator)
    row_in_page, row = mixed_pages(pages, generator)
    unmatchable = some((rows,), 0.1, generator)
    unmatchable[256:384] = False  # a tile in which all may match
    mask = some((count, rows), 0.3, generator) if variant.masked else None
    dead = unmatchable if mask is None else unmatchable | ~mask[:, row]
    bounds = _int8_scan(variant, q, p, terms, row_in_page, unmatchable, mask, device)
    products = (q @ p.T).masked_fill(dead, int8.LOWEST)
    expected = int8.group_upper_bounds(
        terms[0], terms[1], group_maxima(products).int(), variant.metric
    )
    return difference(f"bounds of {what}", bounds, expected)


def _group_terms(count: int, groups: int, unit: float, generator: torch.Generator) -> Terms:
    a = torch.full((count,), 2.0**-3, dtype=torch.float64)
    s = torch.full((groups,), unit * 2.0**3, dtype=torch.float64)
    d, x = (integers((count,), 2, generator).abs() * unit for _ in range(2))
    error, size = (integers((groups,), 2, generator).abs() for _ in range(2))
    c, b = (integers((n,), 64, generator) * unit for n in (count, groups))
    c[1] = -torch.inf
    c[2] = torch.inf
    size[3], s[4] = 2 * fp32.LARGEST_NORM, torch.inf  # no bound, or NaN on the way
    queries = torch.stack([a, d, x, c]).float()
    return queries, torch.stack([s, error, size, b], 1).float()


def _int8_scan(
    variant: Variant,
    q: Tensor,
    p: Tensor,
    terms: Terms,
    row_in_page: Tensor,
    unmatchable: Tensor,
    mask: Tensor | None,
    device: torch.device,
) -> Tensor:
    """(Q, groups) bounds, of codes and terms as they are given here."""
    plan = codes_plan(variant, len(q), len(p) // LAYOUT.span, device)
    size = pad(len(q), variant.tile.block_q)
    codes = torch.zeros(size, WIDTH, dtype=torch.int8)
    codes[: len(q)] = q
    q_terms = torch.zeros(4, size, dtype=torch.float32)
    q_terms[:, : len(q)] = terms[0]
    q_terms = q_terms.to(device)
    request = request_of(variant, None if mask is None else mask.to(device))
    rows = p.to(torch.int8).to(device)
    best = RunningTopK.empty(rows[: len(q)], request.k)
    originals = Originals(
        0, rows, whole_mask(rows[: len(q)], len(rows), request), row_in_page.short().to(device),
        unmatchable.to(device).view(torch.uint8), LAYOUT.span,
    )  # fmt: skip
    none = best.thresholds
    block = Int8Block(none, none, best, request, plan, codes.to(device), q_terms)
    run = Run(originals, rows, terms[1].to(device))
    return int8_search.scan_run(block, run)[: len(q)].cpu()
