"""The Triton backend, interpreted, against the oracle."""

import pytest
import torch
from by_triton import search_vectors, search_whole, search_with_flags, vectors_plan
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import vector_search
from flashmatch.kernels.triton_backend.tiles import few_tile

pytestmark = pytest.mark.usefixtures("poisoned_empty", "small_pages")


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    """As the door calls it, which has answered k = 0 already. Interpreted chunks cost much time."""
    smallest = max(1, problem.rows // 3)
    chunk_rows = problem.chunk_rows and max(problem.chunk_rows, smallest)
    return search_vectors(problem.replace(chunk_rows=chunk_rows))


def small() -> st.SearchStrategy[Problem]:
    return problems(largest=60).map(
        lambda problem: problem.replace(k=min(problem.k, 9))
    ).filter(lambda problem: problem.k > 0)  # fmt: skip


def whole_tiles(problem: Problem) -> Problem:
    """The same problem, as wide and as contiguous as the TF32 screen wants it."""
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


@given(small())
def test_codes_in_passing_equal_the_oracle(problem: Problem) -> None:
    """Fp64 alone is what no screen reads as it is: drawn problems have it and odd widths."""
    problem = first_queries(problem, 6)
    assert_exact(run(problem), problem)


@given(small())
def test_tf32_equals_the_oracle(problem: Problem) -> None:
    problem = first_queries(whole_tiles(problem), 6)
    assert vectors_plan(problem).tf32
    assert_exact(run(problem), problem)


@given(problem=small(), is_tf32=st.booleans())
def test_equals_the_oracle_when_most_entries_are_lost(
    problem: Problem, is_tf32: bool, planned
) -> None:
    """And in many rounds, of which the first has a tile."""
    problem = first_queries(whole_tiles(problem) if is_tf32 else problem, 3)
    with planned(strips=1, capacity=1, growth=1.0):
        assert_exact(run(problem), problem)


@given(problem=small(), at=st.integers(1, 2))
def test_same_bits_for_every_screen_chunking_and_batching(
    problem: Problem, at: int, planned
) -> None:
    problem = first_queries(whole_tiles(problem), 3).replace(chunk_rows=None)
    scores, indices = run(problem)
    with planned(tf32=False, tile=few_tile(90)):
        others = [run(problem)]
    others.append(run(problem.replace(chunk_rows=1)))
    for found in others:
        assert torch.equal(found[0], scores)
        assert torch.equal(found[1], indices)
    part = run(first_queries(problem, at))
    assert torch.equal(part[0], scores[:at])
    assert torch.equal(part[1], indices[:at])


@pytest.mark.parametrize("channels", [64, 70])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str, channels: int) -> None:
    """Read in TF32, and coded in passing."""
    generator = torch.Generator().manual_seed(7)
    q = vectors(kind, 2, channels, generator).float()
    p = vectors(kind, 140, channels, generator).float()
    problem = Problem(q, [p], 2, metric, None, "raise", None)
    assert vectors_plan(problem).tf32 == (channels == 64)
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("metric", METRICS)
def test_many_queries(metric: str) -> None:
    generator = torch.Generator().manual_seed(7)
    q, p = (vectors("duplicates", n, 64, generator).float() for n in (17, 130))
    p[3] *= 1e25
    problem = Problem(q, [p], 1, metric, None, "raise", None)
    assert not vectors_plan(problem).few
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("channels", [64, 20])
def test_easy_queries_need_no_repair(channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors("gaussian", n, channels, generator).float() for n in (3, 700))
    problem = Problem(q, [p], 2, "l2", None, "raise", 512)
    best = search_with_flags(problem)
    assert_exact((best.scores, best.indices), problem)
    assert best.flags.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("queries", "channels"), [(2, 64), (2, 20), (17, 64)])
