"""The bounds of the TF32 screen, and what is appended by them.

The sums of tensor cores are held to the error that section 2 of proofs/tf32.py allows, on sums that
lose most.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ....proofs import tf32
from ... import stages, vector_search
from ...device.flags import NEVER
from ...plan import pad
from ...query_block import Best, Originals, QueryBlock, Run, ScaledQueries, whole_mask
from ...tiles import GROUP, TILE_P
from .int8_entries import appended, ranks_of
from .samples import (
    WIDTH,
    difference,
    exact_scores,
    group_maxima,
    padded,
    plan_of,
    request_of,
    some,
    violation,
)
from .variants import Variant

QUERIES, ROWS = 5, 300
ROOM = 64
"""Entries of a segment: all groups of all tiles."""


def wrong_bounds(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with the bounds of a scan, and with what it appends."""
    return [*_of_sums(variant, device), *_of_vectors(variant, device)]


def _of_sums(variant: Variant, device: torch.device) -> list[str]:
    """What tensor cores make of operands that they take as they are, less the slack on top."""
    q, p = _sums_that_lose(QUERIES), _sums_that_lose(ROWS).flip(1)
    p[: len(q)] = q
    q = q * 2.0**-12  # whose slack goes by the norm of the prototype alone
    block, run = _as_given(variant, q, p, device)
    bounds = _bounds(appended(block, run, ROOM))[: len(q)]
    delta, epsilon = _slack(variant)
    q_norm, p_norm = (x.square().sum(1).sqrt() for x in (q, p))
    lengths = q_norm[:, None] * p_norm
    shift = _shift(variant, p_norm, delta, epsilon)
    allowed = WIDTH * 2.0**-22 * lengths + 2 * epsilon * (lengths + shift.abs())
    products = q @ p.T + shift
    if variant.metric == "cosine":
        products, allowed = products / p_norm, allowed / p_norm
    low, high = _best(products - allowed), _best(products + allowed)
    found = bounds.double()
    return [
        *violation("sums of tensor cores, from below", found, found >= low, low),
        *violation("sums of tensor cores, from above", found, found <= high, high),
    ]


def _slack(variant: Variant) -> tuple[float, float]:
    return tf32.delta_of(WIDTH, variant.half), tf32.epsilon_of(WIDTH)


def _shift(variant: Variant, norms: Tensor, delta: float, epsilon: float) -> Tensor:
    """What the screen adds to a product for a query with a scale of 1."""
    if variant.metric == "cosine":
        return torch.zeros_like(norms)
    shift = delta * norms
    return shift - norms.square() * (1 - epsilon) if variant.metric == "l2" else shift


def _of_vectors(variant: Variant, device: torch.device) -> list[str]:
    """No score is above its bound, and no bound further above what attains it than is proven.

    Each group of all tiles but the first has its length, from where squares are flushed to where
    they overflow, as far as the dtype goes. Then thresholds, and queries that have failed: those
    entries again that reach them.
    """
    generator = torch.Generator().manual_seed(6)
    shapes = ((n, WIDTH) for n in (QUERIES, ROWS))
    q, p = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    p[: len(q)] = 3 * q
    p = torch.ldexp(p, _exponents(variant.prototypes)[:, None])
    q, p = q.to(variant.queries), p.to(variant.prototypes)
    mask = some((len(q), ROWS), 0.3, generator) if variant.masked else None
    request = request_of(variant, None if mask is None else mask.to(device))
    plan, given = plan_of(variant, len(q), ROWS, device), q.to(device)
    best = Best.empty(given, request.k)
    block = stages.scale_queries(given, request, plan, best, False)
    masks = whole_mask(given, ROWS, request)
    run = vector_search.run_of_rows(p.to(device), 0, masks, None, request, plan, best.flags)
    bounds = _bounds(appended(block, run, ROOM))[: len(q)]
    q, p = q.double(), p.double()
    scores = exact_scores(q, p, variant.metric)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    found, highest = bounds.double(), _best(scores)
    most = highest + _above(q, p, variant)
    roundings = 2.0**-40 * _best(_sizes(q, p, variant.metric)).clamp(min=0)
    return [
        *violation("bounds of vectors", found, found >= highest - roundings, highest),
        *violation("slack of bounds", found, (found <= most) | found.isposinf(), most),
        *difference("groups where none may match", found.isneginf(), highest.isneginf()),
        *_reached(variant, block, run, bounds),
    ]


def _above(q: Tensor, p: Tensor, variant: Variant) -> Tensor:
    """(Q, groups) how far a bound may be above the best score of its group."""
    delta, epsilon = _slack(variant)
    q_norm = q.square().sum(1).sqrt()[:, None]
    longest = _best(p.square().sum(1).sqrt()[None]).clamp(min=2.0**-49)
    slack = 2.0 * delta * torch.ones_like(q_norm * longest)
    if variant.metric != "cosine":
        slack = 2.0 * delta * q_norm * longest + (q_norm + longest) * tf32.FLOOR + 2.0**-49
        if variant.metric == "l2":
            slack = 2.0 * slack + 4.0 * epsilon * (q_norm.square() + longest.square())
    return slack * (1 + 2.0**-10)


