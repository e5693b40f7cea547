"""How a scan is cut into programs: the tiles that each chip may run, and which of them it does."""

from dataclasses import dataclass, replace
from functools import cached_property

# Architectures: 80, 86, 90 ... for compute capability 8.0, 8.6, 9.0 ...; and of AMD:
HIP = 0  # gfx942
RDNA = 1  # gfx11: no product of TF32 precision
WIDTH = 64  # channels are padded to a multiple of this
GROUP = 16  # prototypes that share a bound
TILE_P = 128  # prototypes whose groups interleave: group i is rows i, i + groups, ... of its tile
FEW_QUERIES = 16  # at most: the prototypes are the M side of products


@dataclass(frozen=True)
class Tile:
    """What one program of a scan multiplies."""

    block_q: int
    block_p: int  # a multiple of TILE_P
    tile_c: int  # channels loaded at a time
    warps: int
    stages: int
    registers: int | None = None  # most per thread; None: the compiler's choice

    @cached_property
    def options(self) -> dict[str, int]:
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options | ({"maxnreg": self.registers} if self.registers else {})


def int8_tiles(width: int, arch: int) -> tuple[Tile, ...]:
    """For many queries against codes of ``width`` bytes. Untuned plans take the first."""
    if is_amd(arch):
        return (Tile(128, 128, 64, 8, 2),)
    if arch != 90 and not _keeps_sums_apart(arch):
        return (Tile(128, 128, 64, 8, 4),)
    # At 128 channels or fewer a program's queries stay with it.
    tile_c = 128 if width == 128 else 64
    registers = 128 if arch == 90 else None  # two programs fit a multiprocessor
    return (Tile(128, 128, tile_c, 8, 3, registers), Tile(128, 256, tile_c, 8, 3))


def masked(tiles: tuple[Tile, ...]) -> Tile:
    """The tile for masks of pairs: unpacking takes registers, and time that no other tile saves."""
    return replace(tiles[0], registers=None)


def tf32_tile(half: bool, arch: int) -> Tile:
    """For at most FEW_QUERIES against prototypes as given."""
    tile_c, warps = (64, 8) if half else (32, 4)
    if is_amd(arch):
        return Tile(FEW_QUERIES, TILE_P, tile_c, warps, 2)
    # With 255 registers, ptxas does not spill; left alone, it spills a little to fit more programs.
    return Tile(FEW_QUERIES, TILE_P, tile_c, warps, 4, registers=255)


def few_tile(arch: int) -> Tile:
    """For at most FEW_QUERIES against codes: bound by memory, so small and many in flight."""
    if is_amd(arch):
        return Tile(FEW_QUERIES, TILE_P, 64, 4, 2)
    registers = None if _keeps_sums_apart(arch) else 128
    return Tile(FEW_QUERIES, TILE_P, 64, 4, 4, registers)


def settle_options(arch: int, many: bool, coded: bool) -> dict[str, int]:
    """Of the program that settles queries of a few slots, or of many: what spills nothing."""
    options = {"num_warps": 8 if many else 4}
    if is_amd(arch):
        return {"num_warps": 16} if many and arch == RDNA else options
    # Left alone, ptxas would spill a little elsewhere, to fit more programs.
    return options if arch == 90 and (coded or many) else options | {"maxnreg": 255}


def is_amd(arch: int) -> bool:
    return arch in (HIP, RDNA)


def _keeps_sums_apart(arch: int) -> bool:
    """Whether tensor cores sum in a memory of their own: those of 10.x do, those of 12.x do not."""
    return arch // 10 == 10


def cdiv(count: int, size: int) -> int:
    """How many of this size have room for so many. Triton's own takes the host 5 microseconds."""
    return -(-count // size)
