"""The fp32 bounds of groups of codes: never below a score, and close where they can be.

And the thresholds that scans compare, which let every product pass that belongs to a score.
"""

import pytest
import torch
from coded import close, coded
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, vectors
from torch import Tensor

from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract import finite
from flashmatch.kernels.proofs import int8, int8_scan
from flashmatch.kernels.proofs.int8 import LOWEST
from flashmatch.kernels.storage.clean_rows import screen_norms

LAYOUT = Layout(span=256, group=16, width_multiple=64, tile_span=128)


def grouped(table: Tensor) -> Tensor:
    """The largest of each group of (Q, positions) -> (Q, G)."""
    return table.view(len(table), -1, LAYOUT.group, LAYOUT.tile_groups).amax(2).flatten(1)


def bounds_and_best(
    queries: Tensor, prototypes: Tensor, codes: Codes, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(Q, G) bounds, and the best score of each group in fp64; -inf where nothing may match."""
    metric, norms = codes.frame.metric, finite.norms(queries)
    queries = queries.double().where(norms.isfinite()[:, None], 0)
    block = codes.frame.queries(queries, norms.where(norms.isfinite(), 0))
    slots = codes.rows_at(torch.arange(len(codes.codes))).clamp(max=len(prototypes) - 1)
    allowed = ~codes.unmatchable[None] if mask is None else ~codes.unmatchable & mask[:, slots]
    products = block.codes.long() @ codes.codes[:, : codes.channels].long().T
    maxima = grouped(products.int().masked_fill(~allowed, LOWEST))
    terms = int8.query_terms(block, norms, codes.frame.origin_norm, metric)
    upper = int8.group_upper_bounds(terms, codes.bounds, maxima, metric)
    scores = in_fp64(queries, prototypes.double().nan_to_num(0, 0, 0), metric)[:, slots]
    alive = allowed & norms.isfinite()[:, None]
    best = grouped(scores.masked_fill(~alive, -torch.inf))
    assert_passed(terms, codes.scan_terms, maxima, best, metric)
    return upper, best


def assert_passed(terms: Tensor, groups: Tensor, maxima: Tensor, best: Tensor, metric: str) -> None:
    """Scans let pass what a group may hold, if the threshold is its very best, or none."""
    alive = best > -torch.inf
    for group in range(len(groups)):
        t = best[:, group].float()
        for threshold in (t, torch.full_like(t, -torch.inf)):
            least = int8_scan.scan_thresholds(terms, groups[group : group + 1], threshold, metric)
            assert not least.isnan().any()
            assert (maxima[:, group].float() >= least[:, 0])[alive[:, group]].all()
    assert (int8_scan.scan_thresholds(terms, groups, best[:, 0].float(), metric) > LOWEST).all()


def in_fp64(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    if metric == "l2":
        return -(queries[:, None] - prototypes).square().sum(2)
    if metric == "cosine":
        queries = queries / finite.norms(queries).clamp(min=1e-8)[:, None]
        prototypes = prototypes / finite.norms(prototypes).clamp(min=1e-8)[:, None]
    return queries @ prototypes.T


def assert_bounded(upper: Tensor, best: Tensor) -> None:
    assert upper.dtype == torch.float32
    assert not upper.isnan().any()
    assert (upper.double() >= best).all(), (best - upper).max()
    assert torch.equal(upper == -torch.inf, best == -torch.inf)


@given(problems(largest=300), st.integers(0, 2**32))
def test_no_score_lies_above(problem: Problem, seed: int) -> None:
    prototypes = torch.cat(problem.prototypes)
    if len(prototypes) == 0:
        return
    codes = coded(problem.prototypes, problem.metric, LAYOUT)
    kept = torch.rand(len(prototypes), generator=torch.Generator().manual_seed(seed)) < 0.9
    close(codes, kept & finite.norms(prototypes).isfinite())
    mask = problem.mask if problem.mask is None or problem.mask.ndim == 2 else problem.mask[None]
    assert_bounded(*bounds_and_best(problem.queries, prototypes, codes, mask))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_queries_that_aim_at_the_error(kind: str, metric: str) -> None:
    """Along a prototype's own coding error, Cauchy-Schwarz is attained; along it, nearly."""
    p = vectors(kind, 256, 96, torch.Generator().manual_seed(5)).float()
    frame = Frame(metric, torch.zeros(96), None)
    codes = Codes(frame, LAYOUT, 256, 96)
    codes.write(0, p, screen_norms(p))
    scale = (
        codes.bounds[:, 0].view(-1, 1, LAYOUT.tile_groups).expand(-1, LAYOUT.group, -1).flatten()
    )
    decoded = codes.codes[:, :96].double() * scale[:, None].double()
    error = (
        frame.prototypes(p, screen_norms(p))[codes.rows_at(torch.arange(256))].double() - decoded
    )
    for q in (error, 1e6 * error, decoded, p.double(), -p.double()):
        assert_bounded(*bounds_and_best(q[:50], p, codes))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("exponent", [-45, -30, -18, 17, 19, 100, 160])
def test_norms_at_the_ends_of_the_range(exponent: int, metric: str) -> None:
    """Queries of any norm; prototypes of norms that can be coded."""
    generator = torch.Generator().manual_seed(6)
    x, y = (vectors("gaussian", n, 24, generator) for n in (20, 200))
    tame = 10.0 ** min(exponent, 16)
    for q, p in ((x * 10.0**exponent, y), (x, y * tame), (x * tame, y * tame), (x, y)):
        p = p.clone()
        p[3] *= 1e16 / tame if exponent > 0 else 1e3
        assert_bounded(*bounds_and_best(q, p, coded([p], metric, LAYOUT)))


def test_every_product_of_codes_is_reached() -> None:
    """The largest sums that int32 has to hold, of the most channels."""
    channels = int8.MAX_CHANNELS
    p = torch.ones(2, channels)
    p[1] = -1
    codes = Codes(coded([p], "dot", LAYOUT).frame, LAYOUT, 2, channels)
    codes.frame.origin.zero_()
    codes.write(0, p, screen_norms(p))
    upper, best = bounds_and_best(p, p, codes)
    assert_bounded(upper, best)
    assert best.max() == channels


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_close(metric: str) -> None:
    """Each side's error is half a step of 1/127 of its largest coordinate; l2 adds unlike norms."""
    generator = torch.Generator().manual_seed(7)
    q, p = (vectors("gaussian", n, 128, generator) for n in (20, 2000))
    upper, best = bounds_and_best(q, p, coded([p], metric, LAYOUT))
    reach = 1.0 if metric == "cosine" else float(finite.norms(q).max() * finite.norms(p).max())
    slack = (upper - best)[best > -torch.inf] / reach
    assert slack.max() <= (0.3 if metric == "l2" else 0.025)
    assert slack.median() <= (0.07 if metric == "l2" else 0.015)


@pytest.mark.parametrize("metric", METRICS)
def test_scans_let_little_more_pass_than_bounds_do(metric: str) -> None:
    generator = torch.Generator().manual_seed(8)
    q, p = (vectors("gaussian", n, 128, generator).float() for n in (20, 2000))
    codes = coded([p], metric, LAYOUT)
    norms = finite.norms(q)
    queries = codes.frame.queries(q.double(), norms)
    terms = int8.query_terms(queries, norms, codes.frame.origin_norm, metric)
    products = queries.codes.long() @ codes.codes[:, :128].long().T
    maxima = grouped(products.int().masked_fill(codes.unmatchable, LOWEST))
    upper = int8.group_upper_bounds(terms, codes.bounds, maxima, metric)
    for group in range(0, len(codes.words), 7):
        row = codes.scan_terms[group : group + 1]
        above = upper[:, group] + upper.abs().max() * 2.0**-17
        least = int8_scan.scan_thresholds(terms, row, above, metric)[:, 0]
        assert (maxima[:, group].float() < least).all()


def test_words_say_who_may_match() -> None:
    p = vectors("gaussian", 700, 20, torch.Generator().manual_seed(9)).float()
    codes = coded([p], "dot", LAYOUT)
    before = codes.words.clone()
    closed = codes.closed(torch.arange(300, 340), torch.arange(700) % 2 == 0)
    for each in (codes, closed):
        bits = (each.words[:, None] >> torch.arange(LAYOUT.group)) & 1
        assert torch.equal(
            bits.bool(),
            (~each.unmatchable).view(-1, LAYOUT.group, LAYOUT.tile_groups).transpose(1, 2)
            .reshape(-1, LAYOUT.group),
        )  # fmt: skip
    assert torch.equal(codes.words, before)
    assert not torch.equal(closed.words, before)
    longer = codes.extended(2, 40)  # copied, with room
    assert torch.equal(longer.words[:32], before[:32])
    assert torch.equal(longer.scan_terms[:32], codes.scan_terms[:32])
