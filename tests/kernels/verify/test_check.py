"""verify passes what is right, finds what is wrong, and shares nothing with the search."""

import importlib
import re
from collections.abc import Callable
from itertools import pairwise
from math import inf, nan

import pytest
import torch
from allocations import LargestResult, peak_bytes
from drawn import problems
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import DTYPES, KINDS, METRICS, Problem, vectors
from torch import Tensor

from flashmatch import Verification, topk, verify
from flashmatch.kernels.verify.intervals import score_interval

pytestmark = pytest.mark.usefixtures("poisoned_empty")

MODULE, CHECK = (
    importlib.import_module(f"flashmatch.kernels.verify.{name}") for name in ("scores", "check")
)
Pair = tuple[Tensor, Tensor]
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, 2.0]])
PROTOTYPES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])


def checked(problem: Problem, matches: Pair, **options: object) -> Verification:
    options = {"metric": problem.metric, "mask": problem.mask} | options
    return verify(problem.queries, problem.prototypes, matches, **options)


def plain(kind: str, metric: str = "dot", queries: int = 6, rows: int = 300) -> Problem:
    generator = torch.Generator().manual_seed(5)
    q, p = (vectors(kind, n, 12, generator).float() for n in (queries, rows))
    return Problem(q, [p], 7, metric)


def up(scores: Tensor, steps: int = 1) -> Tensor:
    """The fp32 numbers ``steps`` above (below, if negative)."""
    towards = torch.tensor(inf if steps > 0 else -inf)
    for _ in range(abs(steps)):
        scores = torch.nextafter(scores, towards)
    return scores


# What is right passes


@given(problems())
def test_the_oracle_passes(problem: Problem) -> None:
    result = checked(problem, problem.oracle())
    assert result, result
    assert result.queries == len(problem.queries)
    assert result.disagreements == ()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_topk_of_thousands_passes(kind: str, metric: str) -> None:
    problem = plain(kind, metric, 9, 6000)
    matches = topk(problem.queries, problem.prototypes, 10, metric=metric)
    assert checked(problem, matches), checked(problem, matches)


@pytest.mark.parametrize("prototypes", DTYPES)
@pytest.mark.parametrize("queries", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_dtype(metric: str, queries: torch.dtype, prototypes: torch.dtype) -> None:
    problem = plain("gaussian", metric)
    q, p = problem.queries.to(queries), problem.prototypes[0].to(prototypes)
    scores, indices = topk(q, [p[:100], p[100:]], 7, metric=metric)
    assert verify(q, p, (scores, indices), metric=metric)
    assert not verify(q, p, (up(scores), indices), metric=metric)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_check_is_right(shape: tuple[int, int]) -> None:
    result = verify(QUERIES[: shape[0]], PROTOTYPES, (torch.ones(shape), torch.ones(shape).long()))
    assert result.ok
    assert result.queries == shape[0]


def test_minus_zero_is_zero() -> None:
    scores, indices = topk(QUERIES, PROTOTYPES, 5, metric="dot")
    assert bool((scores == 0).any())
    assert verify(
        QUERIES, PROTOTYPES, (torch.where(scores == 0, -0.0, scores), indices), metric="dot"
    )


def test_cosine_of_a_zero_vector_is_zero() -> None:
    for queries, prototypes in ((0 * QUERIES, PROTOTYPES), (QUERIES, 0 * PROTOTYPES)):
        scores, indices = torch.zeros(4, 2), torch.tensor([[0, 1]] * 4)
        result = verify(queries, prototypes, (scores, indices))
        assert result
        assert result.largest_score_error == 0
        result = verify(queries, prototypes, (scores, indices + 1))
        assert result.wrong == 4
        assert str(result.disagreements[0].expected_score) == "0.0"


def test_scores_beyond_fp32_are_infinite_in_index_order() -> None:
    queries, prototypes = torch.full((1, 2), 1e30), torch.full((4, 2), 1e30)
    for metric, sign in (("dot", 1), ("dot", -1), ("l2", -1)):
        p = prototypes * sign
        scores, indices = torch.full((1, 4), sign * inf), torch.arange(4)[None]
        assert verify(queries, p, (scores, indices), metric=metric).largest_score_error == 0
        result = verify(queries, p, (scores, indices.flip(1)), metric=metric)
        assert not result
        assert [d.apart for d in result.disagreements] == [0] * 4
        assert not verify(queries, p, (scores, indices - (indices == 3) * 4), metric=metric)
        assert not verify(queries, p, (scores[:, :1], indices[:, 1:2]), metric=metric)


# What is wrong is found


def swapped(scores: Tensor, indices: Tensor) -> Pair:
    """Two ranks, with their scores."""
    order = [1, 0, *range(2, scores.shape[1])]
    return scores[:, order], indices[:, order]


def shifted(scores: Tensor, indices: Tensor) -> Pair:
    """The best match is missing: each moves up, and one too far is last."""
    return scores[:, 1:], indices[:, 1:]


def changed(change: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], Pair]:
    def wrong(scores: Tensor, indices: Tensor) -> Pair:
        scores, indices = scores.clone(), indices.clone()
        change(scores[-1], indices[-1])  # the last query only
        return scores, indices

    return wrong


