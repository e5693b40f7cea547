"""The contract of topk, against the oracle, on whatever device tensors are made on."""

from collections.abc import Iterator

import pytest
import torch
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, assert_exact, vectors
from screens import ONE_PASS, search_in_general, search_in_one_pass

from flashmatch import topk
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.products import choice
from flashmatch.kernels.torch_backend import int8_search, plan
from flashmatch.kernels.torch_backend.cpu import shares

pytestmark = pytest.mark.usefixtures("poisoned_empty")


CODES = choice.codes_in_passing("cpu")
IN_GENERAL = ["screened", "coded", "whole"]
IN_ONE_PASS = [f"one pass, {way}" for way in ONE_PASS]


@pytest.fixture(params=[*IN_GENERAL, *IN_ONE_PASS], scope="module", autouse=True)
def route(request: pytest.FixtureRequest) -> Iterator[str]:
    """Small problems are scored as a whole unless told otherwise; every route must be exact."""
    patch = pytest.MonkeyPatch()
    if request.param in IN_GENERAL:
        search_in_general(patch)
    else:
        search_in_one_pass(patch, request.param.removeprefix("one pass, "))
    patch.setattr(plan, "WHOLE_ELEMENTS", 1 << 40 if request.param == "whole" else 0)
    if request.param == "coded":
        patch.setattr(plan, "coding_pays", lambda queries, rows, channels: True)
        patch.setattr(plan, "CODES_ROWS", 1)
        patch.setattr(plan, "CODED_SPAN", 32)
        patch.setattr(int8_search, "LAYOUT", Layout(32, 4, width_multiple=4))
    yield request.param
    patch.undo()


def plain(kind: str, queries: int, rows: int, channels: int, k: int, metric: str) -> Problem:
    generator = torch.Generator().manual_seed(7)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return Problem(q, [p], k, metric)


def run(problem: Problem, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    options = problem.options() | changes
    return topk(problem.queries, problem.prototypes, problem.k, **options)


def test_the_route_is_taken(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for module, name in ((int8_search, "search_while_coding"), (shares, "search")):
        body = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=body: taken.append(f.__name__) or f(*a))
    run(plain("gaussian", 9, 2000, 24, 5, "cosine"))
    in_one_pass = ["search"] if route in IN_ONE_PASS else []
    assert taken == (["search_while_coding"] if route == "coded" and CODES else in_one_pass)


@given(problems())
def test_equals_the_oracle(problem: Problem) -> None:
    assert_exact(run(problem), problem)


@given(problems(), st.integers(1, 50), st.integers(1, 50))
def test_same_bits_for_every_chunking_and_batching(
    problem: Problem, chunk_rows: int, at: int
) -> None:
    expected = run(problem, chunk_rows=None)
    assert all(map(torch.equal, run(problem, chunk_rows=chunk_rows), expected))
    wide = torch.float64 if problem.prototypes[0].dtype == torch.float64 else None
    joined = torch.cat([p.to(wide or p.dtype) for p in problem.prototypes])
    if all(p.dtype == joined.dtype for p in problem.prototypes):
        assert all(map(torch.equal, run(problem.replace(prototypes=[joined])), expected))
    parts = [
        run(problem.replace(queries=q, mask=m))
        for q, m in zip(
            problem.queries.split(at),
            problem.mask.split(at)
            if problem.mask is not None and problem.mask.ndim == 2
            else [problem.mask] * len(problem.queries),
            strict=False,
        )
    ]
    assert torch.equal(torch.cat([p.scores for p in parts]), expected.scores)
    assert torch.equal(torch.cat([p.indices for p in parts]), expected.indices)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_prototypes(kind: str, metric: str) -> None:
    """Enough rows for groups, several chunks, a rising threshold and a crowded pool."""
    problem = plain(kind, 33, 9001, 24, 10, metric).replace(chunk_rows=2048)
    assert_exact(run(problem), problem)


@pytest.mark.parametrize("k", [1, 63, 64, 65, 999, 1000])
def test_every_k_up_to_all(k: int) -> None:
    problem = plain("duplicates", 5, 1000, 9, k, "cosine")
    assert_exact(run(problem), problem)


def test_ties_come_lowest_index_first() -> None:
    prototypes = torch.ones(500, 3)
    assert topk(torch.ones(2, 3), prototypes, 7).indices.tolist() == [list(range(7))] * 2


def test_no_queries_and_no_prototypes() -> None:
    scores, indices = topk(torch.empty(0, 4), torch.ones(3, 4), 2)
    assert scores.shape == indices.shape == (0, 2)
    scores, indices = topk(torch.ones(2, 4), torch.empty(0, 4), 0)
    assert scores.shape == indices.shape == (2, 0)


def test_a_mask_may_leave_nothing() -> None:
    scores, indices = topk(torch.ones(2, 4), torch.ones(5, 4), 3, mask=torch.zeros(5) > 0)
    assert scores.tolist() == [[-torch.inf] * 3] * 2
    assert indices.tolist() == [[-1] * 3] * 2


def test_cosine_of_a_zero_vector_is_zero() -> None:
    scores, _ = topk(torch.zeros(1, 4), torch.randn(5, 4), 5)
    assert scores.tolist() == [[0.0] * 5]


def test_scores_beyond_fp32_are_infinite_and_keep_index_order() -> None:
    prototypes = torch.full((4, 2), 1e30)
    scores, indices = topk(torch.full((1, 2), 1e30), prototypes, 4, metric="dot")
    assert scores.tolist() == [[torch.inf] * 4]
    assert indices.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_exact_whatever_matmul_precision_is_allowed(precision: str) -> None:
    problem = plain("gaussian", 40, 3000, 256, 9, "dot")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert_exact(run(problem), problem)
    finally:
        torch.set_float32_matmul_precision(before)


def test_exact_under_autocast_and_inference_mode() -> None:
    problem = plain("gaussian", 20, 3000, 64, 9, "cosine")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_exact(run(problem), problem)
    with torch.inference_mode():
        assert_exact(run(problem), problem)


def test_inputs_are_left_alone() -> None:
    problem = plain("gaussian", 3, 2000, 8, 5, "cosine")
    queries, prototypes = problem.queries, problem.prototypes[0]
    prototypes[5] = torch.nan
    before = queries.clone(), prototypes.clone()
    topk(queries, prototypes, 5, nonfinite="exclude", mask=torch.ones(2000) > 0)
    assert torch.equal(queries, before[0])
    assert torch.equal(prototypes.nan_to_num(), before[1].nan_to_num())


def test_many_small_chunks_of_mixed_dtypes() -> None:
    generator = torch.Generator().manual_seed(5)
    queries, rows = (vectors("gaussian", n, 16, generator) for n in (6, 1500))
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    chunks = [part.to(dtypes[i % 4]) for i, part in enumerate(rows.split(3))]
    problem = Problem(queries.float(), chunks, 20, "dot")
    assert_exact(run(problem), problem)
