"""The model of the Triton body is arithmetic: what it must obey, and one shape worked by hand."""

import timeit
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from flashmatch.kernels import _triton_model as model
from flashmatch.kernels._chips import CHIPS, H100, RTX_4090, Chip
from flashmatch.kernels._triton_plan import (
    CodesPlan,
    TritonPlan,
    choose_codes_plan,
    choose_plan,
)
from flashmatch.kernels._triton_scan_model import (
    ELEMENT_SIZE,
    Screen,
    resident_blocks,
    scan_seconds,
    shared_bytes,
)
from flashmatch.kernels._triton_tiles import Tile, fp16_tiles, int8_tiles

WORKSPACE = 2**28
SEARCHES = ((1024, 1_000_000, 768, 10), (5, 300_000, 256, 1), (8192, 65536, 128, 100))
AXES = (
    ("queries", (1, 2, 16, 128, 129, 1000, 8192, 8193, 50_000)),
    ("prototypes", (1000, 1024, 5000, 65_536, 65_537, 400_000, 2_000_000)),
    ("channels", (1, 64, 65, 128, 500, 512, 768, 2048)),
)
each_chip = pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)


def float_plan(Q: int, M: int, C: int, k: int, chip: Chip) -> TritonPlan:
    return choose_plan(
        Q, M, C, k, half=False, raw=C % 64 == 0, chip=chip, workspace=WORKSPACE
    )  # fmt: skip