WRONG = {
    "swapped ranks": swapped,
    "swapped indices": lambda s, i: (s, i[:, [1, 0, *range(2, i.shape[1])]]),
    "best missing": shifted,
    "one ulp above": changed(lambda s, i: s[2:3].copy_(up(s[2:3]))),
    "one ulp below": changed(lambda s, i: s[-1:].copy_(up(s[-1:], -1))),
    "NaN": changed(lambda s, i: s[3:4].fill_(nan)),
    "inf": changed(lambda s, i: s[:1].fill_(inf)),
    "duplicate": changed(lambda s, i: (s[1:2].copy_(s[:1]), i[1:2].copy_(i[:1]))),
    "empty last": changed(lambda s, i: (s[-1:].fill_(-inf), i[-1:].fill_(-1))),
    "empty first": changed(lambda s, i: (s[:1].fill_(-inf), i[:1].fill_(-1))),
    "all empty": changed(lambda s, i: (s.fill_(-inf), i.fill_(-1))),
    "index -1": changed(lambda s, i: i[-1:].fill_(-1)),
    "score -inf": changed(lambda s, i: s[-1:].fill_(-inf)),
    "beyond the last": changed(lambda s, i: i[-1:].fill_(10**6)),
    "far beyond": changed(lambda s, i: (s[-1:].fill_(-inf), i[-1:].fill_(2**63 - 1))),
    "negative": changed(lambda s, i: i[-1:].fill_(-2)),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_matches_are_found(wrong: str, metric: str) -> None:
    problem = plain("gaussian", metric)
    right = problem.oracle()
    matches = WRONG[wrong](*right)
    result = checked(problem, matches)
    assert not result.ok
    everywhere = wrong.startswith(("swapped", "best"))
    assert result.wrong == (6 if everywhere else 1)
    query, rank = result.disagreements[0][:2]
    assert query == (0 if everywhere else 5)
    first = next(
        r
        for r in range(matches[0].shape[1])
        if (right[0][query, r], right[1][query, r]) != (matches[0][query, r], matches[1][query, r])
    )
    assert rank == first
    assert result.disagreements[0][2:4] == (
        int(right[1][query, rank]),
        float(right[0][query, rank]),
    )
    assert result.disagreements[0].got_index == matches[1][query, rank]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 50])
def test_ties_must_come_lowest_index_first(k: int, metric: str) -> None:
    problem = plain("identical", metric, 3, 60).replace(k=k)
    scores, indices = problem.oracle()
    assert checked(problem, (scores, indices))
    result = checked(problem, (scores, indices + 1))  # index 0 left out
    assert result.wrong == 3
    assert [d.expected_index for d in result.disagreements[:k]] == list(range(k))
    skipping = torch.where(indices == k - 1, k, indices)
    assert checked(problem, (scores, skipping)).wrong == 3  # only the last rank is wrong
    if k > 1:
        assert checked(problem, (scores, indices.flip(1))).wrong == 3


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_ties_of_integers_are_exact_also_at_zero(metric: str) -> None:
    """An error bound relative to the size of the terms would excuse any order around zero."""
    queries, prototypes = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, -3.0], [-2.0, 6.0]])
    prototypes = prototypes if metric == "dot" else queries.repeat(2, 1)
    for index, right in ((0, True), (1, False)):
        matches = torch.zeros(1, 1), torch.tensor([[index]])
        result = verify(queries, prototypes, matches, metric=metric)
        assert result.ok is right
        assert right or "expected 0 with 0," in str(result)  # not -0
    tiny = torch.full((1, 1), 1e-20), torch.tensor([[0]])
    assert not verify(queries, prototypes, tiny, metric=metric)


