"""The bounds of the fp16 and TF32 screens: to the bit where they are exact, and the sums of tensor
cores within the error that section 2 of proofs/fp16.py allows, on sums that lose most.
"""

import torch
from torch import Tensor

from ....proofs import fp16
from ... import float_search
from ...float_search import Chunk, FloatBlock
from ...plan import TritonPlan, pad
from ...query_block import Originals, RunningTopK, whole_mask
from ...tiles import GROUP, TILE_P
from .samples import (
    LOWEST,
    WIDTH,
    channels,
    difference,
    exact_scores,
    float_plan,
    group_maxima,
    integers,
    lengthened,
    padded,
    powers,
    request_of,
    some,
    violation,
)
from .variants import Variant

ROWS = 300
Terms = tuple[Tensor, Tensor]  # scale and bias of each row, fp32


def wrong_float_bounds(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with the bounds of a scan."""
    found = [] if variant.raw else _to_the_bit(variant, device)
    return [*found, *_of_sums(variant, device), *_of_vectors(variant, device)]


def _query_count(variant: Variant) -> int:
    """More than a tile of queries."""
    return 5 if variant.raw else variant.tile.block_q + 2


def _to_the_bit(variant: Variant, device: torch.device) -> list[str]:
    """Products of small integers, scales that are powers of two: one rounding at each step."""
    generator = torch.Generator().manual_seed(5)
    count = _query_count(variant)
    q, p = (integers((n, WIDTH), 2, generator) for n in (count, ROWS))
    queries = _row_terms(count, generator)
    prototypes = _row_terms(ROWS, generator)
    prototypes[1][7], queries[1][1] = -torch.inf, -torch.inf
    prototypes[1][9], queries[1][2] = torch.inf, torch.inf  # of rows without a bound
    queries[0][3] = 0  # of a query without a length, so that inf becomes NaN on the way
    mask = some((count, ROWS), 0.3, generator) if variant.masked else None
    plan = float_plan(variant, count, ROWS, device)
    bounds = _float_scan(variant, plan, q, queries, p, prototypes, mask, device)
    delta, _ = float_search.slack_of(plan, WIDTH)
    products = (q @ p.T).float()
    expected = fp16.upper_bounds(products, queries, prototypes, variant.metric, delta)
    if mask is not None:
        expected = expected.masked_fill(~mask, -torch.inf)
    return difference("bounds", bounds, _best(expected, bounds))


def _of_sums(variant: Variant, device: torch.device) -> list[str]:
    """What tensor cores make of operands that they take as they are, less the slack on top."""
    q, p = _sums_that_lose(_query_count(variant)), _sums_that_lose(ROWS).flip(1)
    p[: len(q)] = q
    if variant.raw:  # whose slack goes by the norm of the prototype alone
        q = q * 2.0**-12
    plan = float_plan(variant, len(q), ROWS, device)
    queries, prototypes = _no_terms(len(q)), _no_terms(ROWS)
    bounds = _float_scan(variant, plan, q, queries, p, prototypes, None, device)
    delta, epsilon = float_search.slack_of(plan, WIDTH)
    q_norm, p_norm = (x.square().sum(1).sqrt() for x in (q, p))
    lengths = q_norm[:, None] * p_norm
    products, allowed = q @ p.T, WIDTH * 2.0**-22 * lengths
    if variant.raw:
        shift = _raw_shift(variant, p_norm, delta, epsilon)
        allowed = allowed + 2 * epsilon * (lengths + shift.abs())
        products = products + shift
        if variant.metric == "cosine":
            products, allowed = products / p_norm, allowed / p_norm
    elif variant.metric == "l2":
        products = products + delta * fp16.SCALE**2
        allowed = allowed + delta * fp16.SCALE**2 * 2.0**-22
    low, high = _best(products - allowed, bounds), _best(products + allowed, bounds)
    found = bounds.double()
    return [
        *violation("sums of tensor cores, from below", found, found >= low, low),
        *violation("sums of tensor cores, from above", found, found <= high, high),
    ]


def _raw_shift(variant: Variant, norms: Tensor, delta: float, epsilon: float) -> Tensor:
    """What the raw screen adds to a product for a query with a scale of 1."""
    if variant.metric == "cosine":
        return torch.zeros_like(norms)
    shift = delta * norms
    return shift - norms.square() * (1 - epsilon) if variant.metric == "l2" else shift


def _of_vectors(variant: Variant, device: torch.device) -> list[str]:
    """No score is above its bound; and none that attains one is further below than is proven.

    Each group of all tiles but the first has its length, from where squares are flushed to where
    they overflow, as far as the dtype goes.
    """
    generator = torch.Generator().manual_seed(6)
    shapes = ((n, channels(variant)) for n in (_query_count(variant), ROWS))
    q, p = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    p[: len(q)] = 3 * q[:ROWS]
    p = torch.ldexp(p, _exponents(variant.prototypes)[:, None])
    q, p = q.to(variant.queries), p.to(variant.prototypes)
    mask = some((len(q), ROWS), 0.3, generator) if variant.masked else None
    request = request_of(variant, None if mask is None else mask.to(device))
    plan = float_plan(variant, len(q), ROWS, device)
    given = q.to(device)
    best = RunningTopK.empty(given, request.k)
    block = float_search.prepare_vectors(given, request, plan, best)
    masks = whole_mask(given, ROWS, request)
    chunk = float_search.prepare_chunk(p.to(device), 0, masks, request, plan, best.flags)
    bounds = float_search.scan_chunk(block, chunk)[: len(q)].cpu()
    q, p = q.double(), p.double()
    scores, sizes = exact_scores(q, p, variant.metric), _sizes(q, p, variant.metric)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    found, highest = bounds.double(), _best(scores, bounds)
    delta, epsilon = float_search.slack_of(plan, channels(variant))
    longest, norms = chunk.group_norm.cpu()[None], p.square().sum(1).sqrt().float()
    q_norm = q.square().sum(1).sqrt().float()[:, None]
    lower = fp16.lower_bounds(bounds, q_norm, longest, variant.metric, delta, epsilon)
    roundings = 2.0**-40 * _best(sizes, bounds).clamp(min=0)
    norms = norms.masked_fill(norms > fp16.HUGE, 0)  # of no matter where a bound is infinite
    norms = _best(norms[None] * (1 - 2.0**-23), bounds).clamp(min=0)  # but for a rounding
    return [
        *violation("norms of groups", longest, longest >= norms, norms),
        *violation("bounds of vectors", found, found >= highest - roundings, highest),
        *violation("slack of bounds", found, lower.double() <= highest + roundings, highest),
        *difference("groups where none may match", found.isneginf(), highest.isneginf()),
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


def _float_scan(
    variant: Variant,
    plan: TritonPlan,
    q: Tensor,
    queries: Terms,
    p: Tensor,
    prototypes: Terms,
    mask: Tensor | None,
    device: torch.device,
) -> Tensor:
    """(Q, groups) bounds, of operands and terms as they are given here."""
    request = request_of(variant, None if mask is None else mask.to(device))
    size, rows = plan.query_rows, pad(len(p), variant.tile.block_p)
    kind = torch.float32 if variant.raw else torch.float16
    unit = padded(q, size, WIDTH).to(kind).to(device)
    a, r = (lengthened(x, size, 0.0).to(device) for x in queries)
    b, c = (lengthened(x, rows, low).to(device) for x, low in zip(prototypes, LOWEST, strict=True))
    best = RunningTopK.empty(unit[: len(q)], request.k)
    given = p.to(variant.prototypes if variant.raw else kind).to(device)
    originals = Originals(0, given, whole_mask(unit[: len(q)], len(p), request))
    group_norm = torch.zeros(rows // GROUP, dtype=torch.float32, device=device)
    copies = () if variant.raw else (padded(p, rows, WIDTH).to(kind).to(device), b, c)
    block = FloatBlock(a, a, best, request, plan, unit, a, r)
    return float_search.scan_chunk(block, Chunk(originals, group_norm, *copies))[: len(q)].cpu()


def _row_terms(count: int, generator: torch.Generator) -> Terms:
    """Scales that are powers of two, biases of 24 bits."""
    bias = torch.randn(count, dtype=torch.float32, generator=generator)
    return powers((count,), 4, generator).float(), bias


def _no_terms(count: int) -> Terms:
    """A product stays what it is."""
    return torch.ones(count, dtype=torch.float32), torch.zeros(count, dtype=torch.float32)


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


def _best(values: Tensor, bounds: Tensor) -> Tensor:
    """The maxima of groups, those of padding included, which are -inf."""
    return group_maxima(padded(values, len(values), bounds.shape[1] * GROUP, -torch.inf))
