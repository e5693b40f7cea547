"""Every tile that a chip may run gives what the plainest does, and visits everything."""

import dataclasses

import pytest
import torch
from by_triton import (
    codes_plan,
    prepared_codes,
    prepared_vectors,
    search_codes,
    search_vectors,
    vectors_plan,
)
from coded import coded
from problems import Problem, assert_exact, vectors

from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.query_block import QueryBlock, Run
from flashmatch.kernels.triton_backend.selfcheck import tile_sweep
from flashmatch.kernels.triton_backend.tiles import (
    HIP,
    RDNA,
    Tile,
    few_tile,
    int8_tiles,
    tf32_tile,
)

pytestmark = pytest.mark.usefixtures("poisoned_empty", "small_pages")
ARCHS = (HIP, RDNA, 80, 86, 89, 90, 100, 103, 120)
QUERIES, ROWS = 150, 700  # two tiles of queries; six of 128 rows, three of 256
CUTS = ("block_q", "block_p", "tile_c")


def distinct(tiles: list[Tile]) -> list[Tile]:
    """One for each way to cut: warps, stages and registers mean nothing to the interpreter."""
    return list({tuple(getattr(tile, cut) for cut in CUTS): tile for tile in tiles}.values())


WIDTHS = (64, 128, 192)
MANY = distinct([tile for arch in ARCHS for width in WIDTHS for tile in int8_tiles(width, arch)])
TF32 = distinct([tf32_tile(half, arch) for arch in ARCHS if arch != RDNA for half in (0, 1)])


def named(tile: Tile) -> str:
    return f"{tile.block_q}x{tile.block_p}x{tile.tile_c}"


def a_problem(channels: int, queries: int, rows: int, pairs: bool = False) -> Problem:
    """With a mask, by which a whole tile of 128 is hidden."""
    generator = torch.Generator().manual_seed(5)
    q, p = (vectors("gaussian", n, channels, generator).float() for n in (queries, rows))
    mask = torch.rand((queries, rows) if pairs else (rows,), generator=generator) < 0.5
    mask[..., 130:260] = False
    return Problem(q, [p], 3, "l2", mask, "exclude", None)


def prepared(screen: str, pairs: bool) -> tuple[QueryBlock, Run]:
    """At a threshold that some groups reach."""
    given = a_problem(128, QUERIES, ROWS, pairs)
    if screen == "bank":
        codes = coded(given.prototypes, "l2", LAYOUT)
        block, run = prepared_codes(given, codes, codes_plan(given, codes))
    else:
        block, run = prepared_vectors(given, vectors_plan(given))
    block.thresholds.fill_(-200.0)
    return block, run


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("screen", ["bank", "codes in passing"])
def test_entries_of_every_tile(screen: str, pairs: bool) -> None:
    """Of each query as many as by the plainest, at a threshold that some groups reach."""
    block, run = prepared(screen, pairs)
    plain = tile_sweep.passed_by(block, run, MANY[0])
    assert 0 < plain[:QUERIES].double().mean() < plain.max() < ROWS // 16
    for tile in MANY[1:]:
        assert torch.equal(tile_sweep.passed_by(block, run, tile), plain), tile


@pytest.mark.parametrize("tile", MANY, ids=named)
def test_codes_are_searched_exactly(tile: Tile, planned) -> None:
    small = a_problem(128, 2, 300)
    tile = dataclasses.replace(tile, block_q=16)  # queries of padding take time
    with planned(tile=tile, few=False, tf32=False, strips=2, capacity=16):
        assert_exact(search_codes(small)[:2], small)
        assert_exact(search_vectors(small), small)


@pytest.mark.parametrize("tile", TF32, ids=named)
def test_prototypes_are_read_exactly(tile: Tile, planned) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        small = a_problem(128, 3, 300)
        small = small.replace(prototypes=[small.prototypes[0].to(dtype)])
        with planned(tile=tile):
            assert vectors_plan(small).tf32
            assert_exact(search_vectors(small), small)


def test_there_are_wide_tiles_and_narrow_ones() -> None:
    assert {tile.block_p for tile in MANY} == {128, 256}
    assert {tile.tile_c for tile in MANY} == {64, 128}
    assert {tile.tile_c for tile in TF32} == {32, 64}
    assert {tile.block_q for tile in MANY} == {128}
    assert {tile.block_q for tile in (*TF32, *map(few_tile, ARCHS))} == {16}
