"""Compiling is bounded: a search of other numbers of queries and prototypes launches what is there.

A launch here is what the JIT compiles once: kernel, types, constants, which arguments are multiples
of 16, options. Numbers of rows are arguments like any other; the kernels tell the JIT not to
specialise on those that change from call to call.
"""

import itertools
from collections.abc import Callable

import aot
import pytest
import torch
from by_triton import search_codes, search_with_flags
from problems import Problem

from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.storage.clean_rows import screen_norms
from flashmatch.kernels.triton_backend.int8_search import LAYOUT

QUERIES = {"few": (1, 2, 3, 7, 13, 16), "many": (17, 31, 128, 129, 521, 1009)}
ROWS = (67, 131, 320, 521, 1009, 2048, 4093)
K = 5
MOST_KERNELS = 7
"""Of one plan: prepare both sides, pack a mask, scan, threshold, rescore, repair; or of codes: code
queries, pack a mask, scan at first and again, settle in few slots and in many."""
Search = Callable[[], object]


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

    Where few groups exist, some kernels have nothing to do, and are not launched.
    """
    together: set[aot.Launch] = set()
    for rows, queries in itertools.product(ROWS, QUERIES[few]):
        together |= launches(make, queries, rows, channels, mask_ndim)
    kernels = {(*launch.variant, launch.constants.get("SLOTS")) for launch in together}
    assert len(together) == len(kernels) <= MOST_KERNELS


@pytest.mark.parametrize("queries", [3, 17])
def test_launches_do_not_depend_on_chunks(queries: int) -> None:
    whole = launches(of_vectors, queries, 1009, 64, 2, None)
    pieces = launches(of_vectors, queries, 1009, 64, 2, 128)
    assert whole == pieces


def test_what_does_grow_is_seen() -> None:
    """Channels are specialised on: rows of 20 and of 64 are not the same launches."""
    narrow, wide = (launches(of_codes, 3, 320, channels, 0) for channels in (20, 64))
    assert narrow != wide
