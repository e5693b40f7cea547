"""Where proofs of the Triton backend end: infinite scores, underflow, rows that are not there."""

import dataclasses
import random

import pytest
import torch
from by_triton import search_codes, search_vectors
from coded import coded
from problems import METRICS, Problem, assert_exact
from torch import Tensor

from flashmatch.kernels.storage.coder import Coder
from flashmatch.kernels.storage.collection import Collection
from flashmatch.kernels.triton_backend import int8_search

pytestmark = pytest.mark.usefixtures("poisoned_empty")
LAYOUT = dataclasses.replace(int8_search.LAYOUT, span=256)


def beyond(queries: int, rows: int) -> tuple[Tensor, Tensor]:
    """Of which the first five score inf, or -inf by l2."""
    generator = torch.Generator().manual_seed(0)
    q, p = (
        torch.randn(queries, 20, generator=generator).abs(),
        torch.randn(rows, 20, generator=generator),
    )
    p[:5] = p[:5].abs() * 1e30
    q[1] *= 1e12
    return q, p


@pytest.mark.parametrize("k", [2, 7])
@pytest.mark.parametrize("metric", METRICS)
def test_infinite_scores(metric: str, k: int) -> None:
    q, p = beyond(3, 300)
    problem = Problem(q, [p], k, metric, None, "raise", 128)
    assert_exact(search_vectors(problem), problem)


@pytest.mark.parametrize("metric", METRICS)
def test_infinite_scores_of_codes(metric: str) -> None:
    q, p = beyond(3, 300)
    p = p.clamp(max=1e17)
    q[1] = 1e25
    problem = Problem(q, [p], 3, metric, None, "raise", None)
    codes = coded([p], metric, LAYOUT)
    assert_exact(search_codes(problem, codes)[:2], problem)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_whose_squares_underflow(metric: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 20, generator=generator).double() * 2.0**-540
    p = torch.randn(300, 20, generator=generator).double() * 2.0**500
    q[2] = 0
    problem = Problem(q, [p], 4, metric, None, "raise", 128)
    assert_exact(search_vectors(problem), problem)


@pytest.mark.parametrize("value", [-1, -32768, 32767, 255])
def test_no_row_is_read_that_is_not_there(value: int) -> None:
    """Whatever row_in_page says: rows before the first and behind the last hold what would win."""
    everything = torch.full((900, 8), 1e9)
    rows = everything[300:550]
    rows.copy_(torch.randn(250, 8, generator=torch.Generator().manual_seed(0)))
    problem = Problem(torch.ones(2, 8), [rows], 3, "dot", None, "raise", None)
    codes = coded([rows.clone()], "dot", LAYOUT)
    codes.row_in_page[random.Random(0).sample(range(256), 100)] = value
    scores, indices, *_ = search_codes(problem, codes)
    assert (indices < 250).all()
    assert scores.max() < 1e9


@pytest.mark.parametrize("metric", METRICS)
def test_codes_in_two_parts(metric: str) -> None:
    """As an addition leaves them: whole pages, and behind them the last one."""
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(n, 20, generator=generator) for n in (2300, 150))
    empty = Collection(20, torch.float32, torch.device("cpu"))
    first = empty.appended([old], torch.arange(2300))
    layout = dataclasses.replace(LAYOUT, span=1024)
    first, coder = Coder(metric, "int8", layout).coded(first, 0, False, False)
    both = first.appended([new], torch.arange(2300, 2450))
    both, coder = coder.coded(both, 2300, True, False)
    assert coder.codes is not None
    assert [(part.first_row, part.count) for part in coder.codes.parts] == [(0, 2048), (2048, 402)]
    q = torch.cat([new[:2], old[2100:2101], old[:1]])
    for mask in (None, torch.rand(4, 2450, generator=generator) < 0.7):
        problem = Problem(q, [old, new], 3, metric, mask, "raise", None)
        assert_exact(search_codes(problem, coder.codes)[:2], problem)
