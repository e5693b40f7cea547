"""Compiling is bounded: a search of other numbers of queries and prototypes launches what is there.

A launch here is what the JIT compiles once: kernel, types, constants, which arguments are multiples
of 16, options. Numbers of rows are arguments like any other; the kernels tell the JIT not to
specialise on those that change from call to call.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

import aot
import pytest
import torch
from by_triton import search_codes, search_whole, search_with_flags
from problems import Problem

from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.storage.clean_rows import screen_norms
from flashmatch.kernels.triton_backend import bank_search, vector_search
from flashmatch.kernels.triton_backend.bank_search import LAYOUT

QUERIES = {"few": (1, 2, 3, 7, 13, 16), "many": (17, 31, 128, 129, 521, 1009)}
ROWS = (67, 131, 320, 521, 1009, 2048, 4093)
K = 5
MOST_KERNELS = 8
"""Of one search: fit an origin, order and code prototypes, code queries, pack a mask, scan at first
and again, settle."""
Search = Callable[[], object]


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a tile goes in rounds, as larger searches do, and is scanned again."""
    for module in (bank_search, vector_search):
        choose = module.choose_plan
        monkeypatch.setattr(
            module,
            "choose_plan",
            lambda *args, choose=choose, **kw: replace(choose(*args, **kw), strips=1, capacity=8),
        )


def drawn(queries: int, rows: int, channels: int, mask_ndim: int) -> Problem:
    mask = torch.ones((queries, rows)[2 - mask_ndim :], dtype=torch.bool) if mask_ndim else None
    q, p = torch.zeros(queries, channels), torch.zeros(rows, channels)
    return Problem(q, [p], K, "l2", mask, "exclude", None)


def of_vectors(
    queries: int, rows: int, channels: int, mask_ndim: int, chunk_rows: int | None = None
) -> Search:
    problem = drawn(queries, rows, channels, mask_ndim).replace(chunk_rows=chunk_rows)
    return lambda: search_with_flags(problem)


def of_codes(queries: int, rows: int, channels: int, mask_ndim: int) -> Search:
    frame = Frame("l2", torch.zeros(channels), None)
    codes, problem = Codes(frame, LAYOUT, rows, channels), drawn(queries, rows, channels, mask_ndim)
    codes.write(0, problem.prototypes[0], screen_norms(problem.prototypes[0]))
    return lambda: search_codes(problem, codes)


def launches(make: Callable[..., Search], *arguments: int | None) -> set[aot.Launch]:
    return aot.record(make(*arguments))


@pytest.mark.parametrize("mask_ndim", [0, 1, 2])
@pytest.mark.parametrize("channels", [64, 20])
@pytest.mark.parametrize("few", ["few", "many"])
@pytest.mark.parametrize("make", [of_vectors, of_codes])
def test_launches_do_not_depend_on_how_many(
    make: Callable[..., Search], few: str, channels: int, mask_ndim: int
) -> None:
    """All these searches together compile each kernel once.

    Where there is room for all, nothing is scanned again, and that is not launched.
    """
    together: set[aot.Launch] = set()
    for rows, queries in itertools.product(ROWS, QUERIES[few]):
        together |= launches(make, queries, rows, channels, mask_ndim)
    kernels = {launch.variant for launch in together}
    assert len(together) == len(kernels) <= MOST_KERNELS


@pytest.mark.parametrize("mask_ndim", [0, 1, 2])
def test_few_prototypes_are_one_launch(mask_ndim: int) -> None:
    together: set[aot.Launch] = set()
    for rows, queries in itertools.product((K, 63, 64, *ROWS[:-1]), QUERIES["few"]):
        problem = drawn(queries, rows, 20, mask_ndim)
        together |= aot.record(lambda problem=problem: search_whole(problem))
    assert len(together) == 1


@pytest.mark.parametrize("queries", [3, 17])
def test_launches_do_not_depend_on_chunks(queries: int) -> None:
    whole = launches(of_vectors, queries, 1009, 64, 2, None)
    pieces = launches(of_vectors, queries, 1009, 64, 2, 256)  # two tiles each
    assert whole == pieces


def test_what_does_grow_is_seen() -> None:
    """Channels are specialised on: rows of 20 and of 64 are not the same launches."""
    narrow, wide = (launches(of_codes, 3, 320, channels, 0) for channels in (20, 64))
    assert narrow != wide
