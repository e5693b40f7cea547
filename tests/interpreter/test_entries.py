"""What scans append: the groups of either screen that reach a threshold, and no other."""

import pytest
import torch
from by_triton import codes_plan, prepared_codes, prepared_vectors, vectors_plan
from coded import coded
from problems import KINDS, METRICS, Problem, vectors
from torch import Tensor

from flashmatch.kernels.contract import order
from flashmatch.kernels.contract.reference import scores as exact_scores
from flashmatch.kernels.proofs import int8, int8_scan, tf32
from flashmatch.kernels.triton_backend import stages
from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.device.flags import NEVER, Flag
from flashmatch.kernels.triton_backend.query_block import (
    CodedQueries,
    Entries,
    QueryBlock,
    Run,
    ScaledQueries,
)
from flashmatch.kernels.triton_backend.tiles import GROUP, TILE_P

pytestmark = pytest.mark.usefixtures("poisoned_empty")
NOTHING = order.EMPTY


def drawn(kind: str, queries: int, rows: int, channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return q, p


def grouped(table: Tensor, fill: float = -torch.inf) -> Tensor:
    """The largest of each group of (Q, M) -> (Q, groups of whole tiles)."""
    padded = torch.nn.functional.pad(table, (0, -table.shape[1] % TILE_P), value=fill)
    return padded.view(len(table), -1, GROUP, TILE_P // GROUP).amax(2).flatten(1)


def appended(block: QueryBlock, run: Run) -> Tensor:
    """(Qpad, groups) int64: the entry of each group, all of whose tiles are one round; or NOTHING.

    No group has two.
    """
    entries, plan = Entries.of(block), block.plan
    tiles = -(-run.originals.positions // plan.tile.block_p)
    groups = tiles * plan.tile.block_p // GROUP
    stages.append(block, run, stages.words_of(block, run), entries, 0, tiles)
    counts = entries.counts.view(-1, plan.segments, 1)
    assert 0 <= counts.min() <= counts.max() <= plan.capacity
    there = (torch.arange(plan.capacity) < counts).flatten(1)
    found = entries.entries.view(block.padded, -1)
    at = (found & 0xFFFFFFFF).where(there, groups)
    assert at.max() <= groups
    table = torch.full((block.padded, groups + 1), NOTHING, dtype=torch.int64)
    table.scatter_(1, at, found)
    assert torch.equal((table[:, :-1] != NOTHING).sum(1), there.sum(1))
    return table[:, :-1]


def bounds_of(table: Tensor) -> Tensor:
    """(Qpad, groups) fp32 of the TF32 screen's entries; -inf where there is none."""
    return order.scores_of(table)


def prepared_for_tf32(problem: Problem) -> tuple[QueryBlock, Run]:
    """With thresholds that nothing is below."""
    plan = vectors_plan(problem)
    assert plan.tf32
    block, run = prepared_vectors(problem, plan)
    assert (block.thresholds == -torch.inf).all()
    assert (block.resume == int(NEVER.value)).all()
    return block, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_and_are_tight(kind: str, metric: str, dtype: torch.dtype) -> None:
    q, p = drawn(kind, 4, 300, 64)
    p = p.to(dtype)
    block, run = prepared_for_tf32(Problem(q, [p], 3, metric))
    bounds = bounds_of(appended(block, run))
    assert not (bounds[4:] > -torch.inf).any()
    bounds, best = bounds[:4], grouped(exact_scores(q, p, metric))
    assert block.plan.half == (dtype == torch.bfloat16)
    assert bounds.shape == best.shape
    assert (bounds >= best).all()
    assert torch.equal(bounds.isneginf(), best.isneginf())

    delta, epsilon = tf32.delta_of(64, block.plan.half), tf32.epsilon_of(64)
    lengths = [x.double().norm(dim=1) for x in (q, p)]
    reach = grouped(lengths[1][None].expand(4, -1), 0)
    slack = 2 * delta * torch.ones_like(reach)
    if metric != "cosine":
        slack *= 2 * lengths[0][:, None] * reach
        slack += 3 * epsilon * (lengths[0][:, None] ** 2 + reach**2) * (metric == "l2") + 1e-20
        slack += 1e-14 * (lengths[0][:, None] + reach)  # the least norm that the screen tells
    real = best.isfinite() & bounds.isfinite()
    assert ((bounds - best).double()[real] <= 1.01 * slack[real]).all()
    longest = torch.maximum(lengths[0][:, None], reach)
    ranged = (longest < tf32.HUGE) & (lengths[0] > tf32.TINY)[:, None]
    ranged &= best.isfinite()
    assert bounds[ranged].isfinite().all()
    assert block.best.flags.tolist() == [0, 0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_have_all_of_the_slack(metric: str) -> None:
    """Interpreted products lose next to nothing: tensor cores may lose what is on top of them."""
    q, p = drawn("gaussian", 4, 300, 64)
    q *= torch.tensor([1.0, 10.0, 0.1, 1.0])[:, None]
    p *= 10.0 ** torch.linspace(-1, 1, 300)[:, None]
    bounds = bounds_of(appended(*prepared_for_tf32(Problem(q, [p], 3, metric))))[:4]
    delta, epsilon = tf32.delta_of(64, False), tf32.epsilon_of(64)
    q, p = q.double(), p.double()
    lengths = q.norm(dim=1, keepdim=True) * p.norm(dim=1)
    if metric == "l2":
        squares = q.square().sum(1, keepdim=True) + p.square().sum(1)
        table = 2 * (q @ p.T + delta * lengths) - (1 - epsilon) * squares
        roundings = 2.0**-22 * (squares + lengths)
    elif metric == "dot":
        table, roundings = q @ p.T + delta * lengths, 2.0**-21 * lengths
    else:
        table, roundings = q @ p.T / lengths + delta, 2.0**-21 * torch.ones_like(lengths)
    assert (bounds >= grouped(table - roundings)).all()
    assert (bounds <= grouped(table + roundings)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_queries_are_scaled_as_the_proof_says(metric: str) -> None:
    norms = [0.0, 2.0**-140, 2.0**-101, 1e-9, 1.0, 1e18, 2.0**62, 1e30]
    directions = drawn("gaussian", 9, 1, 64)[0].double()
    q = directions / directions.norm(dim=1, keepdim=True)
    q = q * torch.tensor([*norms, 1.0], dtype=torch.float64)[:, None]
    q[8, 3] = torch.nan
    block, _ = prepared_for_tf32(Problem(q, [torch.ones(1, 64)], 1, metric, None, "exclude"))
    scaled = block.screened
    assert isinstance(scaled, ScaledQueries)
    lengths = q[:8].norm(dim=1)
    delta, epsilon = tf32.delta_of(64, False), tf32.epsilon_of(64)
    divisor, scale, bias = tf32.query_factors(lengths, metric, delta, epsilon)
    assert torch.allclose(block.norm[:8], lengths, rtol=1e-14, atol=0)
    unit = (q[:8] / divisor[:, None]).float()
    assert torch.allclose(scaled.unit[:8], unit, rtol=2.0**-22, atol=1e-40)
    assert torch.allclose(scaled.scale[:8], scale, rtol=2.0**-22, atol=0)
    assert torch.allclose(scaled.bias[:8], bias, rtol=2.0**-22, atol=0)
    assert not scaled.unit[8:].any()
    assert (scaled.bias[8:] == -torch.inf).all()
    assert block.best.flags.tolist() == [1, 0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_norms_beyond_the_range_are_never_excluded(metric: str) -> None:
    q, p = drawn("gaussian", 4, 300, 64)
    p[17] *= 1e25
    block, run = prepared_for_tf32(Problem(q, [p], 3, metric))
    block.thresholds.fill_(3e38)
    bounds = bounds_of(appended(block, run))[:4]
    assert block.best.flags[Flag.NONFINITE_PROTOTYPES] == 0
    assert bounds[:, 1].isposinf().all()  # row 17: group 1 of tile 0
    assert bounds[:, 2:].isneginf().all()


@pytest.mark.parametrize("metric", METRICS)
def test_what_may_not_match_reaches_no_bound(metric: str) -> None:
    """Masks, rows that are not finite, and queries that are not."""
    q, p = drawn("gaussian", 4, 300, 64)
    p[40, 3], p[140, 63], p[299, 0] = torch.nan, torch.inf, -torch.inf
    q[2, 5] = torch.inf
    pairs = torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < 0.05
    pairs[:, [40, 140, 299]] = True
    for mask in (pairs, pairs[0], pairs.T.contiguous().T):
        block, run = prepared_for_tf32(Problem(q, [p], 3, metric, mask, "exclude"))
        bounds = bounds_of(appended(block, run))[:4]
        allowed = mask & p.isfinite().all(1) & q.isfinite().all(1)[:, None]
        table = exact_scores(q.nan_to_num(0, 0, 0), p.nan_to_num(0, 0, 0), metric)
        best = grouped(table.masked_fill(~allowed, -torch.inf))
        assert (bounds >= best).all()
        assert torch.equal(bounds.isneginf(), best.isneginf())
        assert best.isneginf().any()
        assert block.best.flags.tolist() == [1, 1, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_below_the_threshold_are_not_appended(metric: str) -> None:
    block, run = prepared_for_tf32(Problem(*_with(drawn("gaussian", 16, 300, 64)), 3, metric))
    bounds = bounds_of(appended(block, run))
    least = bounds.median(1).values  # one of them: what equals it is appended
    block.thresholds.copy_(least)
    expected = bounds.masked_fill(bounds < least[:, None], -torch.inf)
    found = bounds_of(appended(block, run))
    assert torch.equal(found, expected)
    assert 0 < found.isneginf().sum() < found.numel() - found.shape[0]


def _with(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
    return pair[0], [pair[1]]


def prepared_codes_of(screen: str, problem: Problem) -> tuple[QueryBlock, Run]:
    if screen == "bank":
        codes = coded(problem.prototypes, problem.metric, LAYOUT)
        return prepared_codes(problem, codes, codes_plan(problem, codes))
    return prepared_vectors(problem, vectors_plan(problem))


@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("screen", ["codes in passing", "bank"])
def test_entries_of_codes_are_those_of_the_twin(
    screen: str, metric: str, queries: int, rows_at
) -> None:
    q, p = drawn("offset", queries, 300, 70)
    p[5] *= 1e25
    mask = torch.rand(queries, 300, generator=torch.Generator().manual_seed(2)) < 0.05
    block, run = prepared_codes_of(screen, Problem(q, [p], 1, metric, mask))
    rows = rows_at(run)
    assert len(rows) == 384
    queried, own = block.screened, run.coded
    assert isinstance(queried, CodedQueries)
    assert own is not None
    products = (queried.codes[:queries].long() @ own.codes[:384].long().T).int()
    allowed = mask[:, rows.clamp(max=299)] & (rows < 300)
    exact = exact_scores(q, p, metric)[:, rows.clamp(max=299)].masked_fill(~allowed, -torch.inf)
    maxima, best = grouped(products.masked_fill(~allowed, int8.LOWEST)), grouped(exact)
    finite = best.where(best.isfinite(), -1e30)
    for threshold in (finite.amax(1).float(), finite.median(1).values.float()):
        block.thresholds[:queries] = threshold
        found = appended(block, run)[:queries, :24]
        least = int8_scan.scan_thresholds(
            queried.terms[:, :queries], own.scan_terms[:24], threshold, metric
        )
        passed = found != NOTHING
        assert torch.equal(passed, maxima.float() >= least)
        assert torch.equal((found >> 32)[passed], maxima.long()[passed])
        assert passed[best.float() >= threshold[:, None]].all()
        assert not passed.all()


@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("screen", ["codes in passing", "bank"])
def test_entries_change_where_the_threshold_does(
    screen: str, metric: str, queries: int, rows_at
) -> None:
    """Of each query one group passes by the last threshold that lets it, and not by the next."""
    q, p = drawn("gaussian", queries, 140, 20)
    block, run = prepared_codes_of(screen, Problem(q, [p], 1, metric))
    queried, own = block.screened, run.coded
    assert isinstance(queried, CodedQueries)
    assert own is not None
    terms, each = queried.terms[:, :queries], torch.arange(queries)
    group = each % 8
    products = (queried.codes[:queries].long() @ own.codes[:256].long().T).int()
    products = products.masked_fill(rows_at(run) >= 140, int8.LOWEST)
    maxima = grouped(products)[each, group].float()
    low, high = torch.full((queries,), -1e6), torch.full((queries,), 1e6)
    for _ in range(64):
        middle = (low + high) / 2
        least = int8_scan.scan_thresholds(terms, own.scan_terms, middle, metric)[each, group]
        low, high = low.where(maxima < least, middle), high.where(maxima >= least, middle)
    assert (low < high).all()
    if metric == "l2":  # of whose bias a division is rounded otherwise: by a quarter of a product
        step = 0.5 * terms[0] * own.group_terms[group, 0]
        low, high = low - step, high + step
    for threshold, expected in ((low, True), (high, False)):
        block.thresholds[:queries] = threshold
        passed = appended(block, run)[:queries] != NOTHING
        assert (passed[each, group] == expected).all()
