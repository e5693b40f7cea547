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
from flashmatch.kernels.proofs import int8, int8_scan
from flashmatch.kernels.triton_backend import int8_search
from flashmatch.kernels.triton_backend.rounds import CodesPlan

pytestmark = pytest.mark.usefixtures("poisoned_empty")
LAYOUT = dataclasses.replace(int8_search.LAYOUT, span=256)  # more pages, of two tiles
ALL_PATHS = {"strips": 1, "capacity": 1}  # many rounds, and most entries are lost


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
    """Near-duplicates everywhere: no bound separates them, so entries are lost, time and again."""
    replan(monkeypatch, **ALL_PATHS)
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
    words = int8_search.words_of(block, found)
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
def test_entries_are_those_of_the_twin(metric: str, queries: int) -> None:
    q, p = drawn("offset", queries, 300, 70)
    p[5] *= 1e25
    mask = torch.rand(queries, 300, generator=torch.Generator().manual_seed(2)) < 0.05
    codes = coded([p], metric, LAYOUT)
    problem = Problem(q, [p], 1, metric, mask, "raise", None)
    block, run = prepared_codes(problem, codes, codes_plan(problem, codes))
    slots = codes.rows_at(torch.arange(384)).clamp(max=299)  # the tiles in use
    products = (block.codes[:queries].long() @ codes.codes[:384].long().T).int()
    allowed = mask[:, slots] & ~codes.unmatchable[:384]
    exact = reference.scores(q, p, metric)[:, slots].masked_fill(~allowed, -torch.inf)
    products = products.masked_fill(~allowed, int8.LOWEST)
    maxima, best = (x.view(queries, -1, 16, 8).amax(2).flatten(1) for x in (products, exact))
    finite = best.where(best.isfinite(), -1e30)
    for threshold in (finite.amax(1).float(), finite.median(1).values.float()):
        block.thresholds[:queries] = threshold
        found = appended(block, run)[:queries]
        least = int8_scan.scan_thresholds(
            block.terms[:, :queries], codes.scan_terms[:24], threshold, metric
        )
        assert torch.equal(found, maxima.long().where(maxima.float() >= least, int8.LOWEST))
        assert (found > int8.LOWEST)[best.float() >= threshold[:, None]].all()


def appended(block: int8_search.Int8Block, run: int8_search.Run) -> Tensor:
    """(Qpad, groups) int64: the product of each entry of a scan; LOWEST where there is none."""
    entries, plan = block.entries(), block.plan
    words = int8_search.words_of(block, run)
    int8_search.append(block, run, words, entries, 0, len(run.codes) // plan.tile.block_p)
    counts = entries.counts.view(-1, plan.segments, 1)
    assert counts.max() <= plan.capacity
    there = (torch.arange(plan.capacity) < counts).flatten(1)
    found = entries.entries.view(len(there), -1)
    table = torch.full((len(there), len(run.words) + 1), int8.LOWEST, dtype=torch.int64)
    table.scatter_(1, (found & 0xFFFFFFFF).where(there, len(run.words)), found >> 32)
    return table[:, :-1]


@pytest.mark.parametrize("k", [1, 40, 300])
def test_thresholds_of_every_round_are_reached(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By k prototypes, at the end of each round; and they are the k-th score in the end."""
    replan(monkeypatch, strips=1, capacity=1, growth=1.0)
    q, p = drawn("gaussian", 3, 1500, 20)
    kth = reference.scores(q, p, "dot").sort(descending=True).values[:, k - 1].float()
    seen, settle = [], int8_search.settle

    def watched(block, *args, **kwargs) -> None:
        settle(block, *args, **kwargs)
        seen.append(block.thresholds[:3].clone())

    monkeypatch.setattr(int8_search, "settle", watched)
    problem = Problem(q, [p], k, "dot", None, "raise", None)
    assert_exact(search_codes(problem)[:2], problem)
    assert len(seen) > 4
    assert all((thresholds <= kth).all() for thresholds in seen)
    assert torch.equal(seen[-1], kth)


def test_the_order_of_entries_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As atomics or other strips would have it: entries of a query in any order."""
    q, p = drawn("integers", 3, 700, 6)
    problem = Problem(q, [p], 9, "l2", None, "raise", None)
    settle = int8_search.settle

    def shuffled(block, run, entries, *args, **kwargs) -> None:
        plan = block.plan
        table = entries.entries.view(len(block.codes), plan.segments, plan.capacity)
        counts = entries.counts.view(len(block.codes), plan.segments)
        for slot in range(block.count):
            for segment in range(plan.segments):
                count = min(int(counts[slot, segment]), plan.capacity)
                part = table[slot, segment, :count]
                part.copy_(part[torch.randperm(count)])
        settle(block, run, entries, *args, **kwargs)

    monkeypatch.setattr(int8_search, "settle", shuffled)
    assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("channels", [8_320, 8_384])
def test_many_channels(channels: int) -> None:
    """Products of more than 8,320 channels fill 28 bits."""
    q, p = drawn("gaussian", 2, 140, channels)
    problem = Problem(q, [p], 3, "cosine", None, "raise", None)
    assert_exact(run(problem)[:2], problem)
