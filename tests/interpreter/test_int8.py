"""The Triton backend for a bank of codes, interpreted, against the oracle."""

import dataclasses

import pytest
import torch
from by_triton import codes_plan, search_codes
from coded import coded
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.triton_backend import bank_search

pytestmark = pytest.mark.usefixtures("poisoned_empty")
LAYOUT = dataclasses.replace(bank_search.LAYOUT, span=256)  # more pages, of two tiles
ALL_PATHS = {"strips": 1, "capacity": 1, "chunk_rows": 256}  # many rounds, of lost entries


def run(problem: Problem, codes: Codes | None = None) -> Found:
    return search_codes(problem, codes or coded(problem.prototypes, problem.metric, LAYOUT))


def small(queries: int, k: int = 40) -> st.SearchStrategy[Problem]:
    """Few enough queries to interpret, and of lists no longer than k."""

    def cut(problem: Problem) -> Problem:
        mask = problem.mask
        mask = mask if mask is None or mask.ndim == 1 else mask[:queries]
        return problem.replace(
            queries=problem.queries[:queries], mask=mask, k=min(problem.k, k)
        )  # fmt: skip

    return problems(largest=120).map(cut).filter(lambda problem: problem.k > 0)


def drawn(
    kind: str, queries: int, rows: int, channels: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return q, p


@given(small(4))
def test_equals_the_oracle(problem: Problem) -> None:
    assert_exact(run(problem)[:2], problem)


@given(problem=small(18, k=5))
def test_equals_the_oracle_on_every_path(problem: Problem, planned) -> None:
    with planned(**ALL_PATHS):
        assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str) -> None:
    q, p = drawn(kind, 2, 200, 70)
    problem = Problem(q, [p], 2, metric, None, "raise", None)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize(("queries", "rows", "channels", "k"), [(1, 1, 1, 1), (2, 129, 3, 129)])
def test_awkward_shapes(queries: int, rows: int, channels: int, k: int) -> None:
    q, p = drawn("integers", queries, rows, channels)
    for metric in METRICS if rows == 1 else ("l2",):
        problem = Problem(q, [p], k, metric, None, "raise", None)
        assert_exact(run(problem)[:2], problem)


def test_heavy_coordinates_are_rotated_away() -> None:
    q, p = drawn("gaussian", 3, 700, 100)
    q[:, 7] *= 100
    p[:, 7] *= 100
    for metric in METRICS:
        codes = coded([p], metric, LAYOUT)
        assert codes.frame.rotation
        problem = Problem(q, [p], 5, metric, None, "raise", None)
        assert_exact(run(problem, codes)[:2], problem)


@pytest.mark.parametrize("sizes", [(600, 40), (256, 256, 128), (10, 9, 0, 600, 21)])
def test_chunks_of_originals(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that lie across chunks, and chunks of other dtypes."""
    monkeypatch.setattr(bank_search, "STRADDLING_PAGES", 1)
    q, p = drawn("gaussian", 2, 640, 20)
    dtypes = [torch.float32, torch.float64, torch.float16]
    chunks = [x.to(dtypes[i % 3]) for i, x in enumerate(p.split(list(sizes)))]
    problem = Problem(q, chunks, 6, "l2", None, "raise", None)
    assert_exact(run(problem)[:2], problem)


def test_runs_cover_every_page_once() -> None:
    rows = Rows([torch.ones(n, 2) * n for n in (5, 0, 251, 600, 40, 1, 1400)])
    codes = coded(rows.chunks, "dot", LAYOUT)
    for most in (1, 2, 100):
        page = 0
        for pages, originals in bank_search.page_runs(rows, codes, most):
            assert pages.start == page
            assert page < pages.stop <= page + most
            page = pages.stop
            expected = rows.span(pages.start * 256, min(page * 256, codes.count), codes.device)
            assert torch.equal(originals, expected)
        assert page == codes.pages


def test_a_tiny_workspace_only_cuts_the_search_smaller() -> None:
    q, p = drawn("gaussian", 130, 260, 20)
    codes = coded([p], "dot", LAYOUT)
    mask = torch.arange(260) % 30 == 0  # of few prototypes, so that this takes less long
    problem = Problem(q, [p], 1, "dot", mask, "raise", None)
    plan = codes_plan(problem, codes, 100_000)
    assert plan.query_rows < len(q)
    assert plan.chunk_rows < len(p)
    assert_exact(search_codes(problem, codes, 100_000)[:2], problem)


@pytest.mark.parametrize("queries", [2, 17])
def test_bad_queries_match_nothing(queries: int) -> None:
    q, p = drawn("gaussian", queries, 130, 5)
    q[1, 4] = torch.nan
    problem = Problem(q, [p], 1, "dot", None, "exclude", None)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("channels", [8_320, 8_384])
def test_many_channels(channels: int) -> None:
    """Products of more than 8,320 channels fill 28 bits."""
    q, p = drawn("gaussian", 1, 130, channels)
    problem = Problem(q, [p], 3, "cosine", None, "raise", None)
    assert_exact(run(problem)[:2], problem)
