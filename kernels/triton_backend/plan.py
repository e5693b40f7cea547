"""What a search launches: a pure function of shape, dtype and chip."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

from . import rounds
from .chips import Chip
from .rounds import FEW_SLOTS, LEAST_CAPACITY, LEAST_GROWTH, MANY_SLOTS, PACK, room_for
from .tiles import (
    FEW_QUERIES,
    GROUP,
    RDNA,
    TILE_P,
    Tile,
    cdiv,
    few_tile,
    int8_tiles,
    is_amd,
    masked,
    settle_options,
    tf32_tile,
)
from .tuned_tiles import Tuned

MOST_QUERIES = 16384  # of a block
MOST_QUERIES_AT_LEISURE = 2048  # of one whose queries have many slots each
WHOLE_ELEMENTS = 2**22
"""Coordinates that a single launch multiplies in fp64. By arithmetic, an H100 turns so many into
fp64 in 2 microseconds, where a launch takes some 10 of the host. Not measured."""
WHOLE_OF_QUERY = 2**18
"""Of those the most of one query, for which one program works: by arithmetic some 64 turns of 64 x
64 coordinates, each as long as memory lets it wait. Not measured."""
WHOLE_ROWS = 2048  # whose keys a program holds
WHOLE_K = 256  # ranked among each other in registers
PROGRAMS = 8  # of those that settle queries, on each multiprocessor
ROW_REGISTERS = 255  # fp64 rows need a few more than ptxas would spend, and it would rather spill


@dataclass(frozen=True)
class Prototypes:
    """Those of a search, as far as its plan depends on them."""

    rows: int  # of the largest part that is searched by itself
    channels: int
    width: int  # of codes
    unit: int  # rows are taken by multiples of it
    brought_bytes: int = 0  # from another device, for each row of a chunk
    coded_bytes: int = 0  # made of each
    copied_rows: int = 0  # beside a chunk, in fp64 at most
    readable: bool = False  # as they are, by the TF32 screen
    half: bool = False  # each fits TF32 exactly
    together: bool = False  # one tensor, on the queries' device, that may be searched at once


@dataclass(frozen=True)
class SearchPlan:
    """Each value is a constexpr of a kernel or sizes a buffer."""

    tile: Tile
    few: bool  # few queries: the prototypes are the M side of products
    whole: bool  # few prototypes: each is scored in fp64, and nothing is screened
    tf32: bool  # read prototypes as given, once, instead of codes
    half: bool  # of which each fits TF32 exactly
    query_rows: int  # queries per block, a multiple of tile.block_q
    chunk_rows: int  # prototypes at a time
    slots: int  # that a program which settles a query holds: FEW_SLOTS or MANY_SLOTS
    strips: int  # programs of a round that share a tile of queries
    capacity: int  # entries of a segment
    growth: float
    programs: int  # that settle queries
    arch: int

    code_rows = 16  # queries per program of the kernel that prepares them: a part of every tile

    @cached_property
    def columns(self) -> int:
        """Segments of a query in a strip."""
        return 1 if self.few else self.tile.block_p // GROUP

    @cached_property
    def segments(self) -> int:
        """Of a query."""
        return self.strips * self.columns

    @cached_property
    def roomy(self) -> int:
        """Tiles at most for whose groups there is always room."""
        return self.strips * (self.capacity * self.columns * GROUP // self.tile.block_p)

    @cached_property
    def settle_options(self) -> dict[str, int]:
        """Of the program that settles queries."""
        return settle_options(self.arch, many=self.slots == MANY_SLOTS, coded=not self.tf32)

    @cached_property
    def row_options(self) -> dict[str, int]:
        """For kernels that hold fp64 rows and are rarely the bottleneck."""
        return {"num_warps": 4} | ({} if is_amd(self.arch) else {"maxnreg": ROW_REGISTERS})

    @cached_property
    def whole_options(self) -> dict[str, int]:
        """Of the program that scores all prototypes."""
        return self.row_options | {"num_warps": 8}

    def ends(self, tiles: int) -> list[int]:
        """Where the rounds of so many tiles end."""
        return rounds.ends(tiles, self.roomy, self.growth)


@lru_cache(maxsize=256)  # a search that is asked for again is planned already
def choose_plan(
    queries: int, given: Prototypes, k: int, *, chip: Chip, workspace: int,
    pairs: bool = False, tuned: Tuned | None = None,
) -> SearchPlan:  # fmt: skip
    """The plan within ``workspace`` bytes; ``pairs``: the mask is of pairs."""
    few = queries <= FEW_QUERIES
    tf32 = few and given.readable and chip.arch != RDNA
    tile = _tile(queries, given, few, tf32, chip.arch, pairs, tuned)
    programs = PROGRAMS * chip.multiprocessors
    columns = 1 if few else tile.block_p // GROUP

    def bytes_held(slots: int, query_rows: int, rows: int) -> int:
        copied = min(given.copied_rows, rows) * given.channels * 8
        words = rows // GROUP * 4 if pairs else 0
        width = 4 * given.width if tf32 else given.width
        per_query = slots * 8 + slots // LEAST_CAPACITY * 8 + width + words + 64
        keys = PACK * GROUP + 2 * (k + room_for(k))
        scratch = min(programs, query_rows) * (slots * 4 + keys * 8)
        per_row = given.brought_bytes + (0 if tf32 else given.coded_bytes)
        per_chunk = rows * per_row + rows // GROUP * 4
        return query_rows * per_query + per_chunk + copied + scratch

    for slots, most in ((FEW_SLOTS, MOST_QUERIES), (MANY_SLOTS, MOST_QUERIES_AT_LEISURE)):
        query_rows, rows = _shrunk(
            min(pad(queries, tile.block_q), most), pad(max(1, given.rows), given.unit),
            tile.block_q, given.unit, workspace, partial(bytes_held, slots),
        )  # fmt: skip
        wanted = min(2 * chip.multiprocessors // (query_rows // tile.block_q), rows // TILE_P)
        strips, capacity, growth = rounds.strips_and_capacity(wanted, columns, k, slots)
        if 2 * strips > wanted and growth >= LEAST_GROWTH:
            break
    return SearchPlan(
        tile=tile,
        few=few,
        whole=given.together and is_whole(queries, given.rows, given.channels, k),
        tf32=tf32,
        half=given.half,
        query_rows=query_rows,
        chunk_rows=rows,
        slots=slots,
        strips=strips,
        capacity=capacity,
        growth=growth,
        programs=programs,
        arch=chip.arch,
    )


def is_whole(queries: int, rows: int, channels: int, k: int) -> bool:
    """Whether a search is so small that launches are what it costs: see WHOLE_ELEMENTS."""
    each = rows * channels
    fits = each <= WHOLE_OF_QUERY and queries * each <= WHOLE_ELEMENTS
    return fits and rows <= WHOLE_ROWS and k <= WHOLE_K


def _tile(
    queries: int, given: Prototypes, few: bool, tf32: bool, arch: int, pairs: bool,
    tuned: Tuned | None,
) -> Tile:  # fmt: skip
    """The tile that was found to be fastest on the user's own card, or else the plainest."""
    if few:
        return tf32_tile(given.half, arch) if tf32 else few_tile(arch)
    tiles = int8_tiles(given.width, arch)
    if pairs:
        return masked(tiles)
    found = tuned.tile(min(queries, MOST_QUERIES), given.channels, tiles) if tuned else None
    return found or tiles[0]


def _shrunk(
    query_rows: int, rows: int, block_q: int, unit: int, workspace: int,
    held: Callable[[int, int], int],
) -> tuple[int, int]:  # fmt: skip
    """Fewer queries, then fewer prototypes at a time, until ``held`` of both fits.

    A tenth is left to the allocator's rounding.
    """
    while held(query_rows, rows) > workspace * 9 // 10:
        if query_rows > 8 * block_q or (rows <= 4096 and query_rows > block_q):
            query_rows = pad(query_rows // 2, block_q)
        elif rows > unit:
            rows = pad(rows // 2, unit)
        else:
            break
    return query_rows, rows


def pad(n: int, multiple: int) -> int:
    return cdiv(n, multiple) * multiple
