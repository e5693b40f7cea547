"""The Triton backend, interpreted, against the oracle."""

import dataclasses

import pytest
import torch
from by_triton import search_vectors, search_with_flags, vectors_plan
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import float_search
from flashmatch.kernels.triton_backend.device.flags import Flag
from flashmatch.kernels.triton_backend.plan import TritonPlan

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    """As the door calls it, which has answered k = 0 already. Interpreted chunks cost much time."""
    smallest = max(1, problem.rows // 3)
    chunk_rows = problem.chunk_rows and max(problem.chunk_rows, smallest)
    return search_vectors(problem.replace(chunk_rows=chunk_rows))


def small() -> st.SearchStrategy[Problem]:
    return problems(largest=120).map(
        lambda problem: problem.replace(k=min(problem.k, 40))
    ).filter(lambda problem: problem.k > 0)  # fmt: skip


def whole_tiles(problem: Problem) -> Problem:
    """The same problem, as wide and as contiguous as the raw screen wants it."""
    queries, *prototypes = (
        torch.nn.functional.pad(x[:, :64], (0, max(0, 64 - x.shape[1]))).clone(
            memory_format=torch.contiguous_format  # one row is contiguous with any stride
        )
        for x in (problem.queries, *problem.prototypes)
    )
    prototypes = [p.float() if p.dtype == torch.float64 else p for p in prototypes]
    return problem.replace(queries=queries, prototypes=prototypes)


def first_queries(problem: Problem, count: int) -> Problem:
    mask = problem.mask if problem.mask is None or problem.mask.ndim == 1 else problem.mask[:count]
    return problem.replace(queries=problem.queries[:count], mask=mask)


def replan(patch: pytest.MonkeyPatch, **changes: object) -> None:
    choose = float_search.choose_plan

    def chosen(*args, **kwargs) -> TritonPlan:
        return dataclasses.replace(choose(*args, **kwargs), **changes)

    patch.setattr(float_search, "choose_plan", chosen)


@given(small())
def test_equals_the_oracle(problem: Problem) -> None:
    assert_exact(run(problem), problem)


@given(small())
def test_raw_screen_equals_the_oracle(problem: Problem) -> None:
    problem = first_queries(whole_tiles(problem), 16)
    assert vectors_plan(problem).raw
    assert_exact(run(problem), problem)


@given(small())
def test_equals_the_oracle_when_all_is_left_to_repair(problem: Problem) -> None:
    """One kept group proves next to nothing: the repair kernel must find the rest."""
    problem = first_queries(problem, 6)
    with pytest.MonkeyPatch.context() as patch:
        replan(patch, kept=1)
        assert_exact(run(problem), problem)


@given(small(), st.integers(1, 20))
def test_same_bits_for_every_chunking_and_batching(problem: Problem, at: int) -> None:
    """The parts of a batch may take the raw screen where the whole takes the prepared one."""
    problem = problem if at % 2 else whole_tiles(problem)
    scores, indices = run(problem.replace(chunk_rows=None))
    chunked = run(problem.replace(chunk_rows=1))
    assert torch.equal(chunked[0], scores)
    assert torch.equal(chunked[1], indices)
    part = run(first_queries(problem, at))
    assert torch.equal(part[0], scores[:at])
    assert torch.equal(part[1], indices[:at])


@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str, queries: int) -> None:
    """More groups than are kept, for the raw and the prepared screen."""
    generator = torch.Generator().manual_seed(7)
    q = vectors(kind, queries, 64, generator).float()
    p = vectors(kind, 200, 64, generator).float()
    problem = Problem(q, [p], 2, metric, None, "raise", None)
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("queries", [2, 17])
def test_repair_happens(queries: int) -> None:
    """Near-duplicates everywhere: no bound separates them, so kept groups cannot be proof."""
    generator = torch.Generator().manual_seed(1)
    q = vectors("gaussian", 1, 64, generator).float().expand(queries, -1)
    p = vectors("ulps", 260, 64, generator).float()
    problem = Problem(q, [p], 3, "cosine", None, "raise", None)
    *matches, flags = search_with_flags(problem)
    assert_exact(tuple(matches), problem)
    assert flags[Flag.REPAIRED] == queries


def test_easy_queries_need_no_repair() -> None:
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors("gaussian", n, 64, generator).float() for n in (20, 1500))
    problem = Problem(q, [p], 2, "l2", None, "raise", 512)
    *matches, flags = search_with_flags(problem)
    assert_exact(tuple(matches), problem)
    assert flags.tolist() == [0, 0, 0]


@pytest.mark.parametrize("queries", [2, 17])
def test_nonfinite_rows_are_named_queries_first(queries: int) -> None:
    q, p = torch.ones(queries, 64), [torch.ones(30, 64), torch.ones(200, 64)]
    p[1][7, 2] = torch.inf
    p[1][150, 0] = torch.nan
    problem = Problem(q, p, 1, "dot", None, "raise", None)
    with pytest.raises(ValueError, match=r"prototypes must be finite.* rows 37, 180"):
        search_vectors(problem)
    q[1, 4] = -torch.inf
    with pytest.raises(ValueError, match=r"queries must be finite.* row 1"):
        search_vectors(problem)
    scores, indices = search_vectors(problem.replace(nonfinite="exclude"))
    assert scores[:, 0].tolist() == [64.0, -torch.inf] + [64.0] * (queries - 2)
    assert indices[:, 0].tolist() == [0, -1] + [0] * (queries - 2)


def test_a_tiny_workspace_only_cuts_the_search_smaller() -> None:
    generator = torch.Generator().manual_seed(3)
    q, p = (vectors("gaussian", n, 20, generator).float() for n in (150, 300))
    problem = Problem(q, [p], 1, "dot", None, "raise", None)
    plan = vectors_plan(problem, 300_000)
    assert plan.query_rows < len(q)
    assert plan.chunk_rows < len(p)
    assert_exact(search_vectors(problem, 300_000), problem)


def test_what_is_refused_has_a_reason() -> None:
    q = torch.ones(1, 2**18)
    assert float_search.why_not_vectors(q, Request(1024, "dot")) == ""
    assert float_search.why_not_vectors(q, Request(1025, "dot")) == "k above 1,024"
    wide = torch.ones(1, 2**18 + 1)
    assert float_search.why_not_vectors(wide, Request(1, "dot")) == "more than 262,144 channels"


def test_the_largest_list() -> None:
    """k = 1024 of 1100, and half of them masked for good."""
    generator = torch.Generator().manual_seed(2)
    q, p = (vectors("integers", n, 3, generator).float() for n in (1, 1100))
    for mask in (None, torch.rand(1, 1100, generator=generator) < 0.5):
        problem = Problem(q, [p], 1024, "dot", mask, "raise", 800)
        assert_exact(run(problem), problem)
