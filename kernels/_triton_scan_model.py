"""How long one scan should take, from its tile and a chip's data sheet: cheap enough to rank tiles.

Pure arithmetic; nothing here was measured on a device. No plan is imported, so that plans may
choose their tiles by it. The scan is as slow as the slowest of four
things: a multiprocessor's tensor cores and its epilogues, the life of a block times the number of
waves, the cache that feeds the tiles, and memory.
"""

from math import inf
from typing import Literal

from ._chips import Chip
from ._triton_tiles import GROUP, WIDTH, Tile

Screen = Literal["int8", "fp16", "tf32"]

LATENCY = 0.6e-6
"""Seconds from a load to its use, under load. An H100's memory takes 0.37 us when idle."""

CACHE_SHARE = 0.6
"""Of the shared cache, what stays in it while a scan streams past. A100's L2 slows beyond that."""

ELEMENT_SIZE = {"int8": 1, "fp16": 2, "tf32": 4}
MULTIPLY_ADDS = {
    "int8": {"cosine": 0, "dot": 0, "l2": 0},
    "fp16": {"cosine": 1, "dot": 1, "l2": 2},
    "tf32": {"cosine": 2, "dot": 2, "l2": 3},
}
"""fp32 instructions per score before the maximum; integers need none."""

GROUP_INSTRUCTIONS = {"int8": 24, "fp16": 6, "tf32": 8}
"""fp32 instructions per group after the maximum, counted in the kernels' sources."""

OVERHEAD_REGISTERS = 56
"""Per thread beside the accumulator: compiled tiles of 128 x 128 need 118 to 125 in all."""


def scan_seconds(
    tile: Tile,
    screen: Screen,
    queries: int,
    prototypes: int,
    channels: int,
    chip: Chip,
    metric: str = "cosine",
    element_size: int | None = None,
    group: int = GROUP,
) -> float:
    """Predicted seconds of one launch; inf for a tile that does not fit the chip.

    With P programs, S multiprocessors and b blocks on each: the largest of

        ceil(P / S) max(product, epilogue)                what a multiprocessor's units need
        ceil(P / (S b)) (latency + product + epilogue)    waves of blocks, one after another
        P (BLOCK_Q + BLOCK_P) C / cache bandwidth         every program loads its own tiles
        scan_bytes / bandwidth

    Persistent programs are one for each multiprocessor, and wait for their first loads only.
    ``element_size``: bytes of a prototype's channel, where the screen reads them as given.
    """
    width = -(-channels // WIDTH) * WIDTH
    q_tiles, p_tiles = -(-queries // tile.block_q), -(-prototypes // tile.block_p)
    q_size = ELEMENT_SIZE[screen]
    p_size = element_size if element_size and screen == "tf32" else q_size
    blocks = resident_blocks(tile, screen, chip, p_size)
    if not blocks:
        return inf
    programs, multiprocessors = q_tiles * p_tiles, chip.multiprocessors
    tensor_rate = getattr(chip, screen) * chip.tensor_efficiency / multiprocessors
    product = 2 * tile.block_q * tile.block_p * width / tensor_rate
    epilogue = epilogue_seconds(tile, screen, width, metric, group, chip)
    waves = -(-programs // (multiprocessors * blocks))
    loads = programs * (tile.block_q * q_size + tile.block_p * p_size) * width
    resident = multiprocessors * blocks
    moved = scan_bytes(
        tile, q_tiles, p_tiles, width * q_size, width * p_size, group, chip, resident
    )
    return max(
        -(-programs // multiprocessors) * max(product, epilogue),
        (1 if tile.persistent else waves) * LATENCY + waves * (product + epilogue),
        loads / chip.cache_bandwidth,
        moved / (chip.bandwidth * chip.memory_efficiency),
    )


def resident_blocks(tile: Tile, screen: Screen, chip: Chip, p_size: int) -> int:
    """Blocks on a multiprocessor at a time, by registers, shared memory and threads; 0: too large.

    The raw screen widens prototypes in registers, and is taken to need all that it may.
    """
    threads = tile.warps * chip.warp
    shared = shared_bytes(tile, screen, chip.arch, p_size)
    if shared > chip.shared_per_block:
        return 0
    most = tile.registers or 255
    accumulator = tile.block_q * tile.block_p // threads
    registers = most if screen == "tf32" else min(most, accumulator + OVERHEAD_REGISTERS)
    by_shared = chip.shared_per_multiprocessor // (shared + chip.reserved)
    if tile.persistent:
        return 1
    return min(chip.registers // (threads * registers), by_shared, chip.threads // threads)


def shared_bytes(tile: Tile, screen: Screen, arch: int, p_size: int) -> int:
    """stages x (BLOCK_Q + BLOCK_P) x TILE_C elements, or one stage fewer before wgmma.

    Tensor cores that read registers need no place for the tile that they work on.
    """
    held = tile.stages if arch >= 90 else tile.stages - 1
    return held * tile.tile_c * (tile.block_q * ELEMENT_SIZE[screen] + tile.block_p * p_size)


def epilogue_seconds(
    tile: Tile, screen: Screen, width: int, metric: str, group: int, chip: Chip
) -> float:
    """Of one tile on one multiprocessor: a maximum for each score, and fp32 beside it.

    maxima / (lanes clock) + (scores multiply-adds + groups instructions) / (fp32 rate / 2)

    The raw screen also squares, sums and compares each channel of its prototypes.
    """
    scores = tile.block_q * tile.block_p
    maxima, adds = scores, scores * MULTIPLY_ADDS[screen][metric]
    adds += scores // group * GROUP_INSTRUCTIONS[screen]
    if screen == "tf32":
        maxima += tile.block_p * width
        adds += 2 * tile.block_p * width
    instruction_rate = chip.fp32 / 2 / chip.multiprocessors
    return maxima / (chip.minmax_lanes * chip.clock) + adds / instruction_rate


def scan_bytes(
    tile: Tile,
    q_tiles: int,
    p_tiles: int,
    q_row: int,
    p_row: int,
    group: int,
    chip: Chip,
    resident: int,
) -> float:
    """Bytes to and from memory: prototypes once, queries once or more, bounds written.

    Tiles of prototypes go round the queries ``together``, so these come from memory once. All
    queries pass by for each such round: they stay in the cache where they fit, and are otherwise
    read again each time, though never more often than ``resident`` programs run.
    """
    rows = q_tiles * tile.block_q
    passes = 1.0
    if rows * q_row > CACHE_SHARE * chip.cache_bytes:
        rounds = -(-p_tiles // tile.together)
        passes = max(1.0, min(rounds, q_tiles * p_tiles / resident))
    bounds = 4 * rows * (p_tiles * tile.block_p // group)
    return rows * q_row * passes + p_tiles * tile.block_p * p_row + bounds
