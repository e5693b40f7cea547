"""The plan is a pure function that keeps to its workspace."""

from dataclasses import replace

import pytest

pytest.importorskip("triton")

from flashmatch.kernels.triton_backend import rounds
from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.plan import (
    Prototypes,
    SearchPlan,
    choose_plan,
    is_whole,
    pad,
)
from flashmatch.kernels.triton_backend.rounds import MAX_K
from flashmatch.kernels.triton_backend.tiles import (
    FEW_QUERIES,
    GROUP,
    HIP,
    RDNA,
    TILE_P,
    few_tile,
    int8_tiles,
    tf32_tile,
)
from flashmatch.kernels.triton_backend.vector_search import TERM_BYTES, UNIT

MIB = 2**20
H100 = Chip(90, 132)
ARCHS = [80, 89, 90, 100, 120, HIP, RDNA]


def vectors_plan(
    queries: int, rows: int, channels: int, k: int, *,
    readable: bool = True, half: bool = False, brought_bytes: int = 0, **changes: object,
) -> SearchPlan:  # fmt: skip
    """Of prototypes as given, as vector_search asks for it."""
    width = pad(channels, 64)
    given = Prototypes(
        rows, channels, width, UNIT, brought_bytes=brought_bytes, coded_bytes=width + TERM_BYTES,
        readable=readable, half=half,
    )  # fmt: skip
    return choose_plan(queries, given, k, **({"chip": H100, "workspace": 256 * MIB} | changes))


def codes_plan(queries: int, pages: int, channels: int, k: int, **changes: object) -> SearchPlan:
    """Of a bank's codes, as bank_search asks for it."""
    span = LAYOUT.span
    given = Prototypes(pages * span, channels, pad(channels, 64), span, copied_rows=2 * span)
    return choose_plan(queries, given, k, **({"chip": H100, "workspace": 256 * MIB} | changes))


def entries_and_scratch(chosen: SearchPlan, k: int) -> int:
    """Bytes of query_block.Entries, from the shapes there."""
    entries = chosen.query_rows * chosen.segments * (chosen.capacity * 8 + 4)
    kept = rounds.PACK * GROUP + 2 * (k + rounds.room_for(k))
    return entries + min(chosen.programs, chosen.query_rows) * (chosen.slots * 4 + kept * 8)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("brought_bytes", [0, 3072])
@pytest.mark.parametrize("workspace", [32 * MIB, 256 * MIB])
@pytest.mark.parametrize("k", [1, 10, MAX_K])
@pytest.mark.parametrize("channels", [16, 768])
@pytest.mark.parametrize("queries", [1, 1000, 10**6])
def test_largest_buffers_fit(
    queries: int, channels: int, k: int, workspace: int, brought_bytes: int, pairs: bool
) -> None:
    """Codes, their terms and places, prototypes from elsewhere, masks, queries and entries."""
    for readable in (False, True):
        chosen = vectors_plan(
            queries, 10**7, channels, k,
            readable=readable, brought_bytes=brought_bytes, workspace=workspace, pairs=pairs,
        )  # fmt: skip
        width, groups = pad(channels, 64), chosen.chunk_rows // GROUP
        codes = 0 if chosen.tf32 else chosen.chunk_rows * (width + 6) + groups * 36
        words = chosen.query_rows * groups * 4 if pairs else 0
        block = chosen.query_rows * (width * (4 if chosen.tf32 else 1) + 32)
        chunk = chosen.chunk_rows * brought_bytes + codes
        assert chunk + words + block + entries_and_scratch(chosen, k) <= workspace
        assert chosen.query_rows % chosen.tile.block_q == 0
        assert chosen.chunk_rows % UNIT == 0


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("workspace", [32 * MIB, 256 * MIB])
@pytest.mark.parametrize("k", [1, 10, MAX_K])
@pytest.mark.parametrize("channels", [16, 768])
@pytest.mark.parametrize("queries", [1, 1000, 10**6])
def test_largest_buffers_of_codes_fit(
    queries: int, channels: int, k: int, workspace: int, pairs: bool
) -> None:
    chosen = codes_plan(queries, 10**5, channels, k, workspace=workspace, pairs=pairs)
    words = chosen.query_rows * chosen.chunk_rows // GROUP * 4 if pairs else 0
    block = chosen.query_rows * (pad(channels, 64) + 32)
    copied = 2 * LAYOUT.span * channels * 8
    if (chosen.query_rows, chosen.chunk_rows) != (chosen.tile.block_q, LAYOUT.span):
        assert copied + words + block + entries_and_scratch(chosen, k) <= workspace
    assert chosen.query_rows % chosen.tile.block_q == 0
    assert chosen.chunk_rows % LAYOUT.span == 0