@given(problems(largest=60, channels=9), st.data())
def test_any_index_that_cannot_be_right_is_found(problem: Problem, data: st.DataObject) -> None:
    scores, indices = problem.oracle()
    filled = (indices >= 0).nonzero().tolist()
    assume(filled)
    query, rank = data.draw(st.sampled_from(filled))
    earlier = indices[query, :rank].tolist()
    indices[query, rank] = data.draw(st.sampled_from([-2, -1, problem.rows, *earlier]))
    result = checked(problem, (scores, indices))
    assert result.wrong == 1
    assert {d.query for d in result.disagreements} == {query}
    assert rank in [d.rank for d in result.disagreements]


@given(problems(largest=60, channels=9), st.data())
def test_any_score_beyond_the_attainable_is_found(problem: Problem, data: st.DataObject) -> None:
    scores, indices = problem.oracle()
    filled = (indices >= 0).nonzero().tolist()
    assume(filled)
    query, rank = data.draw(st.sampled_from(filled))
    prototype = torch.cat([p.double() for p in problem.prototypes])[indices[query, rank]]
    q, p = problem.queries[query].double().tolist(), prototype.tolist()
    step = data.draw(st.sampled_from((-1, 1)))
    edge = torch.tensor(score_interval(q, p, problem.metric)[step > 0])
    assume(edge.isfinite())
    scores[query, rank] = up(edge, step)
    assert checked(problem, (scores, indices)).wrong == 1


def test_a_square_distance_between_two_scores_is_rounded_once() -> None:
    """2^24 + 3 is as near to 2^24 + 2 as to 2^24 + 4, which is even: the one score there is."""
    query, prototype = torch.zeros(1, 4), torch.tensor([[4096.0, 1.0, 1.0, 1.0]])
    for score, wrong in ((2.0**24 + 4, 0), (2.0**24 + 2, 1)):
        matches = torch.tensor([[-score]]), torch.tensor([[0]])
        assert verify(query, prototype, matches, metric="l2").wrong == wrong


def test_a_sample_is_deterministic_and_of_its_size() -> None:
    problem = plain("gaussian", queries=40)
    scores, indices = problem.oracle()
    assert checked(problem, (scores, indices), sample=7).queries == 7
    assert checked(problem, (scores, indices), sample=41).queries == 40
    found = [
        query
        for query in range(40)
        if not checked(
            problem, (scores + 1 * (torch.arange(40) == query)[:, None], indices), sample=7
        )
    ]
    assert len(found) == 7
    assert len({b - a for a, b in pairwise(found)}) > 1  # not evenly spaced
    result = checked(problem, (scores + 1, indices), sample=7)
    assert result.wrong == 7
    assert list(dict.fromkeys(d.query for d in result.disagreements)) == found


def test_many_blocks_number_queries_and_prototypes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_CHUNK_ELEMENTS", 12 * 7)
    monkeypatch.setattr(MODULE, "_TABLE_ELEMENTS", 14 * 4)
    problem = plain("gaussian", queries=11)
    mask = torch.rand(11, 300, generator=torch.Generator().manual_seed(1)) < 0.5
    problem = problem.replace(prototypes=list(problem.prototypes[0].split(45)), mask=mask)
    scores, indices = problem.oracle()
    assert checked(problem, (scores, indices))
    indices[9, 3] = 299
    scores[1, 0] += 100
    result = checked(problem, (scores, indices))
    assert [d[:2] for d in result.disagreements] == [(1, 0), (9, 3)]
    assert result.largest_score_error == pytest.approx(100)


# Masks and vectors that are not finite


def test_masked_prototypes_must_not_be_listed() -> None:
    problem = plain("gaussian")
    matches = problem.oracle()
    best = torch.zeros(6, 300, dtype=torch.bool).scatter_(1, matches[1][:, :1], True)
    assert checked(problem, matches, mask=~best).wrong == 6
    assert checked(problem, matches, mask=best).wrong == 6
    assert checked(problem, matches, mask=~best[2]).wrong == int(
        (matches[1] == matches[1][2, 0]).any(1).sum()
    )
    shared = best.any(0)
    assert checked(problem.replace(mask=shared), problem.replace(mask=shared).oracle())


