"""The plan is a pure function that keeps to its workspace."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import exp, lgamma, log

import pytest

from flashmatch.kernels.triton_backend import rounds
from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.plan import MAX_K, TritonPlan, choose_plan, pad
from flashmatch.kernels.triton_backend.rounds import CodesPlan, choose_codes_plan
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
    assert chosen.held >= k


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
    layout = {"span": 1024, "width": pad(channels, 64)}
    options = {**layout, "chip": H100, "workspace": 2**28}
    return choose_codes_plan(queries, pages, channels, k, **(options | changes))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("workspace", [32 * MIB, 256 * MIB])
@pytest.mark.parametrize("k", [1, 10, rounds.MAX_K])
@pytest.mark.parametrize("channels", [16, 768])
@pytest.mark.parametrize("queries", [1, 1000, 10**6])
def test_largest_buffers_of_codes_fit(
    queries: int, channels: int, k: int, workspace: int, pairs: bool
) -> None:
    chosen = codes_plan(queries, 10**5, channels, k, workspace=workspace, pairs=pairs)
    entries = chosen.query_rows * chosen.segments * (chosen.capacity * 8 + 4)
    words = chosen.query_rows * chosen.chunk_pages * 64 * 4 if pairs else 0
    block = chosen.query_rows * (pad(channels, 64) + 32)
    scratch = min(chosen.programs, chosen.query_rows) * (chosen.slots * 4 + (k + 256) * 16)
    if (chosen.query_rows, chosen.chunk_pages) != (chosen.tile.block_q, 1):
        assert entries + words + block + scratch <= workspace
    assert chosen.query_rows % chosen.tile.block_q == 0


@pytest.mark.parametrize("k", [1, 10, 100, rounds.MAX_K])
@pytest.mark.parametrize("pages", [1, 7, 100, 10**4])
@pytest.mark.parametrize("queries", [1, 16, 17, 130, 1024, 2048, 16384, 10**6])
def test_rounds_take_every_tile_and_have_room(queries: int, pages: int, k: int) -> None:
    chosen = codes_plan(queries, pages, 128, k)
    tiles = chosen.chunk_pages * 1024 // chosen.tile.block_p
    ends = chosen.ends(tiles)
    assert ends[-1] == tiles
    assert ends == sorted(set(ends))
    assert ends[0] <= chosen.strips * chosen.capacity  # of each segment no more than it holds
    assert chosen.segments * chosen.capacity <= chosen.slots
    assert len(ends) <= (16 if k == rounds.MAX_K else 12)
    assert chosen.strips * (chosen.query_rows // chosen.tile.block_q) <= 2 * H100.multiprocessors


@pytest.mark.parametrize(("queries", "rows"), [(16384, 100_000), (1024, 10**6), (1, 10**7)])
def test_common_searches_take_few_rounds(queries: int, rows: int) -> None:
    chosen = codes_plan(queries, -(-rows // 1024), 128, 10)
    assert chosen.query_rows == pad(queries, chosen.tile.block_q)
    assert len(chosen.ends(-(-rows // 128))) <= 4


def test_capacities_are_seldom_exceeded() -> None:
    for capacity in (4, 8, 16, 32, 64, 256):
        mean = rounds.few_of(capacity)
        assert 0 < mean < capacity
        within = sum(exp(n * log(mean) - mean - lgamma(n + 1)) for n in range(capacity + 1))
        assert 1 - within < 1e-3


@pytest.mark.parametrize("tiles", [1, 2, 3, 8, 100, 782, 1024, 7813])
def test_every_prefix_of_the_order_is_spread(tiles: int) -> None:
    order = [i * rounds.spread(tiles) % tiles for i in range(tiles)]
    assert sorted(order) == list(range(tiles))
    if tiles >= 100:
        for count in (tiles // 2, max(40, tiles // 10)):
            sizes = Counter(tile % 8 for tile in order[:count])  # of rows, within a page
            assert max(sizes.values()) <= 1.7 * min(sizes.values())
            gaps = [b - a for a, b in pairwise(sorted(order[:count]))]
            assert max(gaps) <= 6 * tiles / count


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