def test_a_workspace_that_holds_nothing_leaves_one_tile_of_each() -> None:
    for queries in (16, 10**6):
        chosen = vectors_plan(queries, 10**7, 768, MAX_K, readable=False, workspace=1)
        assert (chosen.query_rows, chosen.chunk_rows) == (chosen.tile.block_q, UNIT)
        assert chosen.roomy >= 1


def test_a_chunk_is_all_that_there_is_where_it_fits() -> None:
    for rows, chunk_rows in ((1, UNIT), (500, 2 * UNIT), (UNIT, UNIT), (10**6, pad(10**6, UNIT))):
        assert vectors_plan(100, rows, 64, 5).chunk_rows == chunk_rows
    whole = vectors_plan(16, 10**8, 64, 5)  # read where they lie: they take next to no room
    assert whole.tf32
    assert whole.chunk_rows == 10**8
    assert vectors_plan(16, 10**8, 64, 5, readable=False).chunk_rows < 10**7


def test_chunks_shrink_by_what_a_row_takes() -> None:
    rows = 10**7
    near, brought = (vectors_plan(17, rows, 768, 5, brought_bytes=n) for n in (0, 3 * 777))
    assert rows > near.chunk_rows > 2 * brought.chunk_rows
    assert vectors_plan(17, rows, 16, 5).chunk_rows > near.chunk_rows


def test_few_queries_read_prototypes_in_tf32_where_they_may_be() -> None:
    assert FEW_QUERIES == 16
    for arch in ARCHS:
        chip = Chip(arch, 96)
        for half in (False, True):
            chosen = vectors_plan(16, 1000, 64, 5, chip=chip, half=half)
            assert chosen.few
            assert chosen.half == half
            assert chosen.tf32 == (arch != RDNA)  # which multiplies no TF32
            assert chosen.tile == (tf32_tile(half, arch) if chosen.tf32 else few_tile(arch))
        unreadable = vectors_plan(16, 1000, 64, 5, chip=chip, readable=False)
        assert unreadable.few
        assert not unreadable.tf32
        assert unreadable.tile == few_tile(arch)
        many = vectors_plan(17, 1000, 64, 5, chip=chip)
        assert not many.few
        assert not many.tf32
        assert not codes_plan(16, 1, 64, 5, chip=chip).tf32


def test_amd_takes_no_register_limit() -> None:
    assert vectors_plan(100, 1000, 64, 5, chip=Chip(HIP, 304)).row_options == {"num_warps": 4}
    assert vectors_plan(100, 1000, 64, 5).row_options == {"num_warps": 4, "maxnreg": 255}


