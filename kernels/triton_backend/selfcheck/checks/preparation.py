"""Queries as prepared and prototypes as coded, beside the formulas of proofs/.

To the bit, but for terms whose sums may be in any order.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ....codes.frame import Frame
from ....codes.rotation import Rotation
from ....proofs import fp32, int8, int8_scan, tf32
from ... import stages, vector_search
from ...plan import pad
from ...query_block import (
    Best,
    CodedQueries,
    Originals,
    QueryBlock,
    ScaledQueries,
    whole_mask,
)
from ...tiles import GROUP, TILE_P
from .samples import (
    LOWEST,
    WIDTH,
    channels,
    difference,
    group_maxima,
    integers,
    lengthened,
    padded,
    plan_of,
    request_of,
    some,
    violation,
)
from .variants import BANK, PASSING, TF32, Variant

PREPARED, ROWS = 12, 300
NONZERO = 16  # ones and minus ones of a row whose norm is a power of two


def wrong_preparation(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with what surrounds the scan."""
    if variant.screen == TF32:
        return _scaled_queries(variant, device)
    passing = variant.screen == PASSING
    found = [*_origin(variant, device), *_coded_rows(variant, device)] if passing else []
    found += _coded_queries(variant, device, None)
    if variant.screen == BANK:
        found += _coded_queries(variant, device, Rotation(channels(variant), 0, device))
    return found


def _scaled_queries(variant: Variant, device: torch.device) -> list[str]:
    """Beside tf32.query_factors."""
    rows = _rows(PREPARED, variant.queries, variant)
    given, request = rows.to(device), request_of(variant)
    best = _found_before(given, request.k)
    plan = plan_of(variant, len(rows), ROWS, device)
    block = stages.scale_queries(given, request, plan, best, False)
    scaled = block.screened
    assert isinstance(scaled, ScaledQueries)
    norms, live = _norms(rows)
    slack = tf32.delta_of(WIDTH, variant.half), tf32.epsilon_of(WIDTH)
    divisor, a, r = tf32.query_factors(norms, variant.metric, *slack)
    whole = rows.double().where(live[:, None], 0) * (1 / divisor)[:, None]
    lowest = torch.full((block.padded,), LOWEST, dtype=torch.float32)
    return [
        *difference("norms", block.norm[: len(rows)].cpu().where(live, 0), norms),
        *difference("queries of norm 1", scaled.unit, padded(whole.float(), block.padded, WIDTH)),
        *difference("scales", scaled.scale, lengthened(a.where(live, 0), block.padded, 0)),
        *difference("biases", scaled.bias, lengthened(r.where(live, LOWEST), block.padded, LOWEST)),
        *_begun(block.thresholds, best.scores, lowest),
        *_filled(lambda new: stages.scale_queries(given, request, plan, new, True), best),
    ]


def _found_before(queries: Tensor, k: int) -> Best:
    """As if something had been found for two of the queries."""
    best = Best.empty(queries, k)
    best.scores[3], best.scores[5, :-1] = 0.25, 4.0
    return best


def _begun(thresholds: Tensor, scores: Tensor, lowest: Tensor) -> list[str]:
    """The k-th score found so far is where a query begins."""
    expected = lowest.clone()
    expected[: len(scores)] = scores[:, -1].cpu()
    return difference("thresholds", thresholds, expected)


def _filled(prepare: Callable[[Best], QueryBlock], best: Best) -> list[str]:
    """A first stage begins with nothing, whatever lies there."""
    new = Best(best.scores.clone(), torch.full_like(best.indices, 7), best.flags)
    thresholds = prepare(new).thresholds
    return [
        *difference("scores of nothing", new.scores, torch.full_like(new.scores, LOWEST)),
        *difference("indices of nothing", new.indices, torch.full_like(new.indices, -1)),
        *difference("thresholds of nothing", thresholds, torch.full_like(thresholds, LOWEST)),
    ]


