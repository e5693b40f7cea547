"""The plan is a pure function that keeps to its workspace."""

from dataclasses import replace

import pytest

from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.plan import (
    MAX_K,
    CodesPlan,
    TritonPlan,
    choose_codes_plan,
    choose_plan,
    pad,
)
from flashmatch.kernels.triton_backend.tiles import HIP, RDNA, fp16_tiles, int8_tiles

MIB = 2**20
H100 = Chip(90, 132)


def plan(queries: int, prototypes: int, channels: int, k: int, **changes: object) -> TritonPlan:
    options = {"half": False, "raw": True, "chip": H100, "workspace": 256 * MIB}
    return choose_plan(queries, prototypes, channels, k, **(options | changes))


@pytest.mark.parametrize("workspace", [16 * MIB, 256 * MIB])
@pytest.mark.parametrize("k", [1, 10, MAX_K])
@pytest.mark.parametrize("channels", [16, 768])
@pytest.mark.parametrize("queries", [1, 1000, 10**6])
def test_largest_buffers_fit(queries: int, channels: int, k: int, workspace: int) -> None:
    chosen = plan(queries, 10**7, channels, k, workspace=workspace)
    width, groups = pad(channels, 64), pad(chosen.chunk_rows, 128) // 16
    copies = 0 if chosen.raw else chosen.chunk_rows * width * 2
    bounds = chosen.query_rows * groups * 4
    pool = chosen.query_rows * (k + min(chosen.kept, groups) * 16) * 8
    blocks = chosen.query_rows * width * 12
    if (chosen.query_rows, chosen.chunk_rows) != (chosen.tile.block_q, chosen.tile.block_p):
        assert copies + bounds + pool + blocks <= workspace
    assert chosen.query_rows % chosen.tile.block_q == 0
    assert chosen.block_k >= k


def test_chunks_are_no_larger_than_asked_for() -> None:
    assert plan(100, 10**6, 64, 5, chunk_rows=777).chunk_rows == 777
    assert plan(100, 500, 64, 5, chunk_rows=777).chunk_rows == 500


def test_few_queries_read_prototypes_raw_where_they_may_be() -> None:
    assert plan(16, 1000, 64, 5).raw
    assert not plan(17, 1000, 64, 5).raw
    assert not plan(16, 1000, 64, 5, raw=False).raw
    assert not plan(16, 1000, 64, 5, chip=Chip(RDNA, 96)).raw  # it multiplies no TF32


def test_amd_takes_no_register_limit() -> None:
    assert plan(100, 1000, 64, 5, chip=Chip(HIP, 304)).row_options == {"num_warps": 4}
    assert plan(100, 1000, 64, 5).row_options == {"num_warps": 4, "maxnreg": 255}


def codes_plan(queries: int, pages: int, channels: int, k: int, **changes: object) -> CodesPlan:
    layout = {"span": 1024, "group": 16, "width": pad(channels, 64)}
    options = {**layout, "chip": H100, "workspace": 2**28}
    return choose_codes_plan(queries, pages, channels, k, **(options | changes))


@pytest.mark.parametrize("workspace", [16 * MIB, 256 * MIB])
@pytest.mark.parametrize("k", [1, 10, MAX_K])
@pytest.mark.parametrize("channels", [16, 768])
@pytest.mark.parametrize("queries", [1, 1000, 10**6])
def test_largest_buffers_of_codes_fit(queries: int, channels: int, k: int, workspace: int) -> None:
    chosen = codes_plan(queries, 10**5, channels, k, workspace=workspace)
    groups = chosen.chunk_pages * 64
    bounds = chosen.query_rows * groups * 4
    pool = chosen.query_rows * (k + min(chosen.kept, groups) * 16) * 8
    block = chosen.query_rows * pad(channels, 64) * 9
    if (chosen.query_rows, chosen.chunk_pages) != (chosen.tile.block_q, 1):
        assert bounds + pool + block <= workspace
    assert chosen.query_rows % chosen.tile.block_q == 0
    assert chosen.block_k >= k
    assert k <= chosen.first < chosen.kept


def test_a_bank_that_fits_is_read_once() -> None:
    """16 queries against 30 million codes: one launch."""
    chosen = codes_plan(16, 30 * 10**6 // 1024, 128, 10)
    assert chosen.few
    assert chosen.chunk_pages == 30 * 10**6 // 1024
    assert not codes_plan(17, 1000, 128, 10).few


@pytest.mark.parametrize("arch", [80, 89, 90, 100, 120, HIP, RDNA])
def test_untuned_plans_take_the_first_tile(arch: int) -> None:
    chip = Chip(arch, 132)
    assert plan(8192, 10**6, 1536, 10, chip=chip).tile == fp16_tiles(arch)[0]
    assert codes_plan(8192, 10**4, 1536, 10, chip=chip).tile == int8_tiles(1536, arch)[0]


def test_masks_of_pairs_take_the_plainest_tile_with_all_registers() -> None:
    for chosen, tiles in (
        (plan(1000, 10**6, 512, 10, pairs=True), fp16_tiles(90)),
        (codes_plan(1000, 10**4, 512, 10, pairs=True), int8_tiles(512, 90)),
    ):
        assert chosen.tile == replace(tiles[0], registers=None)
