"""Every tile that a chip may run gives what the plainest does, and visits everything."""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
import triton
import triton.language as tl
from by_triton import codes_plan, prepared_codes, search_codes, search_vectors
from coded import coded
from problems import Problem, assert_exact, vectors
from torch import Tensor

from flashmatch.kernels.triton_backend import float_search, int8_search
from flashmatch.kernels.triton_backend.device import groups
from flashmatch.kernels.triton_backend.selfcheck import tile_sweep
from flashmatch.kernels.triton_backend.tiles import HIP, RDNA, Tile, fp16_tiles, int8_tiles

pytestmark = pytest.mark.usefixtures("poisoned_empty")
ARCHS = (HIP, RDNA, 80, 86, 89, 90, 100, 103, 120)
QUERIES, ROWS = 150, 700  # two tiles of queries; six of 128 rows, three of 256
CUTS = ("block_q", "block_p", "tile_c", "together", "persistent")


def distinct(tiles: list[Tile]) -> list[Tile]:
    """One for each way to cut: warps, stages and registers mean nothing to the interpreter."""
    return list({tuple(getattr(tile, cut) for cut in CUTS): tile for tile in tiles}.values())


FP16 = distinct([tile for arch in ARCHS for tile in fp16_tiles(arch)])
INT8 = distinct([tile for arch in ARCHS for tile in int8_tiles(128, arch)])
UNEVEN = dataclasses.replace(FP16[-1], together=1)


def named(tile: Tile) -> str:
    return f"{tile.block_q}x{tile.block_p}x{tile.tile_c}{'p' * tile.persistent}-{tile.together}"


def problem(channels: int, queries: int, rows: int) -> Problem:
    """With a mask of rows, some of which hide a whole tile of 128."""
    generator = torch.Generator().manual_seed(5)
    q, p = (vectors("gaussian", n, channels, generator).float() for n in (queries, rows))
    mask = torch.rand(rows, generator=generator) < 0.5
    mask[130:260] = False
    return Problem(q, [p], 3, "l2", mask, "exclude", None)


class Scanned(Exception):
    """Enough was seen."""


def bounds_of(
    module: ModuleType, patch: pytest.MonkeyPatch, tile: Tile, search: Callable[[], object]
) -> Tensor:
    """The bounds by which a search would go; the rest of it takes long to interpret."""
    seen: list[Tensor] = []
    name = "scan_chunk"
    scan = getattr(module, name)

    def stop(*args) -> Tensor:
        seen.append(scan(*args)[:QUERIES, : -(-ROWS // 128) * 8].clone())
        raise Scanned

    replan(module, patch, tile)
    patch.setattr(module, name, stop)
    with pytest.raises(Scanned):
        search()
    patch.undo()
    return seen[0]


def replan(module: ModuleType, patch: pytest.MonkeyPatch, tile: Tile) -> None:
    name = "choose_plan" if module is float_search else "choose_codes_plan"
    choose = getattr(module, name)

    def chosen(*args, **kwargs) -> object:
        return dataclasses.replace(choose(*args, **kwargs), tile=tile)

    patch.setattr(module, name, chosen)


@pytest.mark.parametrize("tile", INT8[1:], ids=named)
def test_entries_of_codes(tile: Tile) -> None:
    """Of each query as many as by the plainest tile, at a threshold that some groups reach."""
    given = problem(128, QUERIES, ROWS)
    codes = coded(given.prototypes, "l2", int8_search.LAYOUT)
    block, run = prepared_codes(given, codes, codes_plan(given, codes))
    block.thresholds.fill_(-200.0)
    plain, passed = (tile_sweep.passed_by(block, run, cut) for cut in (INT8[0], tile))
    assert 0 < plain[:QUERIES].mean() < plain.max() < len(run.words)
    assert torch.equal(passed, plain)


@pytest.mark.parametrize("tile", [*FP16[1:], UNEVEN], ids=named)
def test_prepared_bounds(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    search = partial(search_vectors, problem(64, QUERIES, ROWS))
    plain, bounds = (bounds_of(float_search, monkeypatch, cut, search) for cut in (FP16[0], tile))
    assert torch.allclose(bounds, plain, rtol=1e-5, atol=1e-6)  # sums in another order


@pytest.mark.parametrize("tile", INT8[1:], ids=named)
def test_codes_are_searched_exactly(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    replan(int8_search, monkeypatch, tile)
    small = problem(128, 17, 300)
    assert_exact(search_codes(small)[:2], small)


@pytest.mark.parametrize("tile", FP16[1:], ids=named)
def test_prepared_copies_are_searched_exactly(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    replan(float_search, monkeypatch, tile)
    small = problem(64, 17, 300)
    assert_exact(search_vectors(small), small)


def test_there_are_wide_and_persistent_tiles() -> None:
    for tiles in (FP16, INT8):
        assert {tile.block_p for tile in tiles} == {128, 256}
    assert {tile.persistent for tile in FP16} == {False, True}


@pytest.mark.parametrize("together", [1, 4, 8])
@pytest.mark.parametrize(("q_tiles", "p_tiles"), [(1, 1), (3, 5), (7, 17), (2, 8), (1, 9)])
def test_every_tile_is_visited_once(q_tiles: int, p_tiles: int, together: int) -> None:
    @triton.jit
    def kernel(seen, q_tiles, p_tiles, TOGETHER: tl.constexpr):
        tile_q, tile_p = groups.tile_of(tl.program_id(0), q_tiles, p_tiles, TOGETHER)
        tl.atomic_add(seen + tile_q * p_tiles + tile_p, 1)

    seen = torch.zeros(q_tiles, p_tiles, dtype=torch.int32)
    kernel[(q_tiles * p_tiles,)](seen, q_tiles, p_tiles, together)
    assert (seen == 1).all()
