"""Vectors as prepared, and thresholds, beside the formulas of proofs/, to the bit.

But for the terms of coded queries, whose sums may be in any order.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

import torch
from torch import Tensor

from ....codes.frame import Frame
from ....proofs import fp16, int8
from ... import float_search, int8_search
from ...query_block import Best, RunningTopK, whole_mask
from .samples import (
    LOWEST,
    QUERIES,
    channels,
    codes_plan,
    difference,
    float_plan,
    integers,
    lengthened,
    padded,
    powers,
    ranks,
    request_of,
    some,
    violation,
)
from .variants import Variant

PREPARED, ROWS = 12, 300
NONZERO = 16  # ones and minus ones of a row whose norm is a power of two
DELTA, EPSILON = 2.0**-10, 2.0**-14


def wrong_preparation(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what surrounds the scan."""
    if variant.by_codes:
        return _coded_queries(variant, device)
    found = _queries(variant, device)
    if not variant.raw:
        found += _prototypes(variant, device)
    return [*found, *_thresholds(variant, device)]


def _queries(variant: Variant, device: torch.device) -> list[str]:
    rows = _rows(PREPARED, variant.queries, variant)
    given, request = rows.to(device), request_of(variant)
    best = RunningTopK.empty(given, request.k)
    plan = float_plan(variant, len(rows), ROWS, device)
    block = float_search.prepare_vectors(given, request, plan, best)
    found = _measured("queries", rows, block.exact, block.norm)
    scale = 1.0 if variant.raw else fp16.SCALE
    norms, live = _norms(rows)
    factor, a, r = fp16.query_factors(
        norms, variant.metric, *float_search.slack_of(plan, channels(variant)), scale
    )
    kind = block.unit.dtype
    return [
        *found,
        *_unit_differs("queries", rows, live, factor, block.unit, kind),
        *_terms_differ("queries", live, (a, r), (block.scale, block.bias)),
    ]


def _coded_queries(variant: Variant, device: torch.device) -> list[str]:
    """Beside int8.code_queries and query_terms."""
    rows = _rows(PREPARED, variant.queries, variant)
    norms, live = _norms(rows)
    origin = torch.arange(channels(variant)).remainder(5).float() / 8
    plan, request = codes_plan(variant, len(rows), 1, device), request_of(variant)
    given = rows.to(device)
    frame = Frame(variant.metric, origin.to(device), None)
    block = int8_search.code_queries(given, frame, request, plan, Best.empty(given, request.k))
    expected = Frame(variant.metric, origin, None).queries(
        rows.double().where(live[:, None], 0), norms
    )
    count = len(rows)
    terms = int8.query_terms(
        expected, norms.masked_fill(~live, torch.nan), frame.origin_norm, variant.metric
    )
    off = (block.codes.cpu()[:count, : len(origin)] - expected.codes).abs().where(live[:, None], 0)
    found, infinite = block.terms.cpu()[:, :count], terms.isinf()
    close = (found - terms).abs() <= terms.abs() * 2.0**-18
    lowest = torch.full((len(block.norm),), LOWEST[1], dtype=torch.float32)
    padding = block.codes[:, len(origin) :].cpu()
    close = torch.where(infinite, found == terms, close) | (~live & (torch.arange(4) < 3)[:, None])
    return [
        *difference("norms", block.norm[:count].cpu().where(live, 0), norms),
        *violation("codes of queries", off, off <= 1, off),  # a tie goes either way
        *violation("terms of queries", found, close, terms),
        *difference("padding", block.terms[3, count:], lowest[count:]),
        *difference("thresholds", block.thresholds, lowest),
        *difference("padding of codes", padding, torch.zeros_like(padding)),
    ]


def _prototypes(variant: Variant, device: torch.device) -> list[str]:
    rows = _rows(ROWS, variant.prototypes, variant)
    plan = float_plan(variant, PREPARED, ROWS, device)
    mask = some((ROWS,), 0.8, torch.Generator().manual_seed(2))
    request = request_of(variant, mask.to(device))
    given, flags = rows.to(device), torch.zeros(4, dtype=torch.int32, device=device)
    if variant.masked:  # of pairs, which the scan reads
        mask, request = torch.ones_like(mask), request.masked(None)
    chunk = float_search.prepare_chunk(
        given, 0, whole_mask(given[:1], ROWS, request), request, plan, flags
    )
    norms, live = _norms(rows)
    live &= mask
    factor, b, c = fp16.prototype_factors(
        norms, variant.metric, *float_search.slack_of(plan, channels(variant))
    )
    unit, scale, bias = chunk.unit, chunk.scale, chunk.bias
    assert unit is not None
    assert scale is not None
    assert bias is not None
    if variant.metric == "cosine":  # which has no use for a scale
        scale = torch.zeros_like(bias)
    return [
        *_unit_differs("prototypes", rows, live, factor, unit, torch.float16),
        *_terms_differ("prototypes", live, (b, c), (scale, bias)),
    ]


