"""Searches in many rounds, whose entries are lost, on every path of every screen."""

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from by_triton import search_codes, search_with_flags
from coded import close, coded
from problems import METRICS, Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.contract import reference
from flashmatch.kernels.triton_backend import stages
from flashmatch.kernels.triton_backend.bank_search import LAYOUT as WHOLE_LAYOUT
from flashmatch.kernels.triton_backend.device.flags import Flag
from flashmatch.kernels.triton_backend.tiles import few_tile, int8_tiles, tf32_tile

pytestmark = pytest.mark.usefixtures("poisoned_empty", "small_pages")
LAYOUT = dataclasses.replace(WHOLE_LAYOUT, span=256)  # more pages, of two tiles
QUERIES = 2
SMALL_BLOCKS = dataclasses.replace(int8_tiles(64, 90)[0], block_q=16)  # of queries: interpreted
PLANS = {
    "tf32": {"few": True, "tf32": True, "tile": tf32_tile(False, 90)},
    "codes of few": {"few": True, "tf32": False, "tile": few_tile(90)},
    "codes": {"few": False, "tf32": False, "tile": SMALL_BLOCKS},
    "bank of few": {"few": True, "tf32": False, "tile": few_tile(90)},
    "bank": {"few": False, "tf32": False, "tile": SMALL_BLOCKS},
}
TIGHT = {"strips": 1, "capacity": 8, "growth": 1.0}
"""Many rounds, of which the first is of one tile for few queries, of eight for many."""
LOSSY = {"strips": 1, "capacity": 1, "growth": 1.0}
"""The same, where most entries are lost."""

every_screen = pytest.mark.parametrize("screen", PLANS)
screens = pytest.mark.parametrize("screen", ["tf32", "codes of few", "bank"])
"""Two screens; codes made in either way, for few queries and for many."""


def drawn(kind: str, rows: int, screen: str, queries: int = QUERIES) -> tuple[Tensor, Tensor]:
    channels = 64 if screen == "tf32" else 20
    generator = torch.Generator().manual_seed(4)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    return q, p


@pytest.fixture
def searched(planned) -> Callable[..., int]:
    """Search by a screen, in rounds as asked; the matches are right. How many were repaired."""

    def search(problem: Problem, screen: str, rounds: dict, **changes: object) -> int:
        with planned(**{**PLANS[screen], **rounds, **changes}):
            if screen.startswith("bank"):
                codes = coded(problem.prototypes, problem.metric, LAYOUT)
                found = search_codes(problem, codes)
                matches, repaired = found[:2], found.repaired
            else:
                best = search_with_flags(problem)
                matches, repaired = (best.scores, best.indices), best.flags[Flag.REPAIRED]
        assert_exact(matches, problem)
        return int(repaired)

    return search