@pytest.mark.parametrize("k", [1, 10, 100, MAX_K])
@pytest.mark.parametrize("rows", [1000, 7000, 100_000, 10**7])
@pytest.mark.parametrize("queries", [1, 16, 17, 130, 1024, 2048, 16384, 10**6])
def test_rounds_take_every_tile_and_have_room(queries: int, rows: int, k: int) -> None:
    for chosen in (
        vectors_plan(queries, rows, 128, k),
        vectors_plan(queries, rows, 128, k, readable=False),
        codes_plan(queries, -(-rows // LAYOUT.span), 128, k),
    ):
        tiles = chosen.chunk_rows // chosen.tile.block_p
        ends = chosen.ends(tiles)
        assert ends[-1] == tiles
        assert ends == sorted(set(ends))
        assert chosen.segments * chosen.capacity <= chosen.slots
        assert len(ends) <= (24 if k == MAX_K else 12)
        q_tiles = chosen.query_rows // chosen.tile.block_q
        assert chosen.strips * q_tiles <= max(q_tiles, 2 * H100.multiprocessors)


@pytest.mark.parametrize("k", [1, 10, 300, MAX_K])
@pytest.mark.parametrize("multiprocessors", [2, 16, 132, 304])
@pytest.mark.parametrize("arch", ARCHS)
def test_there_is_always_room_for_the_first_round(arch: int, multiprocessors: int, k: int) -> None:
    """All groups of so many tiles, however they fall into segments."""
    chip = Chip(arch, multiprocessors)
    for queries in (1, 16, 17, 130, 5000, 10**6):
        for readable in (False, True):
            chosen = vectors_plan(queries, 10**6, 64, k, readable=readable, chip=chip)
            assert chosen.columns == (1 if chosen.few else chosen.tile.block_p // GROUP)
            assert chosen.roomy >= 1
            most = -(-chosen.roomy // chosen.strips)  # tiles of one strip
            appended = most * chosen.tile.block_p // GROUP // chosen.columns  # to one segment
            assert appended <= chosen.capacity
            assert chosen.ends(10**6)[0] <= chosen.roomy


@pytest.mark.parametrize(("queries", "rows"), [(16384, 100_000), (1024, 10**6), (1, 10**7)])
def test_common_searches_take_few_rounds(queries: int, rows: int) -> None:
    codes = codes_plan(queries, -(-rows // LAYOUT.span), 128, 10)
    for chosen in (codes, vectors_plan(queries, rows, 128, 10)):
        assert chosen.query_rows == pad(queries, chosen.tile.block_q)
        assert len(chosen.ends(-(-rows // TILE_P))) <= 4


def test_a_bank_that_fits_is_read_once() -> None:
    """16 queries against 30 million codes: one launch."""
    chosen = codes_plan(16, 30 * 10**6 // LAYOUT.span, 128, 10)
    assert chosen.few
    assert chosen.chunk_rows == 30 * 10**6 // LAYOUT.span * LAYOUT.span
    assert not codes_plan(17, 1000, 128, 10).few


@pytest.mark.parametrize("arch", ARCHS)
def test_untuned_plans_take_the_first_tile(arch: int) -> None:
    chip = Chip(arch, 132)
    for channels in (128, 1536):
        first = int8_tiles(channels, arch)[0]
        assert vectors_plan(8192, 10**6, channels, 10, chip=chip).tile == first
        assert codes_plan(8192, 10**4, channels, 10, chip=chip).tile == first


def test_masks_of_pairs_take_the_plainest_tile_with_all_registers() -> None:
    plainest = replace(int8_tiles(512, 90)[0], registers=None)
    for choose, rows in ((vectors_plan, 10**6), (codes_plan, 10**4)):
        assert choose(1000, rows, 512, 10).tile != plainest
        assert choose(1000, rows, 512, 10, pairs=True).tile == plainest


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 1000, 128, 10), True),
        ((1, 2048, 128, 256), True),
        ((1, 1, 1, 1), True),
        ((1, 2049, 16, 10), False),  # a program does not hold so many keys
        ((1, 2048, 16, 257), False),
        ((1, 1024, 1024, 10), False),  # too long for one program
        ((64, 1000, 128, 10), False),
    ],
)
def test_a_few_coordinates_are_searched_at_once(shape: tuple[int, ...], expected: bool) -> None:
    queries, rows, channels, k = shape
    assert is_whole(*shape) == expected
    given = Prototypes(rows, channels, pad(channels, 64), UNIT, together=True)
    for together in (True, False):
        own = replace(given, together=together)
        chosen = choose_plan(queries, own, k, chip=H100, workspace=256 * MIB)
        assert chosen.whole == (expected and together)