def codes_plan(Q: int, M: int, C: int, k: int, chip: Chip) -> CodesPlan:
    return choose_codes_plan(
        Q, -(-M // 1024), C, k, span=1024, group=16, width=-(-C // 64) * 64, chip=chip,
        workspace=WORKSPACE,
    )  # fmt: skip


def times(plan, Q: int, M: int, C: int, k: int, chip, metric: str = "cosine", **given):
    return model.stages(plan, Q, M, C, k, metric, 4, chip, **given)


def grow(total: list[float]) -> bool:
    return all(a <= b * (1 + 1e-12) for a, b in pairwise(total))


@each_chip
@pytest.mark.parametrize("make", [float_plan, codes_plan])
@pytest.mark.parametrize("axis", range(3), ids=[name for name, _ in AXES])
def test_more_of_anything_takes_no_less(chip, make, axis: int) -> None:
    for sizes in SEARCHES:
        plan, (name, values) = make(*sizes, chip), AXES[axis]
        given = dict(zip(("Q", "M", "C", "k"), sizes, strict=True))
        key = "QMC"[axis]
        totals = [times(plan, **{**given, key: value}, chip=chip).total for value in values]
        assert grow(totals), (name, sizes, totals)


@each_chip
@pytest.mark.parametrize("make", [float_plan, codes_plan])
def test_more_ranks_take_no_less(chip, make) -> None:
    for Q, M, C, _ in SEARCHES:
        plans = [(k, make(Q, M, C, k, chip)) for k in (1, 2, 10, 100, 1000)]
        same_parts = {(p.query_rows, model.chunk_rows(p)) for _, p in plans}
        totals = [times(plan, Q, M, C, k, chip).total for k, plan in plans]
        assert grow(totals) or len(same_parts) > 1, totals


@each_chip
def test_never_below_a_ceiling(chip) -> None:
    for Q, M, C, k in SEARCHES:
        for make in (float_plan, codes_plan):
            plan = make(Q, M, C, k, chip)
            screen = model.costs.screen_of(plan)
            size = 1 if screen == "int8" else 4
            found = times(plan, Q, M, C, k, chip)
            assert found.scan >= 2 * Q * M * C / getattr(chip, screen)
            assert found.prepare + found.scan >= M * C * size / chip.bandwidth


@each_chip
@pytest.mark.parametrize("make", [float_plan, codes_plan])
def test_less_bandwidth_never_helps_and_more_multiprocessors_never_hurt(chip, make) -> None:
    for Q, M, C, k in (*SEARCHES, (1, 100, 64, 10), (300, 33_000, 128, 10)):
        plan = make(Q, M, C, k, chip)
        found = times(plan, Q, M, C, k, chip).total
        slower = replace(chip, bandwidth=chip.bandwidth / 2)
        assert times(plan, Q, M, C, k, slower).total >= found * (1 - 1e-12)
        for more in (chip.multiprocessors + 1, 2 * chip.multiprocessors):
            assert times(plan, Q, M, C, k, chip.scaled(more)).total <= found * (1 + 1e-12)


@each_chip
@pytest.mark.parametrize("channels", [512, 768, 1536])
def test_codes_are_scanned_faster_than_fp16(chip, channels: int) -> None:
    sizes = 8192, 262_144, channels
    coded = scan_seconds(int8_tiles(channels, chip.arch)[0], "int8", *sizes, chip)
    assert coded < scan_seconds(fp16_tiles(chip.arch)[0], "fp16", *sizes, chip)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_stages_add_up(metric: str) -> None:
    for make in (float_plan, codes_plan):
        for sizes in SEARCHES:
            found = times(make(*sizes, H100), *sizes, H100, metric)
            parts = [getattr(found, field.name) for field in fields(found)]
            assert found.total == pytest.approx(sum(parts))
            assert min(parts) > 0


def test_one_shape_worked_by_hand() -> None:
    """8,192 x 131,072 x 512 by fp16 on an H100, one block and one chunk; in milliseconds.

    Rates: 3.35 x 0.9 = 3.015 TB/s, cache 9.8 TB/s, fp64 33.5 / 2 = 16.75 T instructions/s.

    prepare: M C (4 + 2) = 403 MB: 0.1336; three kernels 0.006. Q C (4 + 8 + 2) = 58.7 MB: 0.0195;
             one kernel 0.002. Together 0.161.
    scan:    65,536 programs. Product 2 x 128 x 128 x 512 / (989.5 T x 0.8 / 132) = 2.798 us, 497 on
             a multiprocessor: 1.391. Tiles from the cache, 65,536 x 256 x 512 x 2 = 17.18 GB:
             1.753, which is longest. 1.755 with the kernel's gap.
    select:  8,192^2 x 4 x 5 = 1.342 GB: 0.445; keys 8 x 298 x 8,192 x 9 from the cache: 0.018;
             9, 8 and 6 kernels: 0.046. 0.510.
    rescore: 13 groups x 16 rows x 2,048 bytes x 8,192 = 3.49 GB: 1.1574. 3 kernels: 0.006. 1.163.
    repair:  16 waves x 3 loads x 0.6 us: 0.029, one kernel. 0.031.
    """
    plan = TritonPlan(
        tile=Tile(128, 128, 64, 8, 3, registers=128), group=16, query_rows=8192, kept=18,
        block_k=16, row_registers=255, raw=False, half=False, chunk_rows=131_072,
    )  # fmt: skip
    found = model.stages(plan, 8192, 131_072, 512, 10, "cosine", 4, H100)
    by_hand = model.Stages(0.161e-3, 1.755e-3, 0.510e-3, 1.163e-3, 0.031e-3)
    for field in fields(found):
        name = field.name
        assert getattr(found, name) == pytest.approx(getattr(by_hand, name), rel=0.02), name
    assert found.total == pytest.approx(3.620e-3, rel=0.01)


def test_few_queries_are_bound_by_reading_the_prototypes() -> None:
    M, C = 10_000_000, 128
    for make, size in ((float_plan, 4), (codes_plan, 1)):
        found = times(make(1, M, C, 10, H100), 1, M, C, 10, H100).scan
        bounds = 16 * M / 16 * 4  # of 16 queries, for each group of 16
        assert found == pytest.approx((M * C * size + bounds) / 3.015e12, rel=0.02)


def test_gaming_chips_rescore_at_the_rate_of_fp64() -> None:
    """1,703,936 rows x (3 x 512 + 128) instructions at 1.29 / 2 T/s: 4.396 ms, of 3.85 to read."""
    plan = replace(
        float_plan(8192, 131_072, 512, 10, RTX_4090), query_rows=8192, chunk_rows=131_072
    )
    found = times(plan, 8192, 131_072, 512, 10, RTX_4090).rescore
    assert found == pytest.approx(4.40e-3, rel=0.01)
    l2 = times(plan, 8192, 131_072, 512, 10, RTX_4090, "l2").rescore
    assert l2 / found == pytest.approx((4 * 512 + 128) / (3 * 512 + 128), rel=0.01)


def test_a_search_in_parts_takes_its_parts() -> None:
    whole = replace(float_plan(4096, 262_144, 256, 10, H100), query_rows=4096, chunk_rows=262_144)
    parts = replace(whole, query_rows=1024, chunk_rows=65_536)
    sizes, chip = (4096, 262_144, 256, 10), replace(H100, launch=0.0)
    one, many = times(whole, *sizes, chip), times(parts, *sizes, chip)
    each = times(parts, 1024, 65_536, 256, 10, chip)
    assert many.scan == pytest.approx(16 * each.scan)
    assert many.scan >= one.scan
    assert many.prepare > one.prepare  # queries once for every chunk


def test_small_searches_wait_for_the_host() -> None:
    plan = codes_plan(1, 100, 64, 10, H100)
    slow = replace(H100, launch=2 * H100.launch)
    assert times(plan, 1, 100, 64, 10, slow).total == pytest.approx(
        2 * times(plan, 1, 100, 64, 10, H100).total
    )
    plan = float_plan(8192, 262_144, 768, 10, H100)
    sizes = 8192, 262_144, 768, 10
    quick = replace(H100, launch=H100.launch / 2)
    assert times(plan, *sizes, quick) == times(plan, *sizes, replace(H100, launch=0.0))


def test_persistent_programs_wait_for_loads_once() -> None:
    """On 100 tiles a multiprocessor, that each take 0.35 us of products and 0.24 of epilogue."""
    plain = Tile(128, 128, 64, 8, 4)
    sizes = 12_800, 128 * H100.multiprocessors, 64
    seconds = scan_seconds(replace(plain, persistent=True), "fp16", *sizes, H100)
    assert seconds == pytest.approx(0.6e-6 + 100 * (0.350e-6 + 0.229e-6), rel=0.01)
    assert resident_blocks(plain, "fp16", H100, 2) == 1
    alone = scan_seconds(plain, "fp16", *sizes, H100)
    assert alone == pytest.approx(100 * (0.6e-6 + 0.350e-6 + 0.229e-6), rel=0.01)


def test_wave_quantisation() -> None:
    tile = fp16_tiles(90)[0]
    full = 128 * H100.multiprocessors
    whole = scan_seconds(tile, "fp16", 128, full * 40, 64, H100)
    assert scan_seconds(tile, "fp16", 128, full * 40 + 1, 64, H100) > whole


def test_blocks_on_a_multiprocessor() -> None:
    plain, wide = Tile(128, 128, 64, 8, 3, 128), Tile(128, 256, 64, 8, 3)
    assert resident_blocks(plain, "fp16", H100, 2) == 2
    assert resident_blocks(wide, "fp16", H100, 2) == 1  # registers
    assert resident_blocks(plain, "fp16", RTX_4090, 2) == 1  # shared memory
    assert resident_blocks(Tile(128, 256, 64, 8, 4), "fp16", RTX_4090, 2) == 0
    assert scan_seconds(Tile(128, 256, 64, 8, 4), "fp16", 9, 9, 9, RTX_4090) == float("inf")


@pytest.mark.parametrize(
    ("arch", "screen", "block_q", "tile_c", "stages", "compiled_kib"),
    [
        (90, "fp16", 128, 64, 3, 96),
        (100, "fp16", 128, 64, 3, 96),
        (80, "fp16", 128, 64, 3, 64),
        (90, "int8", 128, 128, 3, 96),
        (80, "int8", 128, 64, 4, 48),
        (0, "int8", 128, 64, 2, 16),
        (90, "int8", 16, 64, 4, 36),
        (80, "int8", 16, 64, 4, 27),
        (0, "int8", 16, 64, 2, 9),
    ],
)
def test_shared_memory_is_what_the_compiler_takes(
    arch: int, screen: Screen, block_q: int, tile_c: int, stages: int, compiled_kib: int
) -> None:
    """Kernels compiled ahead of time by Triton 3.9; whole KiB."""
    tile = Tile(block_q, 128, tile_c, 8, stages)
    assert shared_bytes(tile, screen, arch, ELEMENT_SIZE[screen]) // 1024 == compiled_kib


def test_repairs_and_survivors_cost() -> None:
    sizes = 1024, 262_144, 512, 10
    plan = codes_plan(*sizes, H100)
    few, many = (times(plan, *sizes, H100, survivors=n).rescore for n in (20, 200))
    assert few < many
    proven, repaired = (times(plan, *sizes, H100, repaired=share).repair for share in (0.0, 0.1))
    assert proven < repaired


def test_ranking_a_tile_is_cheap() -> None:
    tile = fp16_tiles(90)[0]
    runs = timeit.repeat(
        lambda: scan_seconds(tile, "fp16", 8192, 262_144, 512, H100), number=200, repeat=20
    )
    assert min(runs) / 200 < 20e-6


def test_pages_are_those_of_the_layout() -> None:
    _triton_int8 = pytest.importorskip("flashmatch.kernels._triton_int8")
    assert _triton_int8.LAYOUT.span == model.PAGE


def test_fitting_finds_the_efficiencies_that_made_the_times() -> None:
    true = replace(H100, tensor_efficiency=0.31, memory_efficiency=0.63)
    rows = []
    for sizes in ((8192, 262_144, 1536, 10), (1024, 1_000_000, 768, 10), (4, 4_000_000, 256, 1)):
        for make in (float_plan, codes_plan):
            plan = make(*sizes, H100)
            rows.append(model.Search(plan, *sizes, "cosine", 4, times(plan, *sizes, true)))
    found = model.fit(rows, H100)
    assert found.tensor_efficiency == pytest.approx(0.31, abs=0.005)
    assert found.memory_efficiency == pytest.approx(0.63, abs=0.005)
    with pytest.raises(ValueError, match="searches must hold at least one"):
        model.fit([], H100)