@pytest.mark.parametrize("allowed", [0, 1, 4])
def test_the_tail_of_a_mask_is_empty_and_nothing_else(allowed: int) -> None:
    mask = torch.arange(300) % 70 == 3
    mask &= mask.cumsum(0) <= allowed
    problem = plain("gaussian").replace(mask=mask)
    scores, indices = problem.oracle()
    assert int((indices[0] == -1).sum()) == 7 - allowed
    assert checked(problem, (scores, indices))
    assert checked(problem, (torch.where(indices < 0, 0.0, scores), indices)).wrong == 6
    assert checked(problem, (scores, torch.where(indices < 0, 5, indices))).wrong == 6


@pytest.mark.parametrize("bad", [nan, inf, -inf, 1e200])
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_that_are_not_finite_never_match(metric: str, bad: float) -> None:
    problem = plain("gaussian", metric)
    queries, prototypes = problem.queries.double(), problem.prototypes[0].double()
    prototypes[4, 1] = queries[2, 3] = bad
    matches = topk(queries, prototypes, 7, metric=metric, nonfinite="exclude")
    assert verify(queries, prototypes, matches, metric=metric)
    scores, indices = (x.clone() for x in matches)
    indices[0, 6] = 4
    indices[2], scores[2] = indices[1], scores[1]
    result = verify(queries, prototypes, (scores, indices), metric=metric)
    assert result.wrong == 2
    assert result.disagreements[0][:2] == (0, 6)
    assert result.disagreements[1:] == tuple(
        (2, rank, -1, -inf, int(indices[1, rank]), float(scores[1, rank])) for rank in range(7)
    )


def test_a_square_beyond_fp64_is_not_finite_in_one_channel_either() -> None:
    long = torch.tensor([[1e200]], dtype=torch.float64)
    matches = torch.ones(1, 1), torch.tensor([[0]])
    assert verify(torch.ones(1, 1), long, matches).disagreements[0].expected_index == -1


# Where fp64 evaluations may differ

ABOVE_HALF = [1.0, 2.0**-24, 2.0**-80]
"""Sums to a hair above the midpoint of 1 and the next fp32. In fp64 the hair is lost: to even."""
FURTHER_ABOVE = [1.0, 2.0**-24, 2.0**-80, 2.0**-52]
"""Our own evaluation is above the midpoint, but another might not be."""


@pytest.mark.parametrize(("steps", "right"), [(-1, False), (0, True), (1, True), (2, False)])
def test_either_side_of_a_boundary_is_right_and_nothing_else(steps: int, right: bool) -> None:
    matches = up(torch.ones(1, 1), steps) if steps else torch.ones(1, 1), torch.tensor([[0]])
    queries, prototypes = torch.ones(1, 3), torch.tensor([ABOVE_HALF])
    assert verify(queries, prototypes, matches, metric="dot").ok is right


def test_a_boundary_hit_exactly_has_one_side() -> None:
    queries, prototypes = torch.ones(1, 2), torch.tensor([ABOVE_HALF[:2]])
    for scores, right in ((torch.ones(1, 1), True), (up(torch.ones(1, 1)), False)):
        assert verify(queries, prototypes, (scores, torch.tensor([[0]])), metric="dot").ok is right


ONE, MORE = 1.0, 1 + 2.0**-23


