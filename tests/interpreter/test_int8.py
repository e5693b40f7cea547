"""The Triton backend for a bank of codes, interpreted, against the oracle."""

import dataclasses

import pytest
import torch
from by_triton import codes_plan, prepared_codes, search_codes
from coded import close, coded
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract import reference
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.proofs import int8
from flashmatch.kernels.triton_backend import int8_search, launches
from flashmatch.kernels.triton_backend.plan import CodesPlan

pytestmark = pytest.mark.usefixtures("poisoned_empty")
LAYOUT = dataclasses.replace(int8_search.LAYOUT, span=256)  # more pages, of two tiles
ALL_PATHS = {"first": 1, "kept": 8, "strips": 1}  # rescored twice, and the rest is repaired


def run(problem: Problem, codes: Codes | None = None) -> Found:
    return search_codes(problem, codes or coded(problem.prototypes, problem.metric, LAYOUT))


def small(queries: int) -> st.SearchStrategy[Problem]:
    """Few enough queries to interpret."""

    def cut(problem: Problem) -> Problem:
        mask = problem.mask
        mask = mask if mask is None or mask.ndim == 1 else mask[:queries]
        return problem.replace(
            queries=problem.queries[:queries], mask=mask, k=min(problem.k, 40)
        )  # fmt: skip

    return problems(largest=200).map(cut).filter(lambda problem: problem.k > 0)


def replan(patch: pytest.MonkeyPatch, **changes: object) -> None:
    choose = int8_search.choose_codes_plan

    def chosen(*args, **kwargs) -> CodesPlan:
        return dataclasses.replace(choose(*args, **kwargs), **changes)

    patch.setattr(int8_search, "choose_codes_plan", chosen)


def drawn(
    kind: str, queries: int, rows: int, channels: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return q, p


@given(small(8))
def test_equals_the_oracle(problem: Problem) -> None:
    assert_exact(run(problem)[:2], problem)


@given(small(24))
def test_equals_the_oracle_on_every_path(problem: Problem) -> None:
    with pytest.MonkeyPatch.context() as patch:
        replan(patch, **ALL_PATHS, chunk_pages=1)
        assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str) -> None:
    q, p = drawn(kind, 3, 300, 70)
    problem = Problem(q, [p], 2, metric, None, "raise", None)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize(("queries", "rows", "channels", "k"), [(1, 1, 1, 1), (17, 129, 3, 129)])
def test_awkward_shapes(queries: int, rows: int, channels: int, k: int) -> None:
    q, p = drawn("integers", queries, rows, channels)
    for metric in METRICS:
        problem = Problem(q, [p], k, metric, None, "raise", None)
        assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("queries", [2, 17])
