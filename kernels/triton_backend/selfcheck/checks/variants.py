"""Variants: searches whose kernels are compiled apart, and so are checked apart."""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ....contract.metrics import METRICS
from ....contract.request import Request
from ...chips import Chip
from ...plan import TritonPlan
from ...rounds import MANY_SLOTS, CodesPlan
from ...tiles import RDNA, Tile, few_tile, fp16_tiles, int8_tiles, masked, raw_tile

SCREENS = ("raw", "prepared", "few codes", "codes")
"""Prototypes as given; their fp16 copies; codes for few queries; codes for many."""
WIDTH = 128
"""Of copies and codes in every check, in channels: whole tiles of any kind."""


@dataclass(frozen=True)
class Variant:
    """What decides which kernels a search launches, beside sizes."""

    screen: str  # of SCREENS
    metric: str
    queries: torch.dtype
    prototypes: torch.dtype
    masked: bool  # whether the scan reads a mask: of pairs, or of rows in the raw screen
    held: int  # what the program holds that finishes a query: of ranks, or of slots
    tile: Tile

    def __str__(self) -> str:
        """As a person can read it, and a file keep it."""
        q, p = (str(dtype).removeprefix("torch.") for dtype in (self.queries, self.prototypes))
        dtypes, masked = q if q == p else f"{q} {p}", "masked, " if self.masked else ""
        tile = " ".join(map(str, astuple(self.tile)))
        return f"{self.screen}, {self.metric}, {dtypes}, {masked}holding {self.held}, tile {tile}"

    @property
    def raw(self) -> bool:
        return self.screen == "raw"

    @property
    def few(self) -> bool:
        return self.screen in ("raw", "few codes")

    @property
    def by_codes(self) -> bool:
        return self.screen in ("few codes", "codes")

    @property
    def half(self) -> bool:
        return self.prototypes in (torch.float16, torch.bfloat16)


def of_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: TritonPlan
) -> list[Variant]:
    """Those of a search of prototypes as given: one for each of their dtypes."""
    screen = "raw" if plan.raw else "prepared"
    masked = request.has_pairs or (plan.raw and request.mask is not None)
    return _by_dtype(screen, masked, queries, prototypes, request, plan)


def of_codes(
    queries: Tensor, rows: list[Tensor], request: Request, plan: CodesPlan
) -> list[Variant]:
    """Those of a search of codes."""
    screen = "few codes" if plan.few else "codes"
    return _by_dtype(screen, request.has_pairs, queries, rows, request, plan)


def _by_dtype(
    screen: str,
    masked: bool,
    queries: Tensor,
    chunks: list[Tensor],
    request: Request,
    plan: TritonPlan | CodesPlan,
) -> list[Variant]:
    return [
        Variant(screen, request.metric, queries.dtype, dtype, masked, plan.held, plan.tile)
        for dtype in dict.fromkeys(chunk.dtype for chunk in chunks)
    ]


def defaults(chip: Chip) -> tuple[Variant, ...]:
    """Each screen with each metric, dtypes and masks in turn: every kernel of untuned plans."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    screens = [screen for screen in SCREENS if screen != "raw" or chip.arch != RDNA]
    found = []
    for i, screen in enumerate(screens):
        for j, (metric, dtype) in enumerate(zip(METRICS, dtypes, strict=True)):
            pairs = (i + j) % len(METRICS) == 0
            tile = _plain_tile(screen, dtype != torch.float32, pairs, chip.arch)
            held = 16 if screen in ("raw", "prepared") else MANY_SLOTS
            found.append(Variant(screen, metric, dtype, dtype, pairs, held, tile))
    return tuple(found)


def _plain_tile(screen: str, half: bool, pairs: bool, arch: int) -> Tile:
    """That of untuned plans."""
    if screen == "raw":
        return raw_tile(half, arch)
    if screen == "few codes":
        return few_tile(arch)
    tiles = fp16_tiles(arch) if screen == "prepared" else int8_tiles(WIDTH, arch)
    return masked(tiles) if pairs else tiles[0]