@every_screen
@pytest.mark.parametrize(("k", "rows"), [(1, 1100), (130, 520)])
def test_thresholds_of_every_round_are_reached(
    k: int, rows: int, screen: str, searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By k prototypes, at the end of each round; and they are the k-th score in the end."""
    q, p = drawn("gaussian", rows, screen)
    kth = reference.scores(q, p, "dot").sort(descending=True).values[:, k - 1].float()
    seen, settle = [], stages.settle

    def watched(block, *args, **kwargs) -> None:
        settle(block, *args, **kwargs)
        seen.append(block.thresholds[:QUERIES].clone())

    monkeypatch.setattr(stages, "settle", watched)
    searched(Problem(q, [p], k, "dot"), screen, TIGHT | {"capacity": 8 if "few" in screen else 1})
    assert len(seen) >= 4
    assert all((thresholds <= kth).all() for thresholds in seen)
    assert all((after >= before).all() for before, after in pairwise(seen))
    assert torch.equal(seen[-1], kth)


@every_screen
@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows(metric: str, screen: str, searched) -> None:
    """No bound separates them, so that all are entries, which have no room."""
    q, p = drawn("gaussian", 270, screen, queries=1)
    problem = Problem(q, [p[:1].expand(270, -1)], 3, metric)
    assert searched(problem, screen, LOSSY) == 1


@screens
def test_duplicates_beyond_the_room(screen: str, searched) -> None:
    """Forty of the best row in different groups, where segments of 8 have room for some."""
    q, p = drawn("gaussian", 500, screen, queries=1)
    at = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:40]
    p[at] = 3 * q
    for k, rounds in ((1, LOSSY), (45, TIGHT)):
        searched(Problem(q, [p], k, "l2"), screen, rounds)


@screens
@pytest.mark.parametrize("metric", METRICS)
def test_sorted_rows(metric: str, screen: str, searched) -> None:
    """Every row is better than those before it, or worse."""
    _, p = drawn("sorted", 390, screen)
    q = torch.stack([p[-1], p[0]])
    for rows in (p, p.flip(0)):
        searched(Problem(q, [rows], 4, metric), screen, TIGHT)


@screens
@pytest.mark.parametrize("mask", ["rows", "pairs"])
def test_fewer_may_match_than_are_asked_for(mask: str, screen: str, searched) -> None:
    """No threshold is ever reached, and what is there is found all the same."""
    q, p = drawn("gaussian", 390, screen)
    p[33, 1] = torch.nan
    allowed = torch.zeros(QUERIES, 390, dtype=torch.bool)
    allowed[:, [3, 33, 131, 389]] = True
    allowed[1] = False
    allowed[0, 300:320] = True
    given = allowed if mask == "pairs" else allowed[0]
    for rounds in (TIGHT, LOSSY):
        searched(Problem(q, [p], 50, "dot", given, "exclude"), screen, rounds)


@screens
def test_all_scores_are_negative(screen: str, searched) -> None:
    q, p = drawn("gaussian", 520, screen)
    searched(Problem(q.abs(), [-p.abs()], 4, "dot"), screen, TIGHT)
    searched(Problem(q, [p + 100], 4, "l2"), screen, TIGHT)


@screens
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_masked_members(share: float, screen: str, searched) -> None:
    """The best rows are masked, and in groups with others that are not."""
    q, p = drawn("gaussian", 270, screen)
    p[::3] = q[0]
    pairs = torch.rand(QUERIES, 270, generator=torch.Generator().manual_seed(1)) < share
    pairs[:, ::3] &= torch.arange(0, 270, 3) % 2 == 0
    for mask in (pairs, pairs[0], pairs.T.contiguous().T):
        searched(Problem(q, [p], 5, "cosine", mask), screen, LOSSY)


@pytest.mark.parametrize(
    ("screen", "mask"), [*((screen, "pairs") for screen in PLANS), ("codes", "rows"), ("tf32", "")]
)
def test_chunks_and_blocks(screen: str, mask: str, searched) -> None:
    """What is found in one chunk is the start of the next, for each block of queries."""
    q, p = drawn("gaussian", 270, screen, queries=17)
    q[15, 4] = torch.inf
    p[261, 0] = torch.nan
    pairs = torch.rand(17, 270, generator=torch.Generator().manual_seed(1)) < 0.5
    given = {"": None, "rows": pairs[0], "pairs": pairs}[mask]
    problem = Problem(q, [p[:230], p[230:230], p[230:]], 2, "l2", given, "exclude", 140)
    searched(problem, screen, LOSSY, query_rows=16)


@screens
def test_more_are_asked_for_than_a_chunk_has(screen: str, searched) -> None:
    q, p = drawn("gaussian", 200, screen)
    for k, rounds in ((60, LOSSY), (150, TIGHT)):
        searched(Problem(q[:1], [p], k, "dot", chunk_rows=50), screen, rounds)


@screens
def test_the_order_of_entries_is_no_matter(
    screen: str, searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other strips would have it: entries of a query in any order."""
    q, p = drawn("integers", 400, screen)
    settle, shuffled = stages.settle, []

    def shuffling(block, run, entries, *args, **kwargs) -> None:
        plan = block.plan
        table = entries.entries[: block.padded * plan.segments * plan.capacity]
        table = table.view(block.padded, plan.segments, plan.capacity)
        counts = entries.counts[: block.padded * plan.segments].view(block.padded, plan.segments)
        for slot in range(block.count):
            for segment in range(plan.segments):
                part = table[slot, segment, : max(0, int(counts[slot, segment]))]
                part.copy_(part[torch.randperm(len(part))])
                shuffled.append(len(part) > 1)
        settle(block, run, entries, *args, **kwargs)

    monkeypatch.setattr(stages, "settle", shuffling)
    searched(Problem(q, [p], 9, "l2"), screen, {"strips": 2, "capacity": 32})
    assert any(shuffled)


@every_screen
def test_easy_queries_need_no_repair(screen: str, searched) -> None:
    """By the plan as it is chosen, in more than one round."""
    q, p = drawn("gaussian", 1500, screen, queries=2)
    p[:40] = torch.cat([q] * 20) + 0.1 * p[:40]
    room = {"strips": 1, "capacity": 16 if "few" in screen or screen == "tf32" else 8}
    assert searched(Problem(q, [p], 2, "dot"), screen, room) == 0


@pytest.mark.parametrize("screen", ["bank of few", "bank"])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_removed_rows(share: float, screen: str, planned) -> None:
    """What is removed never comes back, though its codes stay where they were."""
    generator = torch.Generator().manual_seed(1)
    q, p = drawn("gaussian", 300, screen)
    codes = coded([p], "dot", LAYOUT)
    present = torch.rand(300, generator=generator) < 0.7
    close(codes, present)
    pairs = torch.rand(QUERIES, 300, generator=generator) < share
    for mask in (pairs, pairs[0], pairs.T.contiguous().T, None):
        effective = present if mask is None else mask & present
        problem = Problem(q, [p], 5, "dot", mask)
        with planned(**{**PLANS[screen], **LOSSY}):
            found = search_codes(problem, codes)
        assert_exact(found[:2], problem.replace(mask=effective))