@pytest.mark.parametrize(
    ("scores", "indices", "right"),
    [
        ([ONE, ONE], [0, 1], True),
        ([MORE, MORE], [0, 1], True),
        ([MORE, ONE], [0, 1], True),
        ([MORE, ONE], [1, 0], True),
        ([ONE, ONE], [1, 0], False),
        ([ONE, MORE], [0, 1], False),  # each attainable, but not in this order
        ([MORE, ONE], [0, 0], False),
        ([MORE], [0], True),
        ([MORE], [1], True),  # 0 may have scored ONE
        ([ONE], [0], True),  # 1 may have, too
        ([ONE], [1], False),  # 0 has ONE at least, and comes first
    ],
)
@pytest.mark.parametrize("row", [ABOVE_HALF, FURTHER_ABOVE])
def test_order_across_a_boundary(
    row: list, scores: list, indices: list, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, prototypes = torch.zeros(3, len(row)), torch.tensor([row] * 2)
    queries[2] = 1
    matches = [topk(queries, prototypes, len(scores), metric="dot")[i].clone() for i in (0, 1)]
    matches[0][2], matches[1][2] = torch.tensor(scores), torch.tensor(indices)
    assert verify(queries, prototypes, matches, metric="dot").ok is right
    monkeypatch.setattr(MODULE, "_TABLE_ELEMENTS", 1)  # one query at a time
    result = verify(queries, prototypes, matches, metric="dot")
    assert result.ok is right
    assert result.wrong == (not right)


def test_one_certain_prototype_among_uncertain_ones_is_missed() -> None:
    """The last match took the low side of its boundary; a later prototype is surely above it."""
    queries = torch.ones(1, 3)
    prototypes = torch.tensor([ABOVE_HALF, [0.5, 0, 0], [MORE, 0, 0]])
    low, high = torch.tensor([[ONE]]), torch.tensor([[MORE]])
    assert verify(queries, prototypes, (high, torch.tensor([[0]])), metric="dot")
    assert verify(queries, prototypes, (high, torch.tensor([[2]])), metric="dot")
    assert not verify(queries, prototypes, (low, torch.tensor([[0]])), metric="dot")


# The report


def test_the_report_names_query_rank_and_distance() -> None:
    scores, indices = topk(QUERIES, PROTOTYPES, 2, metric="dot")
    assert str(verify(QUERIES, PROTOTYPES, (scores, indices), metric="dot")) == (
        "4 queries checked, 0 wrong; largest score error 0"
    )
    scores[1, 0] = 1.75
    indices[3, 1] = -1
    result = verify(QUERIES, PROTOTYPES, (scores, indices), metric="dot")
    assert not result
    assert str(result) == (
        "4 queries checked, 2 wrong; largest score error 0.25\n"
        "  query 1, rank 0: expected 3 with 2, got 3 with 1.75, 0.25 apart\n"
        "  query 3, rank 1: expected 1 with 2, got -1 with 2, 0 apart"
    )
    assert result.largest_score_error == 0.25
    assert result.disagreements[0] == (1, 0, 3, 2.0, 3, 1.75)
    assert result.disagreements[0].expected_index == 3


def test_a_nan_is_an_infinite_error() -> None:
    scores, indices = topk(QUERIES, PROTOTYPES, 2, metric="dot")
    scores[0, 0] = nan
    assert verify(QUERIES, PROTOTYPES, (scores, indices), metric="dot").largest_score_error == inf


def test_a_long_report_is_cut_but_everything_is_counted() -> None:
    problem = plain("gaussian", queries=150)
    scores, indices = problem.oracle()
    result = checked(problem, (scores + 1, indices))
    assert result.wrong == 150
    assert len(result.disagreements) == 100
    assert str(result).endswith("apart\n  ...")
    assert result.largest_score_error == pytest.approx(1, abs=1e-5)


def test_matches_of_another_shape_of_tuple_and_other_chunks() -> None:
    scores, indices = topk(QUERIES, PROTOTYPES, 3)
    assert verify(QUERIES, list(PROTOTYPES.split(2)), [scores, indices])
    assert verify(QUERIES, PROTOTYPES, topk(QUERIES, PROTOTYPES, 3))
    queries = QUERIES.clone().requires_grad_()
    matches = topk(queries, PROTOTYPES, 3)
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, pytest.fail):  # no graph
        assert verify(queries, PROTOTYPES, matches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert verify(QUERIES, PROTOTYPES, (scores, indices))


SCORES, INDICES = torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("matches", "error", "message"),
    [
        (SCORES, TypeError, "pair of arrays (scores, indices); got (Tensor)"),
        ((SCORES, "00"), TypeError, "matches' indices must be a tensor, an array"),
        ((SCORES, [0]), ValueError, "indices must have shape (4, k); got (1,)"),
        ((SCORES,) * 3, TypeError, "(scores, indices); got (Tensor, Tensor, Tensor)"),
        ((SCORES.double(), INDICES), TypeError, "scores must be torch.float32; got torch.float64"),
        ((SCORES, INDICES.int()), TypeError, "indices must be torch.int64; got torch.int32"),
        ((SCORES[:3], INDICES), ValueError, "scores must have shape (4, k); got (3, 2)"),
        ((SCORES, INDICES[0]), ValueError, "indices must have shape (4, k); got (2,)"),
        ((SCORES, INDICES[:, :1]), ValueError, "must have one shape; got (4, 2) and (4, 1)"),
    ],
)
def test_refused_matches(matches: object, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        verify(QUERIES, PROTOTYPES, matches)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "euclid"}, ValueError, "metric must be one of"),
        ({"mask": torch.ones(5)}, TypeError, "mask must be a torch.bool tensor"),
        ({"mask": torch.ones(4) > 0}, ValueError, "mask must have shape (5,) or (4, 5); got (4,)"),
        ({"sample": 0}, ValueError, "sample must be at least 1; got 0"),
        ({"sample": 0.5}, TypeError, "sample must be an int; got float"),
    ],
)
def test_refused_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        verify(QUERIES, PROTOTYPES, (SCORES, INDICES), **options)