def _reached(variant: Variant, block: QueryBlock, run: Run, bounds: Tensor) -> list[str]:
    """Of the entries those that reach a threshold, of queries that have not failed; then again."""
    threshold = bounds.nan_to_num(0).double().quantile(0.7, dim=1).float()
    threshold[3] = -torch.inf
    block.thresholds[:QUERIES] = threshold.to(block.thresholds.device)
    block.resume[4] = 0
    tiles, ranks = pad(ROWS, TILE_P) // TILE_P, ranks_of(variant, pad(ROWS, TILE_P))
    passed = (bounds >= threshold[:, None]) & (bounds > -torch.inf)
    wanted, again = passed.clone(), torch.tensor([2, 4, 0])
    wanted[4] = False
    found = _bounds(appended(block, run, ROOM))[:QUERIES]
    began = torch.zeros(QUERIES, dtype=torch.long)
    began[again] = torch.tensor([0, 1, tiles])
    block.resume[again.to(block.resume.device)] = began[again].int().to(block.resume.device)
    late = bounds.masked_fill(~(passed & (ranks >= began[:, None])), -torch.inf)
    block.resume[1] = NEVER.value
    found_again = _bounds(appended(block, run, ROOM, again))[: len(again)]
    return [
        *difference("entries", found, bounds.masked_fill(~wanted, -torch.inf)),
        *difference("entries, again", found_again, late[again]),
    ]


def _exponents(dtype: torch.dtype) -> Tensor:
    """(ROWS,) powers of two by which rows are multiplied, one for each group."""
    lowest, highest = (-12, 8) if dtype == torch.float16 else (-104, 62)
    groups = TILE_P // GROUP
    count, kind = pad(ROWS, TILE_P) // GROUP, torch.float64
    of_group = torch.zeros(count, dtype=kind)
    of_group[groups:] = torch.linspace(lowest, highest, count - groups, dtype=kind).round()
    rows = torch.arange(ROWS)
    return of_group[rows // TILE_P * groups + rows % groups]


def _sizes(q: Tensor, p: Tensor, metric: str) -> Tensor:
    """(Q, M) what roundings of scores are relative to."""
    q_square, p_square = q.square().sum(1)[:, None], p.square().sum(1)
    if metric == "l2":
        return q_square + p_square
    return (q_square * p_square).sqrt() if metric == "dot" else torch.ones_like(q_square * p_square)


def _as_given(
    variant: Variant, q: Tensor, p: Tensor, device: torch.device
) -> tuple[QueryBlock, Run]:
    """Of operands as they are given here, with which a product stays what it is."""
    request, count = request_of(variant), len(q)
    plan = plan_of(variant, count, len(p), device)
    size = plan.query_rows
    unit = padded(q, size, WIDTH).float().to(device)
    scale = torch.zeros(size, dtype=torch.float32)
    scale[:count] = 1
    bias = torch.full((size,), -torch.inf, dtype=torch.float32)
    bias[:count] = 0
    thresholds = torch.full((size,), -torch.inf, dtype=torch.float32, device=device)
    resume = torch.full((size,), NEVER.value, dtype=torch.int32, device=device)
    given = p.to(variant.prototypes).to(device)
    originals = Originals(0, given, whole_mask(unit[:count], len(p), request))
    screened = ScaledQueries(unit, scale.to(device), bias.to(device))
    if variant.masked:
        request = replace(request, mask=torch.ones(len(p), dtype=torch.bool, device=device))
    norm = torch.ones(size, dtype=torch.float64, device=device)
    best = Best.empty(unit[:count], request.k)
    block = QueryBlock(unit[:count], request, plan, best, norm, thresholds, resume, screened)
    return block, Run(originals, None)


def _bounds(values: Tensor) -> Tensor:
    """fp32 of what entries hold, (Q, groups) int64; -inf where there is none."""
    bits = values.clamp(-(2**31), 2**31 - 1).int()
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32).masked_fill(values == -(2**31), -torch.inf)


def _sums_that_lose(count: int) -> Tensor:
    """(count, WIDTH): large numbers that cancel or do not, before many small ones.

    All fit fp16, bf16 and TF32. What hardware cuts off the small ones adds up.
    """
    rows = torch.arange(count)
    large, small = (rows % 3)[:, None] * 2.0 + 8, (rows % 11)[:, None]
    x = torch.ldexp(torch.ones(count, WIDTH, dtype=torch.float64), large - small)
    x[:, :2] = torch.ldexp(torch.ones(count, 2, dtype=torch.float64), large)
    x[rows % 2 == 0, 1] *= -1
    x[:, 2:] *= 1 + (torch.arange(2, WIDTH) % 7).double() / 64
    return x


def _best(values: Tensor) -> Tensor:
    """The maxima of groups, those of padding included, which are -inf."""
    return group_maxima(padded(values, len(values), pad(ROWS, TILE_P), -torch.inf))
