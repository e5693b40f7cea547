"""Where proofs of the Triton backend end: infinite scores, underflow, rows that are not there."""

import dataclasses
import random

import pytest
import torch
from by_triton import search_codes, search_vectors, search_whole
from coded import coded
from problems import METRICS, Problem, assert_exact
from torch import Tensor

from flashmatch.kernels.storage.coder import Coder
from flashmatch.kernels.storage.collection import Collection
from flashmatch.kernels.triton_backend import bank_search
from flashmatch.kernels.triton_backend.tiles import few_tile, int8_tiles, tf32_tile

pytestmark = pytest.mark.usefixtures("poisoned_empty", "small_pages")
LAYOUT = dataclasses.replace(bank_search.LAYOUT, span=256)
SMALL_BLOCKS = dataclasses.replace(
    int8_tiles(64, 90)[0], block_q=16
)  # queries of padding take time


SEARCHES = ["whole", "tf32", "codes of few", "codes"]


def searched(search: str, problem: Problem, planned) -> tuple[Tensor, Tensor]:
    """One of them, by the same prototypes, whole or in chunks of 128."""
    if search == "whole":
        best = search_whole(problem)
        return best.scores, best.indices
    tile = {"tf32": tf32_tile(False, 90), "codes of few": few_tile(90)}.get(search, SMALL_BLOCKS)
    kind = {"few": search != "codes", "tf32": search == "tf32", "tile": tile}
    with planned(**kind, strips=2, capacity=16):
        return search_vectors(problem.replace(chunk_rows=128))


def beyond(queries: int, rows: int, channels: int = 20) -> tuple[Tensor, Tensor]:
    """Of which the first five score inf, or -inf by l2."""
    generator = torch.Generator().manual_seed(0)
    q, p = (
        torch.randn(queries, channels, generator=generator).abs(),
        torch.randn(rows, channels, generator=generator),
    )
    p[:5] = p[:5].abs() * 1e30
    q[1] *= 1e12
    return q, p


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", SEARCHES)
def test_infinite_scores(search: str, metric: str, planned) -> None:
    q, p = beyond(2, 200, 64)
    problem = Problem(q, [p], 7, metric, None, "raise", None)
    assert_exact(searched(search, problem, planned), problem)


@pytest.mark.parametrize("metric", METRICS)
def test_infinite_scores_of_codes(metric: str) -> None:
    q, p = beyond(3, 300)
    p = p.clamp(max=1e17)
    q[1] = 1e25
    problem = Problem(q, [p], 3, metric, None, "raise", None)
    codes = coded([p], metric, LAYOUT)
    assert_exact(search_codes(problem, codes)[:2], problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", ["whole", "codes of few"])
def test_queries_whose_squares_underflow(search: str, metric: str, planned) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 20, generator=generator).double() * 2.0**-540
    p = torch.randn(200, 20, generator=generator).double() * 2.0**500
    q[2] = 0
    problem = Problem(q, [p], 4, metric, None, "raise", None)
    assert_exact(searched(search, problem, planned), problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", SEARCHES[:3])
@pytest.mark.parametrize("size", [1e-300, 1e-42, 1e-21, 1e19, 1e60])
def test_norms_at_the_ends_of_the_range(size: float, search: str, metric: str, planned) -> None:
    """Of some queries and prototypes, among others of size 1; in fp64 where fp32 has no such."""
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(n, 64, generator=generator).double() for n in (2, 140))
    q[1] *= size
    p[3::5] *= size
    p[7::11] *= -1e-3
    if 1e-45 < size < 1e38:
        q, p = q.float(), p.float()
    elif search == "tf32":
        return
    mask = torch.rand(140, generator=generator) < 0.5
    problem = Problem(q, [p], 3, metric, mask, "raise", None)
    assert_exact(searched(search, problem, planned), problem)


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
