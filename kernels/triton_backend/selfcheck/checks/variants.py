"""Variants: searches whose kernels are compiled apart, and so are checked apart."""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ....contract.metrics import METRICS
from ....contract.request import Request
from ...chips import Chip
from ...plan import WHOLE_ROWS, SearchPlan
from ...rounds import MANY_SLOTS
from ...tiles import FEW_QUERIES, RDNA, Tile, few_tile, int8_tiles, masked, tf32_tile

TF32, PASSING, BANK, WHOLE = "tf32", "codes in passing", "codes", "none"
"""Prototypes as given, read; coded by the search; coded by a bank; few, and each of them scored."""
WIDTH = 128
"""Of codes in every check, in channels: whole tiles of any kind."""


@dataclass(frozen=True)
class Variant:
    """What decides which kernels a search launches, beside sizes."""

    screen: str  # one of those above
    metric: str
    queries: torch.dtype
    prototypes: torch.dtype
    masked: bool  # whether the scan reads a mask: of pairs, or of rows in the TF32 screen
    slots: int  # that the program holds which settles a query: entries, or prototypes
    tile: Tile

    def __str__(self) -> str:
        """As a person can read it, and a file keep it."""
        q, p = (str(dtype).removeprefix("torch.") for dtype in (self.queries, self.prototypes))
        dtypes, masked = q if q == p else f"{q} {p}", "masked, " if self.masked else ""
        tile = " ".join(map(str, astuple(self.tile)))
        return f"{self.screen}, {self.metric}, {dtypes}, {masked}{self.slots} slots, tile {tile}"

    @property
    def few(self) -> bool:
        return self.tile.block_q == FEW_QUERIES

    @property
    def half(self) -> bool:
        return self.prototypes in (torch.float16, torch.bfloat16)


def of_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: SearchPlan
) -> list[Variant]:
    """Those of a search of prototypes as given: one for each of their dtypes."""
    if plan.whole:
        return [_of_whole(request.metric, queries.dtype, prototypes[0].dtype)]
    screen = TF32 if plan.tf32 else PASSING
    masked = request.has_pairs or (plan.tf32 and request.mask is not None)
    return _by_dtype(screen, masked, queries, prototypes, request, plan)


def of_codes(
    queries: Tensor, rows: list[Tensor], request: Request, plan: SearchPlan
) -> list[Variant]:
    """Those of a search of a bank."""
    return _by_dtype(BANK, request.has_pairs, queries, rows, request, plan)


def _by_dtype(
    screen: str,
    masked: bool,
    queries: Tensor,
    chunks: list[Tensor],
    request: Request,
    plan: SearchPlan,
) -> list[Variant]:
    return [
        Variant(screen, request.metric, queries.dtype, dtype, masked, plan.slots, plan.tile)
        for dtype in dict.fromkeys(chunk.dtype for chunk in chunks)
    ]


def defaults(chip: Chip) -> tuple[Variant, ...]:
    """Each screen with each metric, dtypes and masks in turn: every kernel of untuned plans."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    screens = [(TF32, True), (PASSING, False), (BANK, True), (BANK, False)]
    if chip.arch == RDNA:
        screens[0] = PASSING, True
    found = []
    for i, (screen, few) in enumerate(screens):
        for j, (metric, dtype) in enumerate(zip(METRICS, dtypes, strict=True)):
            pairs = (i + j) % len(METRICS) == 0
            tile = _plain_tile(screen, few, dtype != torch.float32, pairs, chip.arch)
            found.append(Variant(screen, metric, dtype, dtype, pairs, MANY_SLOTS, tile))
    whole = (_of_whole(metric, dtype, dtype) for metric, dtype in zip(METRICS, dtypes, strict=True))
    return (*found, *whole)


def _of_whole(metric: str, queries: torch.dtype, prototypes: torch.dtype) -> Variant:
    """Where no tile is scanned, and no mask is packed."""
    return Variant(WHOLE, metric, queries, prototypes, False, WHOLE_ROWS, few_tile(0))


def _plain_tile(screen: str, few: bool, half: bool, pairs: bool, arch: int) -> Tile:
    """That of untuned plans."""
    if few:
        return tf32_tile(half, arch) if screen == TF32 else few_tile(arch)
    tiles = int8_tiles(WIDTH, arch)
    return masked(tiles) if pairs else tiles[0]