def _coded_queries(variant: Variant, device: torch.device, rotation: Rotation | None) -> list[str]:
    """Beside int8.code_queries and query_terms."""
    rows = _rows(PREPARED, variant.queries, variant)
    norms, live = _norms(rows)
    origin = _some_origin(variant)
    plan, request = plan_of(variant, len(rows), ROWS, device), request_of(variant)
    given = rows.to(device)
    best = _found_before(given, request.k)
    frame = Frame(variant.metric, origin.to(device), rotation)
    rotated = stages.rotate_queries(given, frame)
    block = stages.code_queries(given, frame.origin, rotated, request, plan, best, False)
    coded = block.screened
    assert isinstance(coded, CodedQueries)
    beside = Frame(
        variant.metric, origin, rotation and Rotation(rotation.channels, 0, origin.device)
    )
    expected = beside.queries(rows.double().where(live[:, None], 0), norms)
    count = len(rows)
    terms = int8.query_terms(
        expected, norms.masked_fill(~live, torch.nan), beside.origin_norm, variant.metric
    )
    off = (coded.codes.cpu()[:count, : len(origin)] - expected.codes).abs().where(live[:, None], 0)
    found, infinite = coded.terms.cpu()[:, :count], terms.isinf()
    close = (found - terms).abs() <= terms.abs() * 2.0**-18
    lowest = torch.full((block.padded,), LOWEST, dtype=torch.float32)
    padding = coded.codes[:, len(origin) :].cpu()
    close = torch.where(infinite, found == terms, close) | (~live & (torch.arange(4) < 3)[:, None])
    return [
        *difference("norms", block.norm[:count].cpu().where(live, 0), norms),
        *violation("codes of queries", off, off <= 1, off),  # a tie goes either way
        *violation("terms of queries", found, close, terms),
        *difference("padding", coded.terms[3, count:], lowest[count:]),
        *_begun(block.thresholds, best.scores, lowest),
        *_filled(
            lambda new: stages.code_queries(given, frame.origin, rotated, request, plan, new, True),
            best,
        ),
        *difference("padding of codes", padding, torch.zeros_like(padding)),
    ]