def test_nonfinite_rows_are_named_queries_first(queries: int, channels: int) -> None:
    """Whether they may match or not."""
    q, p = torch.ones(queries, channels), [torch.ones(4, channels), torch.ones(30, channels)]
    p[1][7, 2] = torch.inf
    p[1][19, 0] = torch.nan
    mask = torch.arange(34) < 3
    problem = Problem(q, p, 1, "dot", mask, "raise", None)
    with pytest.raises(ValueError, match=r"prototypes must be finite.* rows 11, 23"):
        search_vectors(problem)
    q[1, 4] = -torch.inf
    with pytest.raises(ValueError, match=r"queries must be finite.* row 1"):
        search_vectors(problem)
    scores, indices = search_vectors(problem.replace(nonfinite="exclude", mask=None))
    assert scores[:, 0].tolist() == [channels, -torch.inf] + [channels] * (queries - 2)
    assert indices[:, 0].tolist() == [0, -1] + [0] * (queries - 2)


def test_what_is_refused_has_a_reason() -> None:
    q = torch.ones(1, 2**15)
    assert vector_search.why_not_vectors(q, Request(2048, "dot")) == ""
    assert vector_search.why_not_vectors(q, Request(2049, "dot")) == "k above 2,048"
    wide = torch.ones(1, 2**15 + 1)
    assert vector_search.why_not_vectors(wide, Request(1, "dot")) == "more than 32,768 channels"


@pytest.mark.parametrize("channels", [2**15, 2_049])
def test_wide_vectors(channels: int) -> None:
    """In TF32, and in codes."""
    generator = torch.Generator().manual_seed(2)
    q, p = (torch.rand(n, channels, generator=generator) for n in (1, 9))
    problem = Problem(q, [p], 3, "dot", None, "raise", None)
    assert vectors_plan(problem).tf32 == (channels % 64 == 0)
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("channels", [64, 3])
def test_long_lists(channels: int) -> None:
    """k = 400 of 600, and half of them masked for good."""
    generator = torch.Generator().manual_seed(2)
    q, p = (vectors("integers", n, channels, generator).float() for n in (1, 600))
    mask = torch.rand(1, 600, generator=generator) < 0.5
    problem = Problem(q, [p], 400, "dot", mask, "raise", 400)
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_prototypes_of_several_dtypes(metric: str, dtype: torch.dtype) -> None:
    """TF32 reads halves and fp32 side by side, which is coded where one of them is fp64."""
    generator = torch.Generator().manual_seed(6)
    q, p = (vectors("gaussian", n, 64, generator).float() for n in (2, 150))
    problem = Problem(q, [p[:90].to(dtype), p[90:]], 4, metric, None, "raise", None)
    plan = vectors_plan(problem)
    assert plan.tf32 == (dtype != torch.float64)
    assert not plan.half
    assert vectors_plan(problem.replace(prototypes=problem.prototypes[:1])).half == plan.tf32
    assert_exact(run(problem), problem)


@pytest.mark.parametrize(
    "given",
    [
        lambda p: p.T.contiguous().T,  # channels apart
        lambda p: torch.cat([p, p], 1)[:, 1:65],  # not on 16 bytes
        lambda p: torch.cat([p, p[:, :3]], 1)[:, :64],  # rows apart by no multiple of 16
        lambda p: p.double(),
        lambda p: p[:, :63],
    ],
)
def test_what_tf32_cannot_read_is_coded(given) -> None:
    generator = torch.Generator().manual_seed(6)
    p = given(vectors("gaussian", 140, 64, generator).float())
    q = p[[3, 77]].float() + 0.1
    problem = Problem(q, [p], 4, "cosine", None, "raise", None)
    plan = vectors_plan(problem)
    assert plan.few
    assert not plan.tf32
    assert_exact(run(problem), problem)


@given(small())
def test_each_prototype_scored_equals_the_oracle(problem: Problem) -> None:
    """Where launches are what a search costs: all of one tensor, and nothing is screened."""
    p = max(problem.prototypes, key=len)
    mask = None if problem.mask is None else problem.mask[..., : len(p)]
    problem = problem.replace(prototypes=[p], mask=mask, chunk_rows=None, k=min(problem.k, len(p)))
    problem = first_queries(problem, 12)
    best = search_whole(problem)
    if not best.flags.any() or problem.nonfinite == "exclude":
        assert_exact((best.scores, best.indices), problem)
    finite = [x.double().norm(dim=1).isfinite().all() for x in (problem.queries, p)]
    assert best.flags[0] == (not finite[0])
    if finite[0]:
        assert best.flags[1] == (not finite[1])