def test_repair_happens(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near-duplicates everywhere: no bound separates them, so kept groups cannot be proof."""
    replan(monkeypatch, first=3, kept=5)
    _, p = drawn("ulps", 1, 260, 64)
    q = p[:1].expand(queries, -1)
    for rows in (p, p[:1].expand(260, -1)):
        problem = Problem(q, [rows], 3, "cosine", None, "raise", None)
        found = run(problem)
        assert_exact(found[:2], problem)
        assert found.repaired == queries


def test_easy_queries_need_no_repair() -> None:
    q, p = drawn("gaussian", 2, 9000, 64)
    p[:40] = torch.cat([q] * 20) + 0.1 * p[:40]
    for metric in METRICS:
        problem = Problem(q, [p], 2, metric, None, "raise", None)
        found = search_codes(problem)
        assert_exact(found[:2], problem)
        assert found.repaired == 0


def test_heavy_coordinates_are_rotated_away() -> None:
    q, p = drawn("gaussian", 3, 700, 100)
    q[:, 7] *= 100
    p[:, 7] *= 100
    for metric in METRICS:
        codes = coded([p], metric, LAYOUT)
        assert codes.frame.rotation
        problem = Problem(q, [p], 5, metric, None, "raise", None)
        assert_exact(run(problem, codes)[:2], problem)


def test_all_scores_negative() -> None:
    q, p = drawn("gaussian", 3, 300, 40)
    problem = Problem(q.abs(), [-p.abs()], 4, "dot", None, "raise", None)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_masks_and_removed_rows(
    share: float, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed never comes back, though its codes stay where they were."""
    replan(monkeypatch, **ALL_PATHS)
    generator = torch.Generator().manual_seed(1)
    q, p = drawn("gaussian", queries, 300, 30)
    codes = coded([p], "dot", LAYOUT)
    present = torch.rand(300, generator=generator) < 0.7
    close(codes, present)
    pairs = torch.rand(queries, 300, generator=generator) < share
    for mask in (pairs, pairs[0], pairs.T.contiguous().T, None):
        effective = present if mask is None else mask & present
        problem = Problem(q, [p], 5, "dot", mask, "raise", None)
        assert_exact(run(problem, codes)[:2], problem.replace(mask=effective))


@pytest.mark.parametrize("queries", [3, 17])
def test_words_of_pairs_are_written_for_padding_too(queries: int) -> None:
    """Scans read the words of whole tiles of queries."""
    q, p = drawn("gaussian", queries, 300, 30)
    codes, mask = coded([p], "dot", LAYOUT), torch.ones(queries, 300, dtype=torch.bool)
    problem = Problem(q, [p], 5, "dot", mask, "raise", None)
    block, found = prepared_codes(problem, codes, codes_plan(problem, codes))
    bounds = block.terms.new_empty((len(block.codes), len(found.group_terms)))
    words = launches.pack_mask(block, found.originals, bounds)
    assert words.data_ptr() == bounds.data_ptr()
    assert (words[:queries] == 2**LAYOUT.group - 1).any()
    assert not words[queries:].any()


@pytest.mark.parametrize("sizes", [(600, 40), (256, 256, 128), (10, 9, 0, 600, 21)])
def test_chunks_of_originals(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that lie across chunks, and chunks of other dtypes."""
    monkeypatch.setattr(int8_search, "STRADDLING_PAGES", 1)
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
        for pages, originals in int8_search.page_runs(rows, codes, most):
            assert pages.start == page
            assert page < pages.stop <= page + most
            page = pages.stop
            expected = rows.span(pages.start * 256, min(page * 256, codes.count), codes.device)
            assert torch.equal(originals, expected)
        assert page == codes.pages


def test_a_tiny_workspace_only_cuts_the_search_smaller() -> None:
    q, p = drawn("gaussian", 130, 260, 20)
    codes = coded([p], "dot", LAYOUT)
    problem = Problem(q, [p], 1, "dot", None, "raise", None)
    plan = codes_plan(problem, codes, 100_000)
    assert plan.query_rows < len(q)
    assert plan.chunk_pages < codes.pages
    assert_exact(search_codes(problem, codes, 100_000)[:2], problem)


@pytest.mark.parametrize("queries", [2, 17])
def test_bad_queries_match_nothing(queries: int) -> None:
    q, p = drawn("gaussian", queries, 130, 5)
    q[1, 4] = torch.nan
    problem = Problem(q, [p], 1, "dot", None, "exclude", None)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("queries", [3, 17])
@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_those_of_the_twin(metric: str, queries: int) -> None:
    q, p = drawn("offset", queries, 300, 70)
    p[5] *= 1e25
    mask = torch.rand(queries, 300, generator=torch.Generator().manual_seed(2)) < 0.05
    codes = coded([p], metric, LAYOUT)
    problem = Problem(q, [p], 1, metric, mask, "raise", None)
    block, run = prepared_codes(problem, codes, codes_plan(problem, codes))
    bounds = int8_search.scan_run(block, run)[:queries]

    slots = codes.rows_at(torch.arange(384)).clamp(max=299)  # the tiles in use
    products = (block.codes[:queries].long() @ codes.codes[:384].long().T).int()
    allowed = mask[:, slots] & ~codes.unmatchable[:384]
    exact = reference.scores(q, p, metric)[:, slots].masked_fill(~allowed, -torch.inf)
    products = products.masked_fill(~allowed, int8.LOWEST)
    maxima, best = (x.view(queries, -1, 16, 8).amax(2).flatten(1) for x in (products, exact))
    twin = int8.group_upper_bounds(block.terms[:, :queries], codes.bounds[:24], maxima, metric)
    assert torch.allclose(bounds, twin, rtol=2**-18)
    assert (bounds >= best).all()
    assert torch.equal(bounds.isneginf(), best.isneginf())
    assert metric == "cosine" or bounds.isposinf().any()