def _rows(count: int, dtype: torch.dtype, variant: Variant) -> Tensor:
    """Some of norm 2^j, as far as the dtype goes, one zero, two not finite; then integers."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.zeros(count, channels(variant), dtype=torch.float64)
    signs = 2 * some((count, NONZERO), 0.5, generator).double() - 1
    lowest, highest = (-12, 12) if dtype == torch.float16 else (-110, 62)
    exponents = torch.linspace(lowest, highest, count, dtype=torch.float64).round()
    rows[:, 3 : 3 + NONZERO] = torch.ldexp(signs, exponents[:, None])
    rows[1], rows[2, 5], rows[4, 5] = 0, torch.nan, torch.inf
    rows[6::2] = integers((len(rows[6::2]), channels(variant)), 99, generator)
    return rows.to(dtype)


def _norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) in fp64, 0 where a row is not finite, and which rows are."""
    norms = rows.double().square().sum(1).sqrt()
    return norms.where(norms.isfinite(), 0), norms.isfinite()


def _measured(what: str, rows: Tensor, exact: Tensor, norm: Tensor) -> list[str]:
    norms, live = _norms(rows)
    whole = rows.double().where(live[:, None], 0)
    found = norm.cpu()[: len(rows)]
    return [
        *difference(f"{what} in fp64", exact, padded(whole, len(exact), exact.shape[1])),
        *difference(f"norms of {what}", found.where(live, 0), norms),
        *difference(f"{what} that are finite", found.isfinite(), live),
    ]


def _unit_differs(
    what: str, rows: Tensor, live: Tensor, factor: Tensor, unit: Tensor, kind: torch.dtype
) -> list[str]:
    whole = rows.double().where(live[:, None], 0) * factor[:, None]
    expected = padded(whole.float().to(kind), len(unit), unit.shape[1])
    return difference(f"{what} of norm 1", unit, expected)


def _terms_differ(
    what: str,
    live: Tensor,
    expected: tuple[Tensor, Tensor],
    found: tuple[Tensor, Tensor],
) -> list[str]:
    """Rows that may not match have a bias of -inf, as has padding."""
    wrong = []
    for name, value, own, lowest in zip(("scales", "biases"), expected, found, LOWEST, strict=True):
        whole = lengthened(value.masked_fill(~live, lowest), len(own), lowest)
        wrong += difference(f"{name} of {what}", own, whole)
    return wrong


def _thresholds(variant: Variant, device: torch.device) -> list[str]:
    """Of k best groups, by their bounds; every step is exact, and the last is rounded once."""
    generator = torch.Generator().manual_seed(3)
    k, count = ranks(variant), QUERIES
    upper = integers((count, k + 1), 512, generator).sort(1, descending=True).values.float() / 64
    upper[0, :2], upper[1, 2] = torch.inf, -torch.inf
    index = torch.rand(count, 50 + k, generator=generator).argsort(1)[:, : k + 1].contiguous()
    q_norm, p_norm = powers((count,), 1, generator), powers((50 + k,), 1, generator).float()
    before = _earlier(count)
    after = before.to(device, copy=True)
    float_search.threshold_kernel[(count,)](
        upper.to(device), index.to(device), p_norm.to(device), q_norm.to(device), after,
        k, upper.stride(0), DELTA, EPSILON,
        METRIC=variant.metric, num_warps=1,
    )  # fmt: skip
    lower = fp16.lower_bounds(
        upper[:, :k], q_norm.float()[:, None], p_norm[index[:, :k]], variant.metric, DELTA, EPSILON
    )
    return difference("thresholds", after, torch.maximum(before, lower.amin(1)))


def _earlier(count: int) -> Tensor:
    """Thresholds: one that is high already, and some that are there to be raised."""
    return torch.tensor([torch.inf, *[-torch.inf] * (count - 1)], dtype=torch.float32)
