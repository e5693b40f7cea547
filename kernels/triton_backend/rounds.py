"""How a search of codes goes in rounds: a pure function of shape and chip.

Round after round takes further tiles of prototypes, and appends what reaches the threshold that the
rounds before have proven. The first has none, so all of its groups are appended: it has as many
tiles as the entries have room for. Each next may have ``growth`` times as many as all before: of m
tiles after m_0, some k * m / m_0 prototypes are better than the k best of the first, and a screen
lets some more pass.

A query's entries lie in segments, one for each strip and column of groups, of ``capacity`` each.
What passes falls into them at random, since the tiles of a strip are spread evenly: a Poisson
number of mean ``few_of(capacity)`` exceeds the capacity about once in 10^4. What is lost is scanned
again; it costs time, never a match.
"""

from dataclasses import dataclass
from functools import partial
from math import gcd

from .chips import Chip
from .plan import ROW_REGISTERS, chosen_tile, pad, shrunk
from .tiles import GROUP, RAW_QUERIES, TILE_P, Tile, few_tile, int8_tiles, is_amd, settle_options
from .tuned_tiles import Tuned

MAX_K = 2048
MOST_QUERIES = 16384  # of a block
MOST_QUERIES_AT_LEISURE = 2048  # of one whose queries have many slots each
FEW_SLOTS, MANY_SLOTS = 1024, 4096
PASSED_PER_MATCH = 3.0
"""Groups appended for each prototype that is better than the k best before: counted on a CPU, 1.3
to 2.6 of 128 to 256 channels, of 768 1.4 (low rank) and 4.6 (Gaussian): docs/decisions/0017."""
LEAST_GROWTH, LEAST_CAPACITY = 4.0, 8
"""Below either, queries get many slots: with segments of 4, two in five of 768 Gaussian channels
lost entries."""
LEAST_STRIPS = 8
STRADDLING_PAGES = 2  # pages of rows copied together where they lie across chunks
PACK = 8  # groups whose members are looked at together
PROGRAMS = 8  # of those that settle queries, on each multiprocessor


@dataclass(frozen=True)
class CodesPlan:
    """What a search of int8 codes launches."""

    tile: Tile
    few: bool  # few queries: the prototypes are the M side of products
    query_rows: int  # queries per block, a multiple of tile.block_q
    chunk_pages: int
    slots: int  # that a program which settles a query holds: FEW_SLOTS or MANY_SLOTS
    strips: int  # programs of a round that share a tile of queries
    capacity: int  # entries of a segment
    growth: float
    programs: int  # that settle queries
    arch: int

    code_rows = 16  # queries per program of the kernel that codes them: a part of every tile
    group = GROUP

    @property
    def held(self) -> int:
        return self.slots

    @property
    def segments(self) -> int:
        """Of a query."""
        return self.strips * self.tile.block_p // GROUP

    @property
    def settle_options(self) -> dict[str, int]:
        """Of the program that settles queries."""
        return settle_options(self.arch, many=self.slots == MANY_SLOTS)

    @property
    def row_options(self) -> dict[str, int]:
        """For kernels that hold fp64 rows and are rarely the bottleneck."""
        return {"num_warps": 4} | ({} if is_amd(self.arch) else {"maxnreg": ROW_REGISTERS})

    def ends(self, tiles: int) -> list[int]:
        """Where the rounds of so many tiles end."""
        ends = [min(tiles, self.strips * self.capacity)]
        while ends[-1] < tiles:
            ends.append(min(tiles, int(ends[-1] * (1 + self.growth)) + 1))
        return ends


def room_for(k: int) -> int:
    """Keys that may wait beside the k best of a query."""
    return pad(max(k, 256), 128)


def spread(tiles: int) -> int:
    """The step of an order in which every prefix of the tiles is spread evenly.

    By the golden ratio. Odd, since rows of a page are sorted by size and a page is 8 tiles: an even
    step would visit some sizes first.
    """
    step = int(tiles * 0.6180339887) | 1
    while gcd(step, tiles) > 1:
        step += 2
    return step % tiles if tiles > 1 else 0


def few_of(capacity: int) -> float:
    """The mean of a Poisson number that seldom exceeds ``capacity``."""
    return ((capacity + 4) ** 0.5 - 2) ** 2


def choose_codes_plan(
    queries: int, pages: int, channels: int, k: int, *, span: int, width: int,
    chip: Chip, workspace: int, pairs: bool = False, tuned: Tuned | None = None,
) -> CodesPlan:  # fmt: skip
    """The plan within ``workspace`` bytes for codes (pages * span, width) in tiles."""
    few = queries <= RAW_QUERIES
    if few:
        tile = few_tile(chip.arch)
    else:
        tile = chosen_tile(
            "int8", int8_tiles(width, chip.arch), min(queries, MOST_QUERIES), channels, pairs, tuned
        )
    columns = tile.block_p // GROUP
    programs = PROGRAMS * chip.multiprocessors

    def bytes_held(slots: int, query_rows: int, rows: int) -> int:
        straddling = min(STRADDLING_PAGES * span, rows) * channels * 8
        words = rows // GROUP * 4 if pairs else 0
        per_query = slots * 8 + slots // LEAST_CAPACITY * 8 + width + words + 64
        keys = PACK * GROUP + 2 * (k + room_for(k))
        scratch = min(programs, query_rows) * (slots * 4 + keys * 8)
        return query_rows * per_query + rows // GROUP * 4 + straddling + scratch

    for slots, most in ((FEW_SLOTS, MOST_QUERIES), (MANY_SLOTS, MOST_QUERIES_AT_LEISURE)):
        query_rows, rows = shrunk(
            min(pad(queries, tile.block_q), most), max(1, pages) * span, tile.block_q, span,
            workspace, partial(bytes_held, slots),
        )  # fmt: skip
        wanted = min(2 * chip.multiprocessors // (query_rows // tile.block_q), rows // TILE_P)
        least = LEAST_CAPACITY if slots == FEW_SLOTS else LEAST_CAPACITY // 2
        strips = min(_power_of_two(wanted), slots // (least * columns))
        growth = _growth(slots, strips * columns, k)
        if strips == _power_of_two(wanted) and growth >= LEAST_GROWTH:
            break
    while growth < 1 and strips > LEAST_STRIPS:  # larger segments are fuller
        strips //= 2
        growth = _growth(slots, strips * columns, k)
    return CodesPlan(
        tile=tile,
        few=few,
        query_rows=query_rows,
        chunk_pages=rows // span,
        slots=slots,
        strips=strips,
        capacity=slots // (strips * columns),
        growth=growth,
        programs=programs,
        arch=chip.arch,
    )


def _growth(slots: int, segments: int, k: int) -> float:
    """How many tiles a round may have for each that was seen before."""
    return few_of(slots // segments) * segments / (PASSED_PER_MATCH * k)


def _power_of_two(number: int) -> int:
    """The largest that is not above ``number``; 1 at least."""
    return 1 << max(0, number.bit_length() - 1)
