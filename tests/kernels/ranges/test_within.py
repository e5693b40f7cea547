"""within and count_within find what a search for all finds, down to the threshold, bit for bit."""

import math
from collections.abc import Iterator

import pytest
import torch
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from in_range import assert_same, expected, thresholds
from problems import KINDS, METRICS, Problem, vectors
from screens import in_three_threads, search_in_general

from flashmatch import count_within, topk, within
from flashmatch.kernels.torch_backend import plan, rescore
from flashmatch.kernels.torch_backend.ranges import in_range, range_scan, range_search

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROUTES = {
    "whole": {"WHOLE_ELEMENTS": 1 << 40},
    "screened": {"WHOLE_ELEMENTS": 0},
    "gathered": {"WHOLE_ELEMENTS": 0},
    "chosen": {"WHOLE_ELEMENTS": 0},
    "soon dense": {"WHOLE_ELEMENTS": 0},
    "shared": {"WHOLE_ELEMENTS": 0},
}
"""Small problems are scored as a whole unless told otherwise."""


@pytest.fixture(params=ROUTES, scope="module", autouse=True)
def route(request: pytest.FixtureRequest) -> Iterator[str]:
    patch, way = pytest.MonkeyPatch(), request.param
    search_in_general(patch)  # what is expected
    for name, value in ROUTES[way].items():
        patch.setattr(plan, name, value)
    if way in ("gathered", "chosen", "soon dense"):
        patch.setattr(range_scan.RangeScan, "dense_share", float(way != "soon dense"))
        patch.setattr(range_scan, "_FEW_PAIRS", 0.0 if way == "chosen" else 1e9)
        patch.setattr(rescore, "_DENSE_ELEMENTS", 200)
        patch.setattr(in_range, "_POOL", 7)
    if way == "shared":
        patch.setattr(range_search, "workers_for", lambda most: 3)
        patch.setattr(range_search, "in_workers", in_three_threads)
    yield way
    patch.undo()


def run(problem: Problem, threshold: object, **changes: object) -> torch.Tensor:
    options = problem.options() | changes
    return within(problem.queries, problem.prototypes, threshold, **options)


def plain(
    kind: str, metric: str, queries: int = 9, rows: int = 2000, channels: int = 24
) -> Problem:
    generator = torch.Generator().manual_seed(7)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return Problem(q, [p], 1, metric)


def test_the_route_is_taken(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, taken = plain("gaussian", "cosine"), set[str]()
    threshold = thresholds(problem, 0.05)
    for name in ("pairs", "chosen", "dense"):
        body = getattr(rescore, name)
        monkeypatch.setattr(rescore, name, lambda *a, f=body: taken.add(f.__name__) or f(*a))
    run(problem, threshold)
    ways = {"whole": {"dense"}, "soon dense": {"dense"}, "gathered": {"pairs"}}
    assert taken == ways.get(route, {"chosen"})


SHARES = st.sampled_from((0.0, 0.01, 0.1, 0.5, 0.99, 1.0))


@given(problems(), SHARES, st.sampled_from((None, 1, 3, 1000)), st.booleans())
def test_equals_the_oracle(problem: Problem, share: float, limit: int | None, sort: bool) -> None:
    threshold = thresholds(problem, share)
    found = run(problem, threshold, limit=limit, sort=sort)
    assert_same(found, expected(problem, threshold, limit, sort))
    if limit is None:
        options = problem.options()
        counts = count_within(problem.queries, problem.prototypes, threshold, **options)
        assert torch.equal(counts, found.offsets.diff())


@given(problems(), SHARES, st.integers(1, 50), st.integers(1, 50))
def test_same_bits_for_every_chunking_and_batching(
    problem: Problem, share: float, chunk_rows: int, at: int
) -> None:
    threshold = thresholds(problem, share)
    wanted = run(problem, threshold, chunk_rows=None)
    assert_same(run(problem, threshold, chunk_rows=chunk_rows), wanted)
    parts = []
    for start in range(0, len(problem.queries), at):
        few, mask = slice(start, start + at), problem.mask
        mask = mask[few] if mask is not None and mask.ndim == 2 else mask
        part = problem.replace(queries=problem.queries[few], mask=mask)
        parts.append(run(part, threshold))
    assert torch.equal(torch.cat([part.indices for part in parts]), wanted.indices)
    assert torch.equal(torch.cat([part.scores for part in parts]), wanted.scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_at_a_score_just_above_and_just_below(kind: str, metric: str) -> None:
    problem = plain(kind, metric)
    at = thresholds(problem, 0.02)
    up = float(torch.tensor(at).nextafter(torch.tensor(math.inf)))
    for threshold in (at, up, at + (up - at) * 0.01, at - abs(at) * 1e-12):
        assert_same(run(problem, threshold), expected(problem, threshold))


@pytest.mark.parametrize("metric", METRICS)
def test_a_threshold_for_each_query(metric: str) -> None:
    problem = plain("gaussian", metric)
    scores = topk(problem.queries, problem.prototypes, 100, metric=metric).scores
    each = scores[torch.arange(9), torch.tensor([0, 1, 5, 99, 98, 7, 3, 0, 50])].double()
    each[1], each[7] = -math.inf, math.inf
    assert_same(run(problem, each), expected(problem, each))
    assert_same(run(problem, each.float()), expected(problem, each))
    assert len(run(problem, each, limit=2).indices) == 15  # 1, 0 and 2 of the others


@pytest.mark.parametrize("metric", METRICS)
def test_many_that_tie_at_the_limit(metric: str) -> None:
    """The lowest indices stay, in whichever chunk better ones come."""
    problem = plain("duplicates", metric, rows=3000)
    for limit in (1, 2, 500):
        found = run(problem, -math.inf, limit=limit, chunk_rows=100)
        assert_same(found, expected(problem, -math.inf, limit))


def test_scores_beyond_fp32() -> None:
    q, p = torch.tensor([[1e30], [-1e30]]), torch.tensor([[1e30], [1.0], [-1e30]])
    problem = Problem(q, [p], 1, "dot")
    for threshold in (math.inf, 1e39, 3e38, 0.0, -3e38, -1e39, -math.inf):
        assert_same(run(problem, threshold), expected(problem, threshold))


def test_nothing_at_all() -> None:
    q, p = torch.randn(4, 8), torch.randn(6, 8)
    empty = [
        within(q[:0], p, 0.0),
        within(q, p[:0], 0.0),
        within(q, p, 2.0),
        within(q, p, -2.0, mask=torch.zeros(6, dtype=torch.bool)),
        within(torch.full_like(q, math.nan), p, -2.0, nonfinite="exclude"),
    ]
    for found, queries in zip(empty, (0, 4, 4, 4, 4), strict=True):
        assert found.offsets.tolist() == [0] * (queries + 1)
        assert (found.indices.dtype, found.scores.dtype) == (torch.int64, torch.float32)
        assert len(found.indices) == len(found.scores) == len(found.queries) == 0
    assert count_within(q[:0], p, 0.0).shape == (0,)


def test_vectors_that_are_not_finite_are_refused_by_name() -> None:
    q, p = torch.randn(40, 8), torch.randn(600, 8)
    q[17, 3] = math.nan
    with pytest.raises(ValueError, match=r"queries must be finite .*; got .* in row 17"):
        within(q, p, 0.5)
    q[17, 3], p[599, 0] = 0.0, math.inf
    with pytest.raises(ValueError, match=r"prototypes must be finite .*; got .* in row 599"):
        within(q, p, 0.5)
    assert 599 not in within(q, p, -1.0, nonfinite="exclude").indices
