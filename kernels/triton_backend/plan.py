"""Tiles, groups and chunk sizes: a pure function of shape, dtype and chip."""

from collections.abc import Callable
from dataclasses import dataclass

from ..proofs import fp16, int8
from .chips import Chip
from .tiles import (
    GROUP,
    RAW_QUERIES,
    RDNA,
    WIDTH,
    Screen,
    Tile,
    fp16_tiles,
    is_amd,
    masked,
    raw_tile,
)
from .tuned_tiles import Tuned

MAX_K = 1024
MAX_CHANNELS = min(fp16.MAX_CHANNELS, int8.MAX_CHANNELS)  # of either screen
MOST_QUERIES = 8192  # of a block
ROW_REGISTERS = 255  # fp64 rows need a few more than ptxas would spend, and it would rather spill


@dataclass(frozen=True)
class ScanPlan:
    """What any search launches: each value is a constexpr of a kernel or sizes a buffer."""

    tile: Tile
    group: int  # prototypes per group
    query_rows: int  # queries per block, a multiple of tile.block_q
    kept: int  # groups rescored per query and chunk, where the chunk has as many
    held: int  # ranks, by the repair kernel
    row_registers: int | None

    prepare_rows = 32  # rows per program of the kernels that prepare prototypes and masks
    prepare_queries = 16  # per program of theirs: a part of every tile
    rescore_pack = 2  # groups that a rescoring program takes together
    repair_groups = 256  # bounds a repair program looks at together

    @property
    def row_options(self) -> dict[str, int]:
        """For kernels that hold fp64 rows and are rarely the bottleneck."""
        return {"num_warps": 4} | ({"maxnreg": self.row_registers} if self.row_registers else {})


@dataclass(frozen=True)
class TritonPlan(ScanPlan):
    """A search of prototypes as given."""

    raw: bool  # read the prototypes as given, once (few queries), instead of a prepared fp16 copy
    half: bool  # every prototype fits TF32 exactly
    chunk_rows: int  # prototypes per chunk


def choose_plan(
    queries: int, prototypes: int, channels: int, k: int, *, half: bool, raw: bool,
    chip: Chip, workspace: int, pairs: bool = False, chunk_rows: int | None = None,
    streamed_bytes: int = 0, tuned: Tuned | None = None,
) -> TritonPlan:  # fmt: skip
    """The plan within ``workspace`` bytes.

    ``half``: fp16 or bf16 prototypes; ``raw``: their dtype allows the raw screen; ``pairs``: the
    mask is of pairs; ``streamed_bytes``: bytes per prototype copied from another device, 0 if none;
    ``tuned``: what was found on the user's own card.
    """
    raw = raw and queries <= RAW_QUERIES and chip.arch != RDNA
    kept = k + max(8, k // 4)
    padded = pad(channels, WIDTH)
    longest = 2**22 if raw else 2**18
    rows = min(prototypes, chunk_rows or prototypes, longest)
    if raw:
        tile = raw_tile(half, chip.arch)
    else:
        tiles = fp16_tiles(chip.arch)
        tile = chosen_tile("fp16", tiles, queries, channels, pairs, tuned)
    query_rows = min(pad(queries, tile.block_q), MOST_QUERIES)

    def bytes_held(query_rows: int, rows: int) -> int:
        per_prototype = streamed_bytes + 4 * 4 + (0 if raw else 2 * padded)
        groups = pad(rows, tile.block_p) // GROUP
        taken = min(kept + 1, groups)
        keys = k + min(kept, groups) * GROUP
        per_query = padded * 12 + groups * 4 + taken * 24 + keys * 8 + k * 40 + 64
        return pad(rows, tile.block_p) * per_prototype + query_rows * per_query + groups * 4

    query_rows, rows = shrunk(query_rows, rows, tile.block_q, tile.block_p, workspace, bytes_held)
    return TritonPlan(
        raw=raw,
        half=half,
        tile=tile,
        group=GROUP,
        query_rows=query_rows,
        chunk_rows=rows,
        kept=kept,
        held=_held(k),
        row_registers=None if is_amd(chip.arch) else ROW_REGISTERS,
    )


def chosen_tile(
    screen: Screen, tiles: tuple[Tile, ...], queries: int, channels: int, pairs: bool,
    tuned: Tuned | None,
) -> Tile:  # fmt: skip
    """The tile that was found to be fastest on the user's own card, or else the plainest."""
    if pairs:
        return masked(tiles)
    found = tuned.tile(screen, min(queries, MOST_QUERIES), channels, tiles) if tuned else None
    return found or tiles[0]


def shrunk(
    query_rows: int, rows: int, block_q: int, block_p: int, workspace: int,
    held: Callable[[int, int], int],
) -> tuple[int, int]:  # fmt: skip
    """Fewer queries, then fewer prototypes at a time, until ``held`` of both fits.

    A tenth is left to torch.topk and the allocator's rounding.
    """
    while held(query_rows, rows) > workspace * 9 // 10:
        if query_rows > 8 * block_q or (rows <= 4096 and query_rows > block_q):
            query_rows = pad(query_rows // 2, block_q)
        elif rows > block_p:
            rows = pad(rows // 2, block_p)
        else:
            break
    return query_rows, rows


def _held(k: int) -> int:
    return next(b for b in (16, 128, MAX_K) if b >= k)


def pad(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