def _origin(variant: Variant, device: torch.device) -> list[str]:
    """The medians of a spread of rows; what is not finite counts as 0."""
    rows = _rows(ROWS, variant.prototypes, variant)
    sample = rows[:: ROWS // 64][:64].double()
    if variant.metric == "cosine":
        norms = sample.square().sum(1).sqrt().clamp(min=1e-8)
        sample = sample / norms.masked_fill(~(norms <= fp32.LARGEST_NORM), torch.nan)[:, None]
    sample = sample.where(sample.abs() < fp32.LARGEST_NORM, 0)
    expected = sample.sort(0).values[(len(sample) - 1) // 2]
    found = vector_search.fitted_origin([rows.to(device)], device, variant.metric).cpu().double()
    close = (found - expected).abs() <= 2.0**-18 * expected.abs()
    return violation("origin", found, close, expected)


def _coded_rows(variant: Variant, device: torch.device) -> list[str]:
    """Codes and the terms of groups beside what they must bound, in fp64, and not by far."""
    rows, origin = _rows(ROWS, variant.prototypes, variant), _some_origin(variant)
    mask = some((ROWS,), 0.8, torch.Generator().manual_seed(2))
    request = request_of(variant, mask.to(device))
    if variant.masked:  # of pairs, which the scan reads
        mask, request = torch.ones_like(mask), request_of(variant, mask[None].to(device))
    given, flags = rows.to(device), torch.zeros(4, dtype=torch.int32, device=device)
    plan = plan_of(variant, PREPARED, ROWS, device)
    run = vector_search.run_of_rows(
        given, 0, whole_mask(given[:1], ROWS, request), origin.to(device), request, plan, flags
    )
    assert run.coded is not None
    codes, terms = run.coded.codes.cpu().double(), run.coded.group_terms.cpu().double()
    size, order = len(codes), _order(run.originals, ROWS)
    norms, live = _norms(rows)
    y = rows.double().where(live[:, None], 0)
    if variant.metric == "cosine":
        y = y / norms.clamp(min=1e-8)[:, None]
    y = y - origin.double()
    wrong = _unordered(y.square().sum(1).where(live, torch.inf), order, variant)
    live &= mask
    y = padded(y.where(live[:, None], 0), size, y.shape[1])[order]
    live = lengthened(live.long(), size, 0).bool()[order]
    at = torch.arange(size) // TILE_P * (TILE_P // GROUP) + torch.arange(size) % (TILE_P // GROUP)
    scaled = (codes * terms[at, 0][:, None])[:, : y.shape[1]]
    inside = live & (terms[at, 2] <= fp32.LARGEST_NORM)
    each = [(y - scaled).square().sum(1).sqrt(), scaled.square().sum(1).sqrt()]
    about = y.square().sum(1).sqrt() + origin.double().square().sum().sqrt()
    unbounded = ~(terms[:, 2] <= fp32.LARGEST_NORM)
    for name, value, own in zip(("errors", "sizes"), each, terms[:, 1:3].unbind(1), strict=True):
        least = _of_groups(value.where(inside, 0), size)
        most = least + _of_groups((about * 2.0**-14).where(inside, 0), size) + 2.0**-40
        most = most + (2 * _of_groups(each[0].where(inside, 0), size) if name == "sizes" else 0)
        wrong += violation(f"{name} of groups", own, (own >= least) | unbounded, least)
        wrong += violation(f"{name}, no further", own, (own <= most) | unbounded, most)
    bias = -0.5 * y.square().sum(1) * (variant.metric == "l2")
    least = _of_groups(bias.masked_fill(~inside, -torch.inf), size)
    scan_terms = int8_scan.scan_terms(run.coded.group_terms.cpu())
    found = run.coded.scan_terms.cpu()
    close = (found - scan_terms).abs() <= scan_terms.abs() * 2.0**-20
    close |= (found == scan_terms) | (found.isnan() & scan_terms.isnan())
    bits = live.long().view(-1, GROUP, TILE_P // GROUP)
    words = (bits << torch.arange(GROUP)[:, None]).sum(1).flatten().int()
    return [
        *wrong,
        *violation("biases of groups", terms[:, 3], terms[:, 3] >= least, least),
        *violation("terms of scans", found, close, scan_terms),
        *violation("codes", codes, codes.abs() <= int8.LARGEST_CODE, codes),
        *difference("words", run.coded.words, words),
        *difference("padding of codes", codes[:, y.shape[1] :].sum(1), torch.zeros(size).double()),
    ]


def _order(originals: Originals, count: int) -> Tensor:
    """(size,): the row at each position."""
    if originals.row_in_page is None:
        return torch.arange(pad(count, TILE_P))
    return originals.row_in_page.cpu().long().clamp(0, pad(count, TILE_P) - 1)  # of the only page


def _unordered(sizes: Tensor, order: Tensor, variant: Variant) -> list[str]:
    """For l2 each row is there once, and as large as those before it; else all are as given."""
    wrong = difference("rows", order.sort().values, torch.arange(len(order)))
    if variant.metric != "l2":
        return wrong + difference("order of rows", order, torch.arange(len(order)))
    ranked = lengthened(sizes, len(order), torch.inf)[order].view(-1, GROUP, TILE_P // GROUP)
    ranked = ranked.transpose(1, 2).flatten()
    least = ranked.cummax(0).values * (1 - 2.0**-18)
    return wrong + violation("order of rows", ranked, ranked >= least, least)


def _some_origin(variant: Variant) -> Tensor:
    return torch.arange(channels(variant)).remainder(5).float() / 8


def _of_groups(values: Tensor, size: int) -> Tensor:
    """(groups,): the largest of rows (ROWS,), and of nothing -inf."""
    return group_maxima(padded(values[None], 1, size, -torch.inf))[0]


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