def test_refused_vectors() -> None:
    for arguments in ((QUERIES.int(), PROTOTYPES), (QUERIES, []), (QUERIES, PROTOTYPES[:, :1])):
        with pytest.raises((TypeError, ValueError), match=r"queries|prototypes"):
            verify(*arguments, (SCORES, INDICES))


def test_distances_are_never_below_the_least_attainable() -> None:
    """Squares of whole numbers, exact in every order, half way between two floats."""
    odd = torch.arange(1, 4096, 2, dtype=torch.float64)
    prototypes = torch.stack([torch.full_like(odd, 4096), odd], 1)
    q, p = (MODULE.Vectors.of(x, x.device) for x in (torch.zeros(1, 2), prototypes))
    scores = MODULE.Chunk(q, p, "l2", None, 0).scores[0]
    exact = -(2.0**24 + odd**2)
    assert (scores.float() >= exact.float()).all()
    assert ((scores - exact).abs() <= exact.abs() * 2.0**-49).all()


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e4, 1e9, 1e153])
@pytest.mark.parametrize("crowded", [0, 6, 10**9])
def test_what_is_left_out_is_found_however_far_from_the_origin(
    length: float, crowded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of distances that a product of matrices loses in the squares of lengths, none is missed."""
    monkeypatch.setattr(MODULE, "_CROWDED", crowded)
    monkeypatch.setattr(CHECK, "_PAIRS", 1000)
    problem = plain("gaussian", "l2", 6, 200)
    far, apart = length / 4, max(length * 1e-8, 1e-3)
    prototypes = far + apart * problem.prototypes[0].double()
    queries = apart * problem.queries.double()
    queries[0] += 9 * apart  # its distances are not those of the others
    problem = Problem(far + queries, [prototypes], 7, "l2")
    scores, indices = problem.oracle()
    assert checked(problem, (scores, indices))
    for missing in range(6):
        kept = [rank for rank in range(7) if rank != missing]
        assert checked(problem, (scores[:, kept], indices[:, kept])).wrong == 6


# Memory


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("queries", "rows", "channels", "k"),
    [(3000, 3000, 32, 10), (3, 150_000, 3, 10), (200, 4000, 4, 4000), (300, 30, 6000, 5)],
)
def test_memory_is_bounded(queries: int, rows: int, channels: int, k: int, metric: str) -> None:
    """Held at a time are a few tensors of the size of a table, 8 MiB."""
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors("integers", n, channels, generator).bfloat16() for n in (queries, rows))
    mask = torch.ones(1, 1, dtype=torch.bool).expand(queries, rows)
    scores, indices = torch.full((1, k), -inf), torch.full((1, k), -1)
    matches = scores.expand(queries, k), indices.expand(queries, k)  # all missing
    with LargestResult() as results:
        assert verify(q, p, matches, metric=metric, mask=mask).wrong == queries
    assert 0 < results.largest <= 8 * 2**20


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [10, 4500])
def test_memory_is_what_the_docstring_says(k: int, metric: str) -> None:
    """Of full chunks and full tables, where nothing listed is right, and everything left out is."""
    queries, prototypes = torch.ones(260, 512).bfloat16(), torch.ones(4500, 512).bfloat16()
    nothing = torch.full((1, k), -inf), torch.full((1, k), -1)
    matches = tuple(x.expand(260, k).contiguous() for x in nothing)
    peak = peak_bytes(lambda: verify(queries, prototypes, matches, metric=metric))
    assert peak <= 64 * 2**20
